//! Running a server: who may come in, and how it behaves when clients or operators leave.

use std::time::Duration;

use crate::common::http::{Listening, get, idle, post, raw, request};
use crate::common::metrics::parse_metrics;
use crate::common::{Server, Setup};
use folio_server::{Ending, Limits};
use folio_sim::Gate;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

fn long(stream: bool) -> Value {
    json!({"prompt": "no script", "max_tokens": 200, "stream": stream})
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_guard_everything_but_health() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["first".to_owned(), "second".to_owned()];
    let server = Server::with(setup).await;
    let ask = async |method: &str, path: &str, key: &str| {
        let header =
            if key.is_empty() { String::new() } else { format!("authorization: {key}\r\n") };
        request(server.address, method, path, &header, "").await
    };
    for path in ["/health", "/ready", "/ping"] {
        assert_eq!(ask("GET", path, "").await.status, 200, "{path}");
    }
    let guarded = [
        "/v1/models",
        "/metrics",
        "/version",
        "/nothing",
        "//v1/models",
        "/V1/models",
        "/health/",
        "/%68ealth",
    ];
    for path in guarded {
        for key in ["", "Bearer wrong", "Bearer firs", "first", "Basic first"] {
            let answer = ask("GET", path, key).await;
            assert_eq!(answer.status, 401, "{path} with {key:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert_eq!(answer.json()["error"]["type"], "AuthenticationError");
        }
    }
    for method in ["POST", "PUT", "OPTIONS", "DELETE"] {
        assert_eq!(ask(method, CHAT, "").await.status, 401, "{method}");
    }
    for key in ["Bearer first", "bearer second"] {
        assert_eq!(ask("GET", "/v1/models", key).await.status, 200);
        assert_eq!(ask("GET", "/nothing", key).await.status, 404);
    }
    // The target's absolute form is another spelling of the same path, for the router and for the guard.
    let absolute = b"GET http://test/v1/models HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(server.address, absolute).await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_http_have_the_shape_of_all_errors() {
    let mut setup = Setup::default();
    setup.config.limits = Limits { body_bytes: 4096, ..Limits::default() };
    let server = Server::with(setup).await;
    let json = "content-type: application/json\r\n";
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(10_000));
    let cases = [
        ("GET", "/", "", "", 404, "NotFoundError"),
        ("GET", "/v1/nothing", "", "", 404, "NotFoundError"),
        ("GET", "/v1/models/other", "", "", 404, "NotFoundError"),
        ("GET", "/v1/models/%ff", "", "", 404, "NotFoundError"),
        ("POST", "/v1/completions/", json, "{}", 404, "NotFoundError"),
        ("GET", COMPLETE, "", "", 405, "MethodNotAllowedError"),
        ("DELETE", "/v1/models", "", "", 405, "MethodNotAllowedError"),
        ("POST", COMPLETE, json, large.as_str(), 413, "PayloadTooLargeError"),
        ("POST", COMPLETE, "", "{}", 415, "UnsupportedMediaTypeError"),
        ("POST", COMPLETE, "content-type: text/plain\r\n", "{}", 415, "UnsupportedMediaTypeError"),
        (
            "POST",
            COMPLETE,
            "content-type: Application/JSON; charset=utf-8\r\n",
            "{}",
            400,
            "BadRequestError",
        ),
    ];
    for (method, path, headers, body, status, kind) in cases {
        let answer = request(server.address, method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.json()["error"]["type"], kind, "{method} {path}");
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 32));
    }
    let chunked = format!(
        "POST {COMPLETE} HTTP/1.1\r\nhost: t\r\n{json}connection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    assert_eq!(raw(server.address, chunked.as_bytes()).await.status, 413);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_in_the_wrong_place_is_told_where_to_ask() {
    let server = Server::start().await;
    let cases = [
        ("POST", "/chat/completions", "did you mean `/v1/chat/completions`?"),
        ("POST", "/v1/v1/chat/completions", "did you mean `/v1/chat/completions`?"),
        ("POST", "/v1/chat/completions/", "did you mean `/v1/chat/completions`?"),
        ("POST", "/V1/Completion", "did you mean `/v1/completions`?"),
        ("GET", "/models", "did you mean `/v1/models`?"),
        ("GET", "/v1/metrics", "did you mean `/metrics`?"),
        ("GET", "/healthz", "did you mean `/health`?"),
        ("POST", "/v1/embeddings", "`/docs` lists"),
        ("GET", "/", "`/docs` lists"),
        ("GET", COMPLETE, "but to POST"),
        ("POST", "/metrics", "but to GET"),
        ("DELETE", "/v1/responses/resp_1", "but to GET"),
        ("PUT", "/ping", "but to GET and POST"),
    ];
    for (method, path, hint) in cases {
        let answer = request(server.address, method, path, "", "").await;
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(hint), "{method} {path}: {message}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_a_decent_id_and_gets_one_for_a_bad_one() {
    let server = Server::start().await;
    let id = async |header: &str| {
        let answer = request(server.address, "GET", "/version", header, "").await;
        answer.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(id("x-request-id: client-7\r\n").await, "client-7");
    let long = format!("x-request-id: {}\r\n", "a".repeat(129));
    for bad in ["", "x-request-id: a b\r\n", "x-request-id: é\r\n", long.as_str()] {
        assert_eq!(id(bad).await.len(), 32, "{bad:?}");
    }
    assert_ne!(id("").await, id("").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_in_number_size_and_time() {
    let server = Server::start().await;
    let many: String = (0..2_300).map(|i| format!("h{i}: x\r\n")).collect();
    assert_eq!(request(server.address, "GET", "/health", &many, "").await.status, 431);
    let large = format!("large: {}\r\n", "x".repeat(5 << 20));
    assert_eq!(request(server.address, "GET", "/health", &large, "").await.status, 431);
    server.stop().await;
    // A head that never ends: the connection does.
    let mut setup = Setup::default();
    setup.config.limits = Limits { head_time: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(setup).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: t\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_comes_is_answered() {
    let mut setup = Setup::default();
    setup.config.limits = Limits { body_time: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(setup).await;
    let head = format!(
        "POST {COMPLETE} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    );
    let answer = raw(server.address, head.as_bytes()).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["type"].clone()),
        (408, json!("RequestTimeoutError"))
    );
    server.stop().await;
}

/// Requests of every kind that can be cut off, and how many events to wait for before cutting.
fn to_be_cut() -> Vec<(Value, usize)> {
    vec![
        (long(true), 1),
        (long(true), 0),
        (long(false), 0),
        (
            json!({"prompt": ["no script", "none either"], "n": 3, "max_tokens": 200, "stream": true}),
            2,
        ),
    ]
}

/// Choices that nobody waited for.
async fn aborted(server: &Server) -> f64 {
    let page = parse_metrics(&get(server.address, "/metrics").await.body);
    let of = page.iter().filter(|((name, labels), _)| {
        name == "vllm:request_success_total" && labels["finished_reason"] == "abort"
    });
    of.map(|(_, value)| value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_takes_its_request_along() {
    for (body, events) in to_be_cut() {
        let gate = Gate::closed();
        let server = Server::with(Setup { gate: Some(gate.clone()), ..Setup::default() }).await;
        let mut listening = Listening::open(server.address, COMPLETE, &body).await;
        // The engine is in the middle of a step, so the request is certainly there.
        gate.allow(20);
        listening.events(events).await;
        let waiting = gate.clone();
        tokio::task::spawn_blocking(move || waiting.wait_for_arrivals(1)).await.unwrap();
        drop(listening);
        // The engine stands in the middle of a step until the server has noticed, so the request cannot just finish.
        while aborted(&server).await == 0.0 {
            tokio::task::yield_now().await;
        }
        gate.open();
        server.assert_nothing_leaked().await;
        let totals = server.engine.snapshot().stats.totals;
        assert!(totals.aborted > 0 && totals.ended == 0, "{body}: {totals:?}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_request_in_the_engine() {
    let server = Server::start().await;
    let body = json!({"prompt": "[a stop, and much more that nobody will read]>", "max_tokens": 200, "stop": "stop"});
    assert_eq!(post(server.address, COMPLETE, &body).await.json()["choices"][0]["text"], "a ");
    server.assert_nothing_leaked().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_when_to_come_back() {
    let gate = Gate::closed();
    let setup = Setup { gate: Some(gate.clone()), max_queued: 2, ..Setup::default() };
    let server = Server::with(setup).await;
    let mut first = Listening::open(server.address, COMPLETE, &long(true)).await;
    gate.allow(1);
    first.events(1).await;
    let second = Listening::open(server.address, COMPLETE, &long(true)).await;
    while server.engine.snapshot().requests < 2 {
        tokio::task::yield_now().await;
    }
    let answer = post(server.address, COMPLETE, &long(false)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{}", answer.body);
    let error = &answer.json()["error"];
    assert_eq!(error["type"], "RateLimitError");
    assert!(error["message"].as_str().unwrap().contains("at most 2"), "{error}");
    // One waits already; nothing has been measured yet.
    assert_eq!(
        (&error["queue_position"], &error["estimated_wait_seconds"]),
        (&json!(2), &json!(2.0))
    );
    assert_eq!(get(server.address, "/load").await.json()["server_load"], 2);
    let two = post(server.address, COMPLETE, &json!({"prompt": ["a", "b"]})).await;
    assert_eq!(two.status, 429, "two would fit into an empty server");
    gate.open();
    first.finish().await.events(true);
    second.finish().await.events(true);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_lets_streams_finish_and_refuses_new_ones() {
    let gate = Gate::closed();
    let server = Server::with(Setup { gate: Some(gate.clone()), ..Setup::default() }).await;
    assert_eq!(get(server.address, "/ready").await.status, 200);
    let mut running = Listening::open(server.address, COMPLETE, &long(true)).await;
    gate.allow(2);
    running.events(1).await;
    server.signal().await;
    while get(server.address, "/ready").await.status == 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(server.address, "/ready").await.status, 503);
    assert_eq!(get(server.address, "/health").await.status, 200, "it is alive, and works");
    let refused = post(server.address, COMPLETE, &long(false)).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["type"].clone()),
        (503, json!("ServiceUnavailableError"))
    );
    gate.open();
    let events = running.finish().await.events(true);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(server.ended().await, Ending::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_ends_everything_and_streams_hear_why() {
    let gate = Gate::closed();
    let server = Server::with(Setup { gate: Some(gate.clone()), ..Setup::default() }).await;
    let mut running = Listening::open(server.address, COMPLETE, &long(true)).await;
    gate.allow(2);
    running.events(1).await;
    let mut idle = idle(server.address).await;
    server.signal().await;
    server.signal().await;
    // The engine stands in the middle of a step until the server has told it; idle connections are closed after that.
    assert_eq!(idle.read(&mut [0]).await.expect("a clean end"), 0);
    let reading = tokio::spawn(running.finish());
    gate.open();
    assert_eq!(server.ended().await, Ending::Aborted);
    let events = reading.await.unwrap().events(false);
    let last = events.last().expect("a reason");
    assert!(
        last["error"]["message"].as_str().is_some_and(|m| m.contains("shutting down")),
        "{last}"
    );
}
