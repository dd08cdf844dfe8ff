//! What is decided at start, as a user has it: prefixes that stay, a block size that is measured, flags that cannot work.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Folder, Server, text_of};
use serde_json::{Value, json};

fn complete(server: &Server, body: &Value) -> Value {
    let (status, answer) = server.post("/v1/completions", body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// More than a small cache holds.
fn requests() -> Vec<Value> {
    (0..12_u64)
        .map(|i| {
            let prompt: Vec<u64> = (0..40 + 10 * i).map(|p| 300 + (p * p + 17 * i) % 700).collect();
            json!({
                "model": "folio-demo", "prompt": prompt, "n": 2, "seed": i, "max_tokens": 150,
                "ignore_eos": true,
            })
        })
        .collect()
}

#[test]
fn a_pinned_prefix_is_found_by_the_first_request_and_survives_a_full_cache() {
    let folder = Folder::new("pin");
    let text =
        "Once upon a time there was a cat who lived in a big house with a garden. ".repeat(3);
    let file = folder.write("prefix.txt", &text);
    let server = Server::start(&[
        "--pin-prefix",
        &file,
        "--block-size",
        "8",
        "--kv-cache-memory-bytes",
        "1M",
        "--max-model-len",
        "512",
    ]);
    let prompt = format!("{text}One day the cat");
    let cached = || {
        let body = json!({"model": "folio-demo", "prompt": prompt, "max_tokens": 1});
        complete(&server, &body)["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    let at_first = cached().unwrap();
    assert!(at_first >= 40, "{at_first}");
    for body in requests().iter().take(4) {
        complete(&server, body);
    }
    assert!(cached().unwrap() >= at_first / 8 * 8);
    server.stop();
}

#[test]
fn flags_that_cannot_work_say_what_to_do() {
    let folder = Folder::new("refusals");
    let short = folder.write("short.txt", "Hi");
    let long = folder.write("long.txt", "cat ".repeat(600));
    let not_text = folder.0.join("bytes");
    std::fs::write(&not_text, [0xFF, 0xFE]).unwrap();
    let not_text = text_of(&not_text);
    let trace = folder.write("trace.csv", "prompt_tokens,output_tokens\n5,x\n");
    let cases: &[(&[&str], &str)] = &[
        (&["--preemption-mode", "swap"], "--swap-dir"),
        (&["--preemption-mode", "swap", "--swap-space", "0"], "--swap-space"),
        (&["--swap-dir", "/no/such/folder"], "/no/such/folder"),
        (&["--swap-space", "lots"], "lots"),
        (&["--swap-space", "100 bytes"], "100 bytes"),
        (&["--swap-space", "1k"], "--swap-space 1MiB"),
        (&["--pin-prefix", "/no/such/file"], "/no/such/file"),
        (&["--pin-prefix", &short], "do not fill a block"),
        (&["--pin-prefix", &long], "shorten the file"),
        (&["--pin-prefix", &not_text], "UTF-8"),
        (&["--pin-prefix", &short, "--no-enable-prefix-caching"], "prefix cache"),
        (&["--block-size-lengths", "10,20"], "--block-size auto"),
        (&["--block-size", "auto", "--block-size-lengths", "10"], "161,338"),
        (&["--block-size", "auto", "--block-size-trace", &trace], "line 2"),
    ];
    for (flags, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
        command.args(["complete", "--quick", "Hi", "--max-tokens", "1"]).args(*flags);
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{flags:?}: {said}");
    }
}

/// A server that cannot listen, so that it ends by itself, with these variables.
fn said_with(variables: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args(["serve", "--host", "192.0.2.1", "--port", "1"])
        .envs(variables.iter().copied())
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_wrong_with_a_variable_is_told_by_its_name() {
    for (name, value) in [
        ("VLLM_MAX_N_SEQUENCES", "0"),
        ("VLLM_MAX_N_SEQUENCES", "many"),
        ("FOLIO_LOG", "folio=loudly"),
        // A key that was forgotten must not open the server.
        ("VLLM_API_KEY", ""),
    ] {
        let said = said_with(&[(name, value)]);
        assert!(said.contains(name) && said.contains(value), "{name}={value}: {said}");
        assert!(!said.contains("--max-n"), "{said}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let names = [
        "VLLM_MAX_N_SEQUENCES",
        "VLLM_CPU_KVCACHE_SPACE",
        "FOLIO_ISA",
        "FOLIO_LOG",
        "OTEL_SERVICE_NAME",
        "HF_ENDPOINT",
    ];
    let said = said_with(&names.map(|name| (name, "")));
    assert!(said.contains("cannot listen on 192.0.2.1:1"), "{said}");
    for name in names {
        assert!(!said.contains(name), "{said}");
    }
    let server = Server::start_in(&[], &names.map(|name| (name, "")));
    let (_, info) = server.get("/server_info");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["limits"]["n"], 128, "{info}");
    server.stop();
}

#[test]
fn an_automatic_block_size_serves() {
    let said = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args(["complete", "--block-size", "auto", "--temperature", "0", "--max-tokens", "5"])
        .args(["--quick", "Once upon a time"])
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("Once upon a time"));
}

fn completion(flags: &[&str]) -> String {
    let said = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args([
            "complete",
            "--temperature",
            "0",
            "--max-tokens",
            "12",
            "--quick",
            "Once upon a time",
        ])
        .args(flags)
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

#[test]
fn float_weights_are_quantised_on_request() {
    for kind in ["int8", "int4-g32"] {
        assert!(completion(&["--quantization", kind]).starts_with("Once upon a time"));
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn a_gguf_file_is_all_a_model_needs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/models/gguf");
    if !folder.is_dir() {
        println!("skipped: ../shared is absent");
        return;
    }
    for kind in ["F32", "Q8_0"] {
        let file = folder.join(format!("stories260K.{kind}.gguf"));
        let text = completion(&[&text_of(&file)]);
        assert!(text.contains("Once upon a time, there was a little girl named"), "{text}");
    }
}

#[test]
fn a_model_of_which_only_the_shape_is_known_can_be_planned_and_not_served() {
    let plan = Command::new(env!("CARGO_BIN_EXE_folio"))
        .args(["plan", "opt-13b", "--device", "a100-40g", "--json"])
        .output()
        .unwrap();
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    // Two bytes for each key and value of 40 layers of 5120 numbers.
    assert_eq!(plan["kv_bytes_per_token"], 2 * 2 * 40 * 5120);

    let served =
        Command::new(env!("CARGO_BIN_EXE_folio")).args(["serve", "opt-13b"]).output().unwrap();
    let said = String::from_utf8_lossy(&served.stderr);
    assert!(!served.status.success() && said.contains("--load-format dummy"), "{said}");
}

/// What a command that cannot work says.
fn refused(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
    let output = command.args(words).env("HF_HUB_OFFLINE", "1").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{words:?}: {said}");
    said
}

#[test]
fn what_is_nearly_right_is_told_what_is_right() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let (config, weights) =
        (text_of(&demo.join("config.json")), text_of(&demo.join("model.safetensors")));
    let cases: &[(&[&str], &str)] = &[
        (&["serve", &config], "give the folder it is in"),
        (&["serve", &weights], "give the folder it is in"),
        (&["serve", "https://huggingface.co/org/name/tree/main"], "try org/name"),
        (&["serve", "hf.co/org/name"], "try org/name"),
        (&["convert", "hf://org/name", "out"], "try org/name"),
        (&["serve", "/"], "cannot serve /:"),
        (&["pull", &config], "here already"),
        (&["complete", "Once upon a time"], "give it with --quick"),
        (&["serve", "--enforce-eager", "--model", "x"], "folio serve MODEL"),
        (&["serve", "--api-key", ""], "VLLM_API_KEY"),
        (&["serve", "--allowed-origins", "localhost:3000"], "https://chat.example.org"),
        (&["serve", "--allowed-origins", "[\"http://a\""], "not a JSON list"),
        (&["plan", "--tensor-parallel-size", "2"], "--device"),
        (&["plan", "--gpu-memory-utilization", "0.5"], "--device"),
        (&["plan", "--block-size", "auto"], "give a size"),
        (&["plan", "--pin-prefix", "x"], "leave it out"),
        (&["plan", "org/name"], "folio pull"),
        (&["plan", "--trace", "/no/such/file"], "--trace /no/such/file"),
        (&["simulate", "--num-prompts", "5", "--json", "/no/such/folder/x"], "/no/such/folder/x"),
    ];
    for (words, expected) in cases {
        let said = refused(words);
        assert!(said.contains(expected), "{words:?}: {said}");
    }
}

#[test]
fn a_plan_does_not_claim_to_have_measured() {
    let plan = Command::new(env!("CARGO_BIN_EXE_folio")).arg("plan").output().unwrap();
    let said = String::from_utf8_lossy(&plan.stdout);
    assert!(
        plan.status.success() && said.contains("assumed") && !said.contains("measured)"),
        "{said}"
    );
}

#[test]
fn origins_are_taken_as_vllm_takes_them() {
    let server = Server::start(&["--allowed-origins", "[\"http://A.example\", \"null\"]"]);
    let (_, info) = server.get("/server_info");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["allowed_origins"], json!(["http://a.example", "null"]));
    server.stop();
}
