//! From start to end: ready, drained by the first signal, ended by the second, and refusals at start that help.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::Server;
use serde_json::json;

fn long_request() -> serde_json::Value {
    json!({
        "model": "folio-demo", "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": true, "stream": true,
    })
}

#[test]
fn the_first_signal_lets_streams_finish() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&[]);
        assert_eq!(server.get("/ready").0, 200);
        let mut stream = server.stream("/v1/completions", &long_request());
        stream.next().expect("a first event");
        server.signal(signal);
        let last = stream.last().expect("more events, and [DONE]");
        assert_eq!(last["choices"][0]["finish_reason"], "length");
        assert!(server.wait().success(), "after SIG{signal}");
    }
}

#[test]
fn the_second_signal_ends_everything() {
    // Slow on purpose: one token per step, and more requests than it can finish before it is told twice.
    let server = Server::start(&["--max-num-batched-tokens", "1", "--max-num-seqs", "1"]);
    let mut streams: Vec<_> =
        (0..4).map(|_| server.stream("/v1/completions", &long_request())).collect();
    streams[0].next().expect("a first event");
    server.signal("TERM");
    server.signal("TERM");
    let status = server.wait();
    assert!(!status.success(), "requests were cut off, and the exit status says so: {status}");
}

#[test]
fn the_log_tells_each_request_in_one_line_of_json() {
    let folder = std::env::temp_dir().join(format!("folio-log-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (log, keys) = (folder.join("log"), folder.join("keys"));
    std::fs::write(&keys, "# for the test\n\n  sesame  \n").unwrap();
    let keys = keys.to_str().unwrap();
    let flags = ["--log-format", "json", "--api-key-file", keys];
    let server = Server::start_logging(&flags, std::fs::File::create(&log).unwrap().into());
    assert_eq!(server.get("/v1/models").0, 401, "the file's keys count");
    assert_eq!(server.get("/ready").0, 200);
    server.stop();
    let server = Server::start_logging(&flags[..2], std::fs::File::create(&log).unwrap().into());
    let body = json!({"prompt": "Once upon a secret time", "max_tokens": 5, "ignore_eos": true});
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    server.stop();
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(!text.contains("secret"), "prompts are not logged");
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<serde_json::Value> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    let told: Vec<_> = lines.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(told.len(), 1, "{text}");
    assert_eq!((&told[0]["generated_tokens"], &told[0]["finish"]), (&json!(5), &json!("length")));
}

/// Runs `folio` with arguments that cannot work and returns what it says.
fn refusal(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_folio")).args(arguments).output().expect("it runs");
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_cache_too_small_says_which_flag_to_change_to_what() {
    let said = refusal(&["serve", "--port", "0", "--kv-cache-memory-bytes", "1000"]);
    let flag =
        said.rsplit("--kv-cache-memory-bytes ").next().expect("the flag with a value").to_owned();
    let value = flag.split(|c: char| !c.is_ascii_digit()).next().expect("a value").to_owned();
    // The advice must work as it stands.
    Server::start(&["--kv-cache-memory-bytes", &value]).stop();
}

#[test]
fn refusals_at_start_name_what_is_wrong() {
    let nowhere = refusal(&["serve", "no/such/folder", "--port", "0"]);
    assert!(nowhere.contains("no/such/folder"), "{nowhere}");
    let typo = refusal(&["serve", "--max-num-seq", "4"]);
    assert!(typo.contains("--max-num-seqs"), "{typo}");
    let block = refusal(&["serve", "--block-size", "0"]);
    assert!(block.contains("1..=256"), "{block}");
    let long = refusal(&["serve", "--port", "0", "--max-model-len", "1000000"]);
    assert!(long.contains("--max-model-len"), "{long}");
}

#[test]
fn a_taken_port_is_named() {
    let server = Server::start(&[]);
    let port = server.url().rsplit(':').next().expect("a port").to_owned();
    let said = refusal(&["serve", "--port", &port]);
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
    server.stop();
}

#[test]
fn chat_and_complete_answer_on_the_terminal() {
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_folio")).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let named = run(&["chat", "--temperature", "0", "--quick", "What is your name?"]);
    assert!(named.contains("Folio"), "{named}");
    let story = run(&[
        "complete",
        "--temperature",
        "0",
        "--max-tokens",
        "12",
        "--quick",
        "Once upon a time",
    ]);
    assert!(story.starts_with("Once upon a time") && story.len() > 30, "{story}");
}

/// Standard output and error of a command that is handed `lines`.
fn piped(arguments: &[&str], lines: &str) -> (String, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = process.stdin.take().expect("its input");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    let output = process.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

#[test]
fn a_line_that_is_refused_has_not_been_said() {
    let chat = ["chat", "--temperature", "0", "--max-tokens", "8"];
    let long = "cat ".repeat(600);
    let (alone, said) = piped(&chat, "Hi\nWho are you?\n");
    assert!(said.is_empty(), "{said}");
    let (with_long, said) = piped(&chat, &format!("Hi\n{long}\nWho are you?\n"));
    assert_eq!(with_long, alone);
    assert!(said.contains("the context is 512"), "{said}");
    // Continuations begin with the line.
    let (continued, said) = piped(&["complete", "--max-tokens", "1"], &format!("{long}\nOnce\n"));
    assert!(said.contains("the context is 512"), "{said}");
    assert_eq!(continued.lines().count(), 2);
}
