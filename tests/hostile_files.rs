//! Model files that are wrong or mean harm, as data: each line of `hostile/*.jsonl` changes one file of a good model.
//!
//! `file` says which; `bytes` are its new contents, `gone` removes it, `cut` leaves so many bytes, `add` appends, `put`
//! writes over what is `at` a place or `after` a text, `set` and `remove` change JSON (of safetensors files, the header) at
//! pointers. `says` are words of the refusal, which names the file and what is wrong in it; without them, the model is
//! served. Every model is asked as a user asks, by the binary, with less memory than a lie could ask for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "../crates/server/tests/all/common/data.rs"]
mod data;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

use common::Folder;
use data::{bytes, cases, count};
use serde_json::{Value, json};

/// All that a case may use, in KiB.
const MEMORY: u32 = 2 << 20;

fn corpus(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name)).unwrap()
}

/// The files of a good model.
fn good(gguf: bool) -> Vec<(&'static str, Vec<u8>)> {
    if gguf {
        return vec![("model.gguf", corpus("gguf/q8_0.gguf"))];
    }
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    let texts = json!({"bos_token": "<s>", "chat_template": template});
    let generation = json!({"eos_token_id": 9, "temperature": 0.5, "top_k": 5});
    vec![
        ("config.json", corpus("config/llama.json")),
        ("model.safetensors", corpus("safetensors/llama.safetensors")),
        ("tokenizer.json", corpus("tokenizer/bpe.json")),
        ("tokenizer_config.json", texts.to_string().into_bytes()),
        ("generation_config.json", generation.to_string().into_bytes()),
    ]
}

/// Sets or, without a value, removes what a JSON pointer names.
fn set(json: &mut Value, pointer: &str, value: Option<&Value>) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match (json.pointer_mut(parent).expect("what is changed is there"), value) {
        (Value::Object(members), Some(value)) => {
            members.insert(key.to_owned(), value.clone());
        }
        (Value::Object(members), None) => {
            members.remove(key).expect("it is there");
        }
        (list, value) => list[key.parse::<usize>().unwrap()] = value.unwrap().clone(),
    }
}

fn edited(json: &[u8], case: &Value) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(json).unwrap();
    for (pointer, value) in case["set"].as_object().into_iter().flatten() {
        set(&mut json, pointer, Some(value));
    }
    for pointer in case["remove"].as_array().into_iter().flatten() {
        set(&mut json, pointer.as_str().unwrap(), None);
    }
    json.to_string().into_bytes()
}

/// The same of a safetensors file's header, whose length stands before it.
fn edited_header(file: &[u8], case: &Value) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let header = edited(header, case);
    [&u64::try_from(header.len()).unwrap().to_le_bytes(), &header[..], data].concat()
}

/// What a case makes of the good file.
fn changed(mut file: Vec<u8>, case: &Value) -> Vec<u8> {
    if case["set"].is_object() || case["remove"].is_array() {
        let edit = if case["file"] == "model.safetensors" { edited_header } else { edited };
        file = edit(&file, case);
    }
    if !case["put"].is_null() {
        let put = bytes(&case["put"]);
        let at = match case["after"].as_str() {
            Some(text) => {
                let text = text.as_bytes();
                file.windows(text.len()).position(|it| it == text).expect("it is there")
                    + text.len()
            }
            None => count(&case["at"]),
        };
        file[at..at + put.len()].copy_from_slice(&put);
    }
    if !case["cut"].is_null() {
        file.truncate(count(&case["cut"]));
    }
    if !case["add"].is_null() {
        file.extend(bytes(&case["add"]));
    }
    if case["bytes"].is_null() { file } else { bytes(&case["bytes"]) }
}

/// Asks the model in the folder for an answer, in a chat where it has a template.
fn ask(folder: &Path, gguf: bool) -> Output {
    let limited = format!("ulimit -v {MEMORY}; exec \"$@\"");
    let ask = ["--quick", "hello", "--max-tokens", "2", "--kv-cache-memory-bytes", "64k"];
    let mut command = Command::new("sh");
    let way = if gguf { "complete" } else { "chat" };
    command.args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_folio"), way]).arg(folder).args(ask);
    // What a fenced panic prints would be longer than any refusal.
    command.env("RUST_BACKTRACE", "0").output().expect("it runs")
}

/// What is wrong with how a case ended, if something is.
fn complaint(case: &Value, folder: &Folder) -> Option<String> {
    let changed_file = case["file"].as_str().expect("a file");
    let gguf = changed_file.ends_with(".gguf");
    let mut files = good(gguf);
    if !files.iter().any(|(name, _)| *name == changed_file) {
        folder.write(changed_file, changed(Vec::new(), case));
    }
    for (name, file) in &mut files {
        if *name != changed_file {
            folder.write(name, file);
        } else if case["gone"] != true {
            folder.write(name, changed(std::mem::take(file), case));
        }
    }
    let output = ask(&folder.0, gguf);
    let said = String::from_utf8_lossy(&output.stderr);
    let ended = format!("{case}\n  {}: {said}", output.status);
    let Some(words) = case["says"].as_array() else {
        return (!output.status.success()).then_some(ended);
    };
    let missing = words.iter().any(|word| !said.contains(word.as_str().unwrap()));
    // What is fenced off may have panicked; what ends the process may not, nor may it run out of memory.
    let decent = output.status.code() == Some(1) && said.len() < 2000;
    (missing || !decent).then_some(ended)
}

/// Runs the cases of a file, several at a time.
fn all(file: &str) {
    let mut cases = cases(file);
    // The good model itself.
    let whole = if file == "gguf" { "model.gguf" } else { "config.json" };
    cases.push(json!({"file": whole, "add": ""}));
    let (rest, complaints) = (Mutex::new(cases.into_iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((number, case)) = next(&rest) {
                    let folder = Folder::new(&format!("hostile-{file}-{number}"));
                    complaints.lock().unwrap().extend(complaint(&case, &folder));
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn next<T>(rest: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    rest.lock().unwrap().next()
}

#[test]
fn configurations() {
    all("config");
}

#[test]
fn weights() {
    all("safetensors");
}

#[test]
fn gguf() {
    all("gguf");
}

#[test]
fn tokenizers() {
    all("tokenizer");
}

#[test]
fn templates_and_recommendations() {
    all("texts");
}
