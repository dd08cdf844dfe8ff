//! What whoever runs the server asks of it by flags: spans to a collector, KV events, encryption.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;

use common::authority::Authority;
use common::{Folder, Server};
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// Reads one POST and answers it.
fn receive(stream: impl Read + Write) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).unwrap() > 2 {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    reader.into_inner().write_all(answer).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

#[test]
fn a_collector_gets_a_span_for_each_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let collector = std::thread::spawn(move || receive(listener.accept().unwrap().0));
    let server = Server::start(&["--otlp-traces-endpoint", &endpoint]);
    let body = json!({ "prompt": "Once upon a time", "max_tokens": 5, "ignore_eos": true });
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    server.stop();
    let (head, message) = collector.join().unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    let resource = &message["resourceSpans"][0];
    let service = json!({ "key": "service.name", "value": { "stringValue": "folio" } });
    assert_eq!(resource["resource"]["attributes"], json!([service]));
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!((&span["name"], &span["kind"]), (&json!("llm_request"), &json!(2)));
    let nanoseconds = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(nanoseconds("startTimeUnixNano") < nanoseconds("endTimeUnixNano"));
    assert_eq!(span["traceId"].as_str().map(str::len), Some(32));
    let tokens = json!({ "key": "gen_ai.usage.completion_tokens", "value": { "intValue": "5" } });
    assert!(span["attributes"].as_array().unwrap().contains(&tokens), "{span}");
}

#[test]
fn a_collector_may_have_a_certificate_of_ones_own_and_be_on_this_side_of_the_proxy() {
    let folder = Folder::new("collector");
    let authority = Authority::new();
    let file = authority.file(&folder.0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://localhost:{}/v1/traces", listener.local_addr().unwrap().port());
    let tls = ServerConnection::new(authority.host("localhost").unwrap()).unwrap();
    let collector =
        std::thread::spawn(move || receive(StreamOwned::new(tls, listener.accept().unwrap().0)));
    let variables = [
        ("SSL_CERT_FILE", file.as_str()),
        ("https_proxy", "http://127.0.0.1:1"),
        ("no_proxy", "example.org, localhost"),
    ];
    let server = Server::start_in(&["--otlp-traces-endpoint", &endpoint], &variables);
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": "Hi", "max_tokens": 1 })).0, 200);
    server.stop();
    let (_, message) = collector.join().unwrap();
    assert_eq!(message["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "llm_request");
}

#[test]
fn a_collector_that_is_away_costs_nothing_but_spans() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(&["--otlp-traces-endpoint", &format!("http://{nobody}/")]);
    let body = json!({ "prompt": "Once", "max_tokens": 1 });
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    server.stop();
}

#[test]
fn kv_events_are_told_where_that_is_asked_for() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = json!({ "enable_kv_cache_events": true, "endpoint": format!("tcp://{nobody}") })
        .to_string();
    let server = Server::start(&["--kv-events-config", &config]);
    // Some blocks long.
    let prompt = "Once upon a time there was a server that told what it had. ".repeat(8);
    let body = json!({ "prompt": prompt, "max_tokens": 1 });
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    assert!(server.metric("folio:kv_event_batches_total") >= 2.0);
    server.stop();
}

#[test]
fn flags_that_cannot_work_say_why() {
    let said = |flags: &[&str]| {
        let all = [&["serve", "--port", "0"], flags].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_folio")).args(&all).output().unwrap();
        assert!(!output.status.success(), "{flags:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let enabled = r#"{"enable_kv_cache_events": true}"#;
    for (flags, named) in [
        (&["--kv-events-config", "{"][..], "--kv-events-config"),
        (&["--kv-events-config", r#"{"hmw": 1}"#], "hmw"),
        (&["--kv-events-config", enabled, "--no-enable-prefix-caching"], "prefix cache"),
        (&["--ssl-keyfile", "nowhere.pem"], "--ssl-certfile"),
        (&["--ssl-keyfile", "nowhere.pem", "--ssl-certfile", "no.pem"], "no.pem"),
        (&["--ssl-cert-reqs", "3"], "--ssl-cert-reqs"),
        (&["--otlp-traces-endpoint", "localhost:4317"], "--otlp-traces-endpoint"),
    ] {
        let text = said(flags);
        assert!(text.contains(named), "{flags:?}: {text}");
    }
}
