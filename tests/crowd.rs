//! Many clients at once over a KV cache that is far too small for them: everybody is served, and nobody's tokens depend on
//! anybody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Random, Server, Stream};
use serde_json::{Value, json};

/// Blocks of 8 tokens; one long request nearly fills the cache, 64 want in.
const TIGHT: [&str; 8] = [
    "--block-size",
    "8",
    "--max-model-len",
    "512",
    "--kv-cache-memory-bytes",
    KV_BYTES,
    "--max-num-batched-tokens",
    "96",
];
const KV_BYTES: &str = "1M";
const CLIENTS: u64 = 64;

/// Requests with prompts of 8 to 200 tokens, 16 to 200 tokens of output, and all ways to decode.
fn requests(seed: u64) -> Vec<Value> {
    let mut random = Random(seed);
    (0..CLIENTS)
        .map(|i| {
            let length = random.between(8, 200);
            // Every third prompt shares its beginning with others, so that cached blocks are in play, too.
            let shared = if i % 3 == 0 { length / 2 } else { 0 };
            let prompt: Vec<u64> = (0..length)
                .map(|p| if p < shared { 300 + p % 50 } else { random.between(300, 1000) })
                .collect();
            let temperatures = [0.0, 0.5, 1.0, 1.5];
            let temperature = temperatures[usize::try_from(random.below(4)).unwrap()];
            let mut body = json!({
                "model": "folio-demo", "prompt": prompt, "stream": true, "ignore_eos": true,
                "max_tokens": random.between(16, 200), "seed": i, "temperature": temperature,
            });
            match random.below(8) {
                0 => body["top_p"] = json!(0.9),
                1 => body["top_k"] = json!(20),
                2 => body["min_p"] = json!(0.05),
                3 => body["frequency_penalty"] = json!(0.5),
                4 => body["n"] = json!(2),
                5 => (body["best_of"], body["n"]) = (json!(3), json!(2)),
                _ => {
                    body["temperature"] = json!(0.0);
                    body["use_beam_search"] = json!(true);
                    (body["beam_width"], body["n"]) = (json!(4), json!(2));
                    body["length_penalty"] = json!(0.5);
                    body["max_tokens"] = json!(random.between(8, 60));
                }
            }
            body
        })
        .collect()
}

/// The text of each choice.
fn outputs(server: &Server, body: &Value) -> Vec<String> {
    read(server.stream("/v1/completions", body), body)
}

fn read(stream: Stream, body: &Value) -> Vec<String> {
    let mut texts = vec![String::new(); usize::try_from(body["n"].as_u64().unwrap_or(1)).unwrap()];
    let mut finished = 0;
    for event in stream {
        for choice in event["choices"].as_array().expect("choices") {
            let index = usize::try_from(choice["index"].as_u64().expect("an index")).unwrap();
            texts[index].push_str(choice["text"].as_str().expect("text"));
            if let Some(reason) = choice["finish_reason"].as_str() {
                assert_eq!(reason, "length", "{body}");
                finished += 1;
            }
        }
    }
    assert_eq!(finished, texts.len(), "{body}");
    texts
}

#[test]
fn a_crowd_in_a_tight_cache_gets_what_each_gets_alone() {
    let tight = Server::start(&TIGHT);
    let bodies = requests(1);
    let together: Vec<Vec<String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = bodies.iter().map(|b| scope.spawn(|| outputs(&tight, b))).collect();
        clients.into_iter().map(|c| c.join().expect("a client")).collect()
    });
    let preemptions = tight.metric("vllm:num_preemptions_total");
    assert!(
        preemptions >= 30.0,
        "only {preemptions} preemptions: the cache is too large for this test"
    );
    tight.assert_nothing_leaked();
    tight.stop();

    // Alone, one after the other, without prefix cache, in a cache and with chunks of another shape.
    let roomy = Server::start(&[
        "--no-enable-prefix-caching",
        "--block-size",
        "32",
        "--max-num-batched-tokens",
        "512",
    ]);
    for (body, crowd) in bodies.iter().zip(&together) {
        assert_eq!(&outputs(&roomy, body), crowd, "{body}");
    }
    roomy.stop();
}

/// Preempted requests wait on disk.
fn tight_with_swap(folder: &str) -> Vec<&str> {
    let mut flags = TIGHT.to_vec();
    flags.extend(["--swap-dir", folder, "--preemption-mode", "swap"]);
    flags
}

#[test]
fn a_crowd_that_is_swapped_to_disk_gets_what_each_gets_alone() {
    let folder = std::env::temp_dir();
    let tight = Server::start(&tight_with_swap(folder.to_str().expect("a path in Unicode")));
    let bodies = requests(3);
    let together: Vec<Vec<String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = bodies.iter().map(|b| scope.spawn(|| outputs(&tight, b))).collect();
        clients.into_iter().map(|c| c.join().expect("a client")).collect()
    });
    let swaps = tight.metric("folio:preemptions_by_swap_total");
    assert!(swaps >= 20.0, "only {swaps} swaps: the cache is too large for this test");
    assert!(tight.metric("folio:swap_blocks_in_total") > 0.0);
    tight.assert_nothing_leaked();
    assert_eq!(tight.metric("vllm:cpu_cache_usage_perc"), 0.0, "slots leaked");
    // The same once more, one after the other.
    for (body, crowd) in bodies.iter().zip(&together) {
        assert_eq!(&outputs(&tight, body), crowd, "{body}");
    }
    tight.stop();
}

#[test]
fn a_signal_while_requests_are_swapped_out_lets_them_finish() {
    let folder = std::env::temp_dir();
    let server = Server::start(&tight_with_swap(folder.to_str().expect("a path in Unicode")));
    let bodies = requests(4);
    let (bodies, canary) = (&bodies[..24], &bodies[0]);
    let expected = outputs(&server, canary);
    std::thread::scope(|scope| {
        // All are accepted before the signal comes.
        let streams = bodies.iter().map(|body| (server.stream("/v1/completions", body), body));
        let streams: Vec<_> = streams.collect();
        let clients: Vec<_> = streams
            .into_iter()
            .map(|(stream, body)| scope.spawn(move || read(stream, body)))
            .collect();
        // Whoever looks may miss the first ones, but not all.
        while server.metric("vllm:num_requests_swapped") == 0.0
            && server.metric("folio:preemptions_by_swap_total") < 5.0
            && server.metric("vllm:num_requests_running") > 0.0
        {
            std::thread::yield_now();
        }
        assert!(server.metric("folio:preemptions_by_swap_total") > 0.0, "nobody was swapped");
        server.signal("TERM");
        let outputs: Vec<_> = clients.into_iter().map(|c| c.join().expect("a client")).collect();
        assert_eq!(outputs[0], expected);
    });
    assert!(server.wait().success());
}

#[test]
fn clients_that_hang_up_leave_nothing_behind_and_disturb_nobody() {
    let server = Server::start(&TIGHT);
    let bodies = requests(2);
    let canary = &bodies[0];
    let expected = outputs(&server, canary);
    std::thread::scope(|scope| {
        for (i, body) in bodies.iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random(i as u64);
                let stay = usize::try_from(random.below(40)).unwrap();
                // Some are gone before the first token, some in the middle; reading fewer events and dropping hangs up.
                let _ = server.stream("/v1/completions", body).take(stay).count();
            });
        }
        let during = scope.spawn(|| outputs(&server, canary));
        assert_eq!(during.join().expect("the canary"), expected);
    });
    server.assert_nothing_leaked();
    server.stop();
}
