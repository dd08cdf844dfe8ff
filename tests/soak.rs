//! Many clients for long, of whom a third hang up, some read slowly, and all together are more than the queue holds.
//!
//! `cargo xtask soak` runs it at full size against the release binary; here a small part of it runs each time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Random, Server};
use serde_json::{Value, json};

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    ended: u64,
    hung_up: u64,
    refused: u64,
}

/// How a client behaves once its request is accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Patient,
    Slow,
    /// Reads so many bytes.
    HangsUp(u64),
}

fn request(random: &mut Random) -> (&'static str, Value) {
    let prompt = "Once upon a time there was a ".repeat(random.between(1, 8).try_into().unwrap());
    let messages = json!([{"role": "user", "content": prompt}]);
    let most = random.between(1, 12);
    let (path, mut body) = match random.below(8) {
        0 => ("/v1/messages", json!({"messages": messages, "max_tokens": most})),
        1 => ("/v1/responses", json!({"input": prompt, "max_output_tokens": most})),
        2 | 3 => ("/v1/chat/completions", json!({"messages": messages, "max_tokens": most})),
        4 => ("/v1/completions", json!({"prompt": prompt, "max_tokens": most, "n": 3})),
        5 => (
            "/v1/completions",
            json!({"prompt": prompt, "max_tokens": most, "use_beam_search": true, "n": 2}),
        ),
        _ => ("/v1/completions", json!({"prompt": prompt, "max_tokens": most, "logprobs": 5})),
    };
    body["stream"] = json!(random.below(3) > 0);
    (path, body)
}

/// Reads an answer as `manner` has it; whether it was read to its end.
fn read(mut answer: impl Read, manner: Manner, stream: bool) -> bool {
    let mut text = Vec::new();
    if let Manner::HangsUp(bytes) = manner {
        let _ = answer.take(bytes).read_to_end(&mut text);
        return false;
    }
    let mut buffer = [0; 512];
    loop {
        match answer.read(&mut buffer).expect("the answer goes on") {
            0 => break,
            read => text.extend_from_slice(&buffer[..read]),
        }
        if manner == Manner::Slow {
            // Nothing waits for this: a reader that is slower than the model is what is tried.
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    let text = String::from_utf8(text).expect("text");
    let last = text.trim_end().lines().last().unwrap_or_default();
    if stream {
        // Each endpoint's own last word.
        let ends = ["data: [DONE]", "\"type\":\"message_stop\"", "\"type\":\"response."];
        assert!(ends.iter().any(|end| last.contains(end)), "a stream ended with {last}");
    } else {
        serde_json::from_str::<Value>(&text).expect("a whole answer");
    }
    true
}

fn visit(server: &Server, random: &mut Random, tally: &Mutex<Tally>) {
    let (path, body) = request(random);
    let manner = match random.below(9) {
        0..3 => Manner::HangsUp(random.below(2_000)),
        3 => Manner::Slow,
        _ => Manner::Patient,
    };
    let answer = server.send(path, &body.to_string());
    let status = answer.status().as_u16();
    if status != 200 {
        let wait =
            answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse::<u64>());
        let text = answer.into_body().read_to_string().expect("text");
        assert!(status == 429 || status == 503, "{status}: {text}");
        assert!(matches!(wait, Some(Ok(seconds)) if seconds > 0), "{status} without Retry-After");
        tally.lock().unwrap().refused += 1;
        // Shorter than it was told, or the storm would be over in a moment's refusals.
        std::thread::sleep(Duration::from_millis(random.below(200)));
        return;
    }
    let ended = read(answer.into_body().into_reader(), manner, body["stream"] == true);
    let mut tally = tally.lock().unwrap();
    *(if ended { &mut tally.ended } else { &mut tally.hung_up }) += 1;
}

/// Lets `clients` make `requests` requests between them.
fn storm(server: &Server, clients: u64, requests: u64, seed: u64) -> Tally {
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (next, tally) = (&next, &tally);
            scope.spawn(move || {
                let mut random = Random(seed << 32 | client);
                while next.fetch_add(1, Ordering::Relaxed) < requests {
                    visit(server, &mut random, tally);
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

#[test]
fn a_long_storm_leaves_the_server_as_it_was() {
    let clients = setting("FOLIO_SOAK_CLIENTS", 40);
    let requests = setting("FOLIO_SOAK_REQUESTS", 300);
    // Together with those that run fewer than there are clients.
    let (running, queue) = ((clients / 5).to_string(), (clients / 2).to_string());
    let few = ["--max-num-seqs", &running, "--max-num-queued-reqs", &queue];
    // All of the cache's memory is touched early.
    let small = ["--kv-cache-memory-bytes", "8M"];
    let server = Server::start(&[&few[..], &small[..]].concat());
    let mut resident = Vec::new();
    let mut all = Tally::default();
    for part in 0..5 {
        let tally = storm(&server, clients, requests / 5, part);
        server.assert_nothing_leaked();
        resident.push(server.resident_bytes() >> 10);
        all.ended += tally.ended;
        all.hung_up += tally.hung_up;
        all.refused += tally.refused;
    }
    println!("{clients} clients: {all:?}; KiB resident after each fifth: {resident:?}");
    assert!(all.ended > 0 && all.hung_up > 0 && all.refused > 0, "{all:?}");
    // After the first part everything has been used once, and what is there then should do.
    assert!(resident[4] < resident[0] + resident[0] / 5, "{resident:?} KiB");
    let body = json!({"prompt": "Once", "max_tokens": 3});
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    server.stop();
}
