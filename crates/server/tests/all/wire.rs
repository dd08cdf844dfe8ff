//! Bytes on a connection that are not, or not quite, requests: `hostile/wire.jsonl`, a case per line, and clients that leave
//! or stop reading at any moment.
//!
//! `send` are pieces as in `hostile.rs`; the first answer must have one of the `status`es, `null` for none at all; there may
//! be so many `answers`. With `keyed` the server asks for a key.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use crate::common::data::{bytes, cases};
use crate::common::http::{Listening, get, post};
use crate::common::{Server, Setup};
use folio_server::Limits;
use folio_sim::Gate;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COMPLETE: &str = "/v1/completions";

/// Everything that comes back until the server closes.
async fn answers(address: SocketAddr, sent: &[u8]) -> String {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let mut answer = Vec::new();
    // Both at once: a server may answer, or close, before it has read everything.
    let _ = tokio::join!(write.write_all(sent), read.read_to_end(&mut answer));
    String::from_utf8(answer).expect("answers are text")
}

fn wrong(case: &Value, answer: &str) -> Option<String> {
    let statuses: Vec<Value> = answer
        .split("HTTP/1.1 ")
        .chain(answer.split("HTTP/1.0 ").skip(1))
        .skip(1)
        .map(|rest| json!(rest[..3].parse::<u16>().unwrap()))
        .collect();
    let first = statuses.first().unwrap_or(&Value::Null);
    if !case["status"].as_array().unwrap().contains(first) {
        return Some(format!("status {first}"));
    }
    let most = case["answers"].as_u64().unwrap_or(1);
    let count = u64::try_from(statuses.len()).unwrap();
    if count > most || (most > 2 && count < most) {
        return Some(format!("{count} answers"));
    }
    statuses
        .iter()
        .any(|status| status.as_u64() >= Some(500))
        .then(|| "the server failed".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_over_a_connection_is_answered_or_closed() {
    const SHORT: Duration = Duration::from_millis(200);
    let limits =
        Limits { head_time: SHORT, body_time: SHORT, body_bytes: 1 << 16, ..Limits::default() };
    let setup = |keys: &[&str]| {
        let mut setup = Setup::default();
        setup.config.limits = limits;
        setup.config.api_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        setup
    };
    let open = Server::with(setup(&[])).await;
    let keyed = Server::with(setup(&["first", "second"])).await;
    let mut found = String::new();
    // Together, since some end only when the server's patience does.
    let mut running = tokio::task::JoinSet::new();
    for case in cases("wire") {
        let address = if case["keyed"] == true { keyed.address } else { open.address };
        running.spawn(async move {
            let sent: Vec<u8> = case["send"].as_array().unwrap().iter().flat_map(bytes).collect();
            let answer = answers(address, &sent).await;
            wrong(&case, &answer).map(|problem| (problem, case, answer))
        });
    }
    while let Some(done) = running.join_next().await {
        if let Some((problem, case, answer)) = done.unwrap() {
            let said: String = answer.chars().take(300).collect();
            writeln!(found, "{problem}\n  case {case}\n  said {said:?}").unwrap();
        }
    }
    assert!(found.is_empty(), "{found}");
    open.stop().await;
    keyed.stop().await;
}

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// In order.
    Closing,
    /// With a reset, as the kernel does for a process that was killed with data unread.
    Resetting,
    /// Says that it will send no more, and keeps the connection.
    HalfClosing,
}

/// How far a request has come when its client goes.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Connected,
    Head,
    Body,
    Queued,
    Prefill,
    Decode,
    Streaming,
}

async fn leave(mut stream: TcpStream, leaving: Leaving) -> Option<TcpStream> {
    match leaving {
        Leaving::Closing => None,
        Leaving::Resetting => {
            stream.set_zero_linger().unwrap();
            None
        }
        Leaving::HalfClosing => {
            stream.shutdown().await.unwrap();
            Some(stream)
        }
    }
}

async fn go_in(phase: Phase, leaving: Leaving) {
    let gate = Gate::closed();
    let mut setup = Setup { gate: Some(gate.clone()), ..Setup::default() };
    setup.config.limits.head_time = Duration::from_secs(1);
    let server = Server::with(setup).await;
    let streamed = matches!(phase, Phase::Streaming);
    // Four steps of prefill.
    let body = json!({"prompt": "x".repeat(200), "max_tokens": 50, "n": 4, "stream": streamed})
        .to_string();
    let whole = format!(
        "POST {COMPLETE} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sent = match phase {
        Phase::Connected => 0,
        Phase::Head => 30,
        Phase::Body => whole.len() - 20,
        _ => whole.len(),
    };
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&whole.as_bytes()[..sent]).await.unwrap();
    let steps = match phase {
        Phase::Connected | Phase::Head | Phase::Body => None,
        Phase::Queued => Some(0),
        Phase::Prefill => Some(2),
        Phase::Decode | Phase::Streaming => Some(8),
    };
    if let Some(steps) = steps {
        gate.allow(steps);
        let waiting = gate.clone();
        tokio::task::spawn_blocking(move || waiting.wait_for_arrivals(steps + 1)).await.unwrap();
    }
    if streamed {
        assert!(stream.read(&mut [0; 100]).await.unwrap() > 0);
    }
    let kept = leave(stream, leaving).await;
    gate.open();
    server.assert_nothing_leaked().await;
    assert_eq!(post(server.address, COMPLETE, &json!({"prompt": "[ok]>"})).await.status, 200);
    drop(kept);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_leave_at_any_moment() {
    use Phase::{Body, Connected, Decode, Head, Prefill, Queued, Streaming};
    for phase in [Connected, Head, Body, Queued, Prefill, Decode, Streaming] {
        for leaving in [Leaving::Closing, Leaving::Resetting, Leaving::HalfClosing] {
            go_in(phase, leaving).await;
        }
    }
}

/// Megabytes that nobody takes: the connection is closed, the request goes with it, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_nothing_for_ever() {
    let mut setup = Setup::default();
    setup.config.limits.write_time = Duration::from_millis(100);
    let server = Server::with(setup).await;
    let greedy = json!({
        "prompt": vec!["never read"; 16], "n": 4, "max_tokens": 200, "stream": true, "logprobs": 20, "return_token_ids": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
    });
    let silent = Listening::open(server.address, COMPLETE, &greedy).await;
    assert_eq!(post(server.address, COMPLETE, &json!({"prompt": "[ok]>"})).await.status, 200);
    server.assert_nothing_leaked().await;
    assert_eq!(get(server.address, "/health").await.status, 200);
    drop(silent);
    server.stop().await;
}
