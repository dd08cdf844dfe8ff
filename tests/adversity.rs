//! What happens around a server: clients are killed, the disk refuses, nobody reads what it prints, descriptors run out. It
//! serves on.
#![allow(clippy::print_stdout, reason = "who reads the results must see what was skipped")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::{Random, Server};
use serde_json::{Value, json};

const COMPLETE: &str = "/v1/completions";

fn short() -> Value {
    json!({"prompt": "Once upon a time", "max_tokens": 4})
}

/// A pipe that nobody reads from.
fn unread() -> (PipeReader, Stdio) {
    let (reader, writer) = pipe().unwrap();
    (reader, writer.into())
}

#[test]
fn nobody_listens_on_standard_output() {
    let (reader, output) = unread();
    drop(reader);
    let server = Server::start_at_a_known_port(output);
    assert_eq!(server.post(COMPLETE, &short()).0, 200);
    server.stop();
}

#[test]
fn nobody_listens_on_standard_error() {
    let (reader, log) = unread();
    drop(reader);
    let server = Server::start_logging(&[], log);
    assert_eq!(server.post(COMPLETE, &short()).0, 200);
    server.stop();
}

#[test]
fn nobody_reads_the_log_and_its_pipe_is_full() {
    // Kept, so that the pipe fills up instead of breaking.
    let (reader, log) = unread();
    let server = Server::start_logging(&["--log-format", "json"], log);
    // A pipe holds 64 KiB, a line has some 500 bytes.
    for _ in 0..400 {
        assert_eq!(server.post(COMPLETE, &json!({"prompt": "Once", "max_tokens": 1})).0, 200);
    }
    server.assert_nothing_leaked();
    server.stop();
    drop(reader);
}

/// Kills it at once, and waits until it is gone.
fn kill(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_client_that_is_killed_takes_its_requests_along() {
    let server = Server::start(&[]);
    let canary =
        json!({"prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": true, "seed": 1});
    let expected = server.post(COMPLETE, &canary).1["choices"].clone();
    for _ in 0..3 {
        let client = Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["bench", "serve", "--base-url", server.url(), "--num-prompts", "64"])
            .args(["--random-input-len", "20", "--random-output-len", "400", "--ignore-eos"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while server.metric("vllm:num_requests_running") < 8.0 {
            std::thread::yield_now();
        }
        kill(client);
        assert_eq!(server.post(COMPLETE, &canary).1["choices"], expected);
        server.assert_nothing_leaked();
    }
    server.stop();
}

/// Changes a limit of a running process; `false` where there is no tool for it.
fn limit(server: &Server, what: &str) -> bool {
    let id = server.id().to_string();
    let Ok(set) = Command::new("prlimit").args(["--pid", &id, what]).status() else {
        println!("skipped: prlimit is not there");
        return false;
    };
    assert!(set.success());
    true
}

/// Requests that do not fit into a tight cache together.
fn crowd() -> Vec<Value> {
    let mut random = Random(9);
    let request = |seed: u64| {
        let prompt: Vec<u64> =
            (0..random.between(60, 150)).map(|_| random.between(300, 1000)).collect();
        json!({"prompt": prompt, "max_tokens": 120, "ignore_eos": true, "temperature": 1, "seed": seed})
    };
    (0..24).map(request).collect()
}

fn text(server: &Server, body: &Value) -> Value {
    let (status, answer) = server.post(COMPLETE, body);
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["text"].clone()
}

#[test]
fn a_disk_that_takes_no_more_costs_time_and_no_answer() {
    let folder = std::env::temp_dir();
    let swap = ["--swap-dir", folder.to_str().unwrap(), "--preemption-mode", "swap"];
    let tight = ["--block-size", "8", "--max-model-len", "512", "--kv-cache-memory-bytes", "1M"];
    let server = Server::start(&[&tight[..], &swap[..]].concat());
    let bodies = crowd();
    let alone: Vec<Value> = bodies.iter().map(|body| text(&server, body)).collect();
    // From here on every write to the swap file fails.
    if !limit(&server, "--fsize=4096") {
        return;
    }
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            bodies.iter().map(|body| scope.spawn(|| text(&server, body))).collect();
        let together: Vec<Value> =
            clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert_eq!(together, alone);
    });
    assert!(server.metric("folio:preemptions_by_swap_total") > 0.0);
    assert!(server.metric("folio:swap_slots_lost_total") > 0.0, "the disk took everything");
    server.assert_nothing_leaked();
    assert_eq!(server.metric("vllm:cpu_cache_usage_perc"), 0.0);
    server.stop();
}

#[test]
fn without_file_descriptors_connections_wait() {
    let server = Server::start(&[]);
    let before = text(&server, &short());
    if !limit(&server, "--nofile=40:40") {
        return;
    }
    let port = server.url().rsplit(':').next().unwrap().parse::<u16>().unwrap();
    // More than it can accept; those behind wait in the kernel's queue.
    let idle: Vec<TcpStream> =
        (0..80).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    drop(idle);
    assert_eq!(text(&server, &short()), before);
    server.stop();
}

#[test]
fn a_swap_file_that_does_not_fit_on_the_disk_is_refused_at_start() {
    let folder = std::env::temp_dir();
    let mut server = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" serve --port 0 --swap-space 8M --swap-dir \"$1\""])
        .args([env!("CARGO_BIN_EXE_folio"), folder.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said: Vec<String> =
        BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(!server.wait().unwrap().success());
    let last = said.last().unwrap();
    assert!(last.contains("--swap-dir") && last.contains("--swap-space"), "{last}");
}
