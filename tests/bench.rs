//! `folio bench` as a user has it: what it prints and writes, on the built-in model and against a running server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::authority::Authority;
use common::{Folder, Server, proxy, text_of};
use serde_json::{Value, json};

/// A file that is removed when it is dropped.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("folio-bench-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(&self.0).unwrap()).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bench(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_folio")).arg("bench").args(words).output().unwrap()
}

fn printed(words: &[&str]) -> String {
    let output = bench(words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn batches_are_timed_and_a_steps_time_is_told_apart() {
    let file = TempFile::new("latency.json");
    let out = printed(&[
        "latency",
        "--batch-size",
        "1,3",
        "--input-len",
        "8",
        "--output-len",
        "6",
        "--num-iters",
        "2",
        "--prefill-len",
        "40",
        "--profile",
        "--output-json",
        file.path(),
    ]);
    for part in ["GB/s", "prefill of 40 tokens", "decode of 3", "attention", "outside kernels"] {
        assert!(out.contains(part), "{part:?} in\n{out}");
    }
    let results = file.json();
    assert!(results["prefill"]["tokens_per_second"].as_f64().unwrap() > 0.0);
    let batches = results["batches"].as_array().unwrap();
    assert_eq!((&batches[0]["batch_size"], &batches[1]["batch_size"]), (&json!(1), &json!(3)));
    // Two runs of one request: a prompt's step, then a step for each token but the first, of which all but the first
    // have one before them.
    let alone = &batches[0];
    assert_eq!((&alone["profile"]["steps"], &alone["decode_steps"]), (&json!(10), &json!(8)));
    assert!(alone["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    let times = alone["profile"]["milliseconds_per_step"].as_object().unwrap();
    assert!(times["qkv"].as_f64().unwrap() > 0.0 && times["schedule"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_file_of_requests_is_run_whole() {
    let (rows, file) = (TempFile::new("rows.jsonl"), TempFile::new("throughput.json"));
    let row = |i: u32| json!({"prompt_ids": [5 + i, 6, 7], "output_tokens": 4 + i}).to_string();
    std::fs::write(&rows.0, (0..4).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let out = printed(&[
        "throughput",
        "--dataset-name",
        "custom",
        "--dataset-path",
        rows.path(),
        "--output-json",
        file.path(),
    ]);
    assert!(out.contains("Throughput: "), "{out}");
    let results = file.json();
    assert_eq!(results["num_requests"], 4);
    assert_eq!(results["total_num_tokens"], 4 * 3 + (4 + 5 + 6 + 7));

    // More than there are: from the first on again.
    let work = ["throughput", "--dataset-name", "custom", "--num-prompts", "6"];
    let files = ["--dataset-path", rows.path(), "--output-json", file.path()];
    printed(&[&work[..], &files].concat());
    assert_eq!(file.json()["total_num_tokens"], 6 * 3 + (4 + 5 + 6 + 7) + (4 + 5));
}

#[test]
fn a_run_under_two_policies_can_be_simulated_and_repeated() {
    let [out, fit, trace] = ["out.json", "fit.json", "trace.csv"].map(TempFile::new);
    let work = ["--num-prompts", "6", "--input-len", "20", "--output-len", "6"];
    let pace = ["--random-range-ratio", "0.5", "--request-rate", "500"];
    let engine = ["--block-size", "16", "--kv-cache-memory-bytes", "1m"];
    let files = ["--fit", fit.path(), "--write-trace", trace.path(), "--output-json", out.path()];
    let policies = ["throughput", "--kv-policy", "paged,static"];
    let said = printed(&[&policies[..], &work, &pace, &engine, &files].concat());
    assert!(said.contains("KV policy: static"), "{said}");
    let runs = out.json()["runs"].clone();
    assert_eq!((&runs[0]["kv_policy"], &runs[1]["kv_policy"]), (&json!("paged"), &json!("static")));
    assert_eq!(runs[0]["total_num_tokens"], runs[1]["total_num_tokens"]);

    let blocks = runs[0]["num_gpu_blocks"].to_string();
    let simulated = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args(["simulate", "--fit", fit.path(), "--trace", trace.path(), "--json", "-"])
        .args(["--num-gpu-blocks-override", &blocks])
        .output()
        .unwrap();
    assert!(simulated.status.success(), "{}", String::from_utf8_lossy(&simulated.stderr));
    let simulated: Value = serde_json::from_slice(&simulated.stdout).unwrap();
    assert_eq!(simulated["runs"][0]["summary"]["completed"], 6);

    let again = ["throughput", "--dataset-name", "timed_trace", "--dataset-path", trace.path()];
    printed(&[&again[..], &["--output-json", out.path()]].concat());
    assert_eq!(out.json()["total_num_tokens"], runs[0]["total_num_tokens"]);
}

#[test]
fn prefixes_are_repeated() {
    let out = TempFile::new("prefixes.json");
    let lengths = ["--prefix-repetition-prefix-len", "32", "--prefix-repetition-suffix-len", "4"];
    let counts = ["--prefix-repetition-num-prefixes", "2", "--prefix-repetition-output-len", "3"];
    let work = ["throughput", "--dataset-name", "prefix_repetition", "--num-prompts", "4"];
    printed(&[&work[..], &lengths, &counts, &["--output-json", out.path()]].concat());
    assert_eq!(out.json()["total_num_tokens"], 4 * (32 + 4 + 3));
}

#[test]
fn a_model_without_weights_is_measured() {
    let out = TempFile::new("dummy.json");
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/config.json");
    let work = ["--num-prompts", "2", "--input-len", "8", "--output-len", "3"];
    let model = ["throughput", config, "--load-format", "dummy"];
    printed(&[&model[..], &work, &["--output-json", out.path()]].concat());
    assert_eq!(
        (&out.json()["model"], &out.json()["total_num_tokens"]),
        (&json!("demo"), &json!(22))
    );
}

#[test]
fn a_server_is_measured_from_outside() {
    let server = Server::start(&[]);
    let file = TempFile::new("serve.json");
    let common = [
        "serve",
        "--base-url",
        server.url(),
        "--num-prompts",
        "6",
        "--ignore-eos",
        "--output-json",
        file.path(),
        "--save-detailed",
    ];
    let random = [
        "--input-len",
        "9",
        "--output-len",
        "7",
        "--request-rate",
        "200",
        "--max-concurrency",
        "2",
    ];
    let out = printed(&[&common[..], &random].concat());
    assert!(out.contains("Serving Benchmark Result") && out.contains("P99 TTFT (ms):"), "{out}");
    let results = file.json();
    assert_eq!((&results["completed"], &results["failed"]), (&json!(6), &json!(0)));
    assert_eq!(results["total_input_tokens"], 6 * 9);
    assert_eq!(results["output_lens"], json!([7, 7, 7, 7, 7, 7]));
    assert!(results["median_ttft_ms"].as_f64().unwrap() > 0.0);
    // A stream's parts may carry several tokens, and its times add up.
    let sum = |value: &Value| -> f64 {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).sum()
    };
    let whole = results["ttfts"][0].as_f64().unwrap() + sum(&results["itls"][0]);
    assert!((whole - results["latencies"][0].as_f64().unwrap()).abs() < 1e-6);

    let rows = TempFile::new("chat.jsonl");
    let row =
        json!({"prompt": "Tell me a story about a cat", "output_tokens": 5, "arrival_s": 0.01});
    std::fs::write(&rows.0, format!("{row}\n{row}\n")).unwrap();
    let chat = [
        "--backend",
        "openai-chat",
        "--dataset-name",
        "timed_trace",
        "--dataset-path",
        rows.path(),
    ];
    printed(&[&common[..], &chat].concat());
    assert_eq!(file.json()["total_output_tokens"], 10);

    let refused = bench(&[&common[..], &["--input-len", "100000", "--num-warmups", "0"]].concat());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("400"), "{said}");
    server.assert_nothing_leaked();
    server.stop();
}

/// Of the environment, with their values.
type Variables<'a> = &'a [(&'a str, &'a str)];

#[test]
fn an_encrypted_server_is_measured_as_its_clients_reach_it() {
    if !cfg!(feature = "tls") {
        return;
    }
    let (folder, authority) = (Folder::new("bench-tls"), Authority::new());
    let [key, certificate] = authority.host_files("127.0.0.1", &folder.0);
    let trusted = authority.file(&folder.0);
    let server = Server::start(&["--ssl-keyfile", &key, "--ssl-certfile", &certificate]);
    assert!(server.url().starts_with("https://"));
    let (proxy, asked) = proxy::start();
    let file = folder.0.join("out.json");
    let run = |url: &str, variables: Variables<'_>| {
        Command::new(env!("CARGO_BIN_EXE_folio"))
            .args(["bench", "serve", "--base-url", url, "--num-prompts", "3", "--input-len", "4"])
            .args(["--output-len", "5", "--ignore-eos", "--output-json", &text_of(&file)])
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    };
    let trust = ("SSL_CERT_FILE", trusted.as_str());
    for (through, variables) in [(false, vec![trust]), (true, vec![trust, ("HTTPS_PROXY", &proxy)])]
    {
        let output = run(server.url(), &variables);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let results: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            (&results["completed"], &results["total_output_tokens"]),
            (&json!(3), &json!(15))
        );
        let heads: Vec<String> = asked.try_iter().collect();
        assert_eq!(heads.is_empty(), !through, "{heads:?}");
        for head in heads {
            assert!(head.starts_with("CONNECT 127.0.0.1:"), "{head}");
            let head = head.to_ascii_lowercase();
            assert!(head.contains("proxy-authorization: basic dxnlcjpwyxnz\r\n"), "{head}");
        }
    }
    let plain = Server::start(&[]);
    let encrypted = plain.url().replace("http:", "https:");
    let cases: [(&str, Variables<'_>, &str); 5] = [
        (server.url(), &[], "Mozilla does not trust"),
        (&server.url().replace("127.0.0.1", "localhost"), &[trust], "that of another host"),
        (&encrypted, &[trust], "does not speak TLS"),
        (server.url(), &[trust, ("HTTPS_PROXY", "http://127.0.0.1:1")], "the proxy 127.0.0.1:1"),
        (server.url(), &[("SSL_CERT_FILE", "/nowhere.pem")], "SSL_CERT_FILE /nowhere.pem"),
    ];
    for (url, variables, expected) in cases {
        let output = run(url, variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{expected}: {said}");
    }
    plain.stop();
    server.stop();
}

#[test]
fn what_cannot_be_measured_says_what_to_do() {
    let cases: &[(&[&str], &str)] = &[
        (&["latency", "--batch-size", "65"], "--max-num-seqs"),
        (&["throughput", "--dataset-name", "custom"], "--dataset-path"),
        (&["throughput", "--dataset-name", "timed_trace"], "--dataset-path"),
        (&["throughput", "--kv-policy", "paged,best"], "best"),
        (
            &["serve", "--dataset-name", "sharegpt", "--dataset-path", "x", "--model", "m"],
            "--tokenizer",
        ),
        (&["throughput", "--random-range-ratio", "2"], "--random-range-ratio"),
        (&["throughput", "gpt-5", "--load-format", "dummy"], "smollm2-135m"),
        (&["throughput", "--load-format", "dummy"], "MODEL"),
        (&["serve", "--base-url", "ftp://127.0.0.1"], "http://"),
        (&["serve", "--base-url", "http://127.0.0.1:1"], "127.0.0.1:1"),
        (&["serve", "--goodput", "itl:5"], "--goodput"),
        (&["serve", "--base-url", "127.0.0.1:8000"], "is not like http://127.0.0.1:8000"),
        (&["serve", "--metric-percentiles", "50,101"], "from 0 to 100"),
        (&["serve", "--metric-percentiles", "NaN"], "from 0 to 100"),
        (&["serve", "--model", "m", "--temperature", "NaN"], "--temperature"),
        (&["serve", "--output-json", "/no/such/folder/x"], "/no/such/folder/x"),
        (&["latency", "--fit", "/no/such/folder/x"], "/no/such/folder/x"),
        (&["throughput", "--write-trace", "/no/such/folder/x"], "/no/such/folder/x"),
        (&["throughput", "--dataset-path", "x"], "--dataset-name"),
    ];
    for (words, expected) in cases {
        let output = bench(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{words:?}: {said}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn results_that_nobody_reads_are_written_all_the_same() {
    let file = TempFile::new("unread.json");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args([
            "bench",
            "throughput",
            "--num-prompts",
            "2",
            "--input-len",
            "4",
            "--output-len",
            "2",
        ])
        .args(["--output-json", file.path()])
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("folio: standard output"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(file.json()["num_requests"], 2);
}
