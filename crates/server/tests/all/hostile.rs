//! What people and machines send by mistake or on purpose, as data: `hostile/*.jsonl`, a case per line.
//!
//! Each case goes to every entry point. Those it is meant `to` must answer as it says: with this status, naming this field.
//! The others must answer with anything but a failure of the server. No answer tells of paths, addresses or other
//! requests, and a stream that runs all the time does not notice any of it.
//!
//! `with` holds fields that are added to a good request, `raw` pieces of a body. `{"$times": [x, n]}` is text or a list
//! n times over, `{"$deep": n}` a list in a list in …, `{"$keys": n}` an object of n members, `{"$each": [n, x]}` one whose
//! members are called 0 to n - 1, `{"$hex": "ff"}` bytes; the field `$long_name` stands for one whose name has so many letters.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::common::data::{bytes, cases, count};
use crate::common::http::{Answer, post, post_bytes};
use crate::common::{Server, Setup};
use folio_text::ToolFormat;
use serde_json::{Map, Value, json};

/// In the prompt of the stream that runs all the time; nobody else may hear of it.
const SECRET: &str = "canary-4711";

/// What no answer may hold, unless the request did.
const TELLING: [&str; 11] = [
    SECRET,
    "/home/",
    "/root/",
    "/tmp/",
    "/usr/",
    "/src/",
    ".rs:",
    ".rs\"",
    "cargo",
    "panicked",
    "127.0.0.1",
];

/// Entry points, their paths and a good request for each.
fn entries() -> [(&'static str, &'static str, Value); 8] {
    let messages = json!([{"role": "user", "content": "[ok]"}]);
    [
        ("completions", "/v1/completions", json!({"prompt": "Once", "max_tokens": 8})),
        ("chat", "/v1/chat/completions", json!({"messages": messages})),
        ("responses", "/v1/responses", json!({"input": "[ok]"})),
        ("input_tokens", "/v1/responses/input_tokens", json!({"input": "[ok]"})),
        ("messages", "/v1/messages", json!({"messages": messages, "max_tokens": 8})),
        ("count_tokens", "/v1/messages/count_tokens", json!({"messages": messages})),
        ("tokenize", "/tokenize", json!({"prompt": "Once"})),
        ("detokenize", "/detokenize", json!({"tokens": [1, 2]})),
    ]
}

/// Writes a value as JSON, short forms at their length. As text, since some would be slow as values.
fn write_json(value: &Value, out: &mut String) {
    let list = |out: &mut String, items: &mut dyn Iterator<Item = String>, ends: [char; 2]| {
        out.push(ends[0]);
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&item);
        }
        out.push(ends[1]);
    };
    let json = |value: &Value| {
        let mut out = String::new();
        write_json(value, &mut out);
        out
    };
    match value {
        Value::Object(map) => match map.iter().next().map(|(name, of)| (name.as_str(), of)) {
            Some(("$times", of)) => match &of[0] {
                Value::String(text) => *out += &json(&json!(text.repeat(count(&of[1])))),
                items => {
                    let items: Vec<String> = items.as_array().unwrap().iter().map(json).collect();
                    let all = items.len() * count(&of[1]);
                    list(out, &mut items.iter().cycle().take(all).cloned(), ['[', ']']);
                }
            },
            Some(("$deep", n)) => {
                *out += &format!("{}1{}", "[".repeat(count(n)), "]".repeat(count(n)));
            }
            Some(("$keys", n)) => {
                list(out, &mut (0..count(n)).map(|i| format!("\"k{i}\":1")), ['{', '}']);
            }
            Some(("$each", of)) => {
                let item = |i| format!("\"{i}\":{}", of[1]);
                list(out, &mut (0..count(&of[0])).map(item), ['{', '}']);
            }
            _ => {
                let item = |(name, of): (&String, &Value)| format!("{}:{}", json!(name), json(of));
                list(out, &mut map.iter().map(item), ['{', '}']);
            }
        },
        Value::Array(items) => list(out, &mut items.iter().map(json), ['[', ']']),
        other => *out += &other.to_string(),
    }
}

/// The bodies of a case for all entry points.
fn bodies(case: &Value) -> Vec<Vec<u8>> {
    if let Some(pieces) = case["raw"].as_array() {
        let body: Vec<u8> = pieces.iter().flat_map(bytes).collect();
        return vec![body; entries().len()];
    }
    let mut changes = Map::new();
    let mut fields = String::new();
    for (name, value) in case["with"].as_object().unwrap() {
        let name = if name == "$long_name" { "x".repeat(count(value)) } else { name.clone() };
        fields += &format!(",{}:", json!(name));
        write_json(value, &mut fields);
        changes.insert(name, Value::Null);
    }
    let body = |(_, _, base): (&str, &str, Value)| {
        let mut body = base;
        body.as_object_mut().unwrap().retain(|name, _| !changes.contains_key(name));
        let rest = body.to_string();
        let fields = if rest == "{}" { &fields[1..] } else { &fields };
        format!("{}{fields}}}", &rest[..rest.len() - 1]).into_bytes()
    };
    entries().into_iter().map(body).collect()
}

/// What is wrong with an answer, whatever was asked.
fn indecent(answer: &Answer, asked: &[u8]) -> Option<String> {
    let asked = String::from_utf8_lossy(asked);
    if answer.status >= 500 {
        return Some("the server failed".to_owned());
    }
    let tells = |word: &&&str| answer.body.contains(**word) && !asked.contains(**word);
    if let Some(word) = TELLING.iter().find(tells) {
        return Some(format!("tells {word:?}"));
    }
    let address = answer.body.split("0x").skip(1).any(|rest| {
        rest.chars().take_while(char::is_ascii_hexdigit).count() >= 6 && !asked.contains("0x")
    });
    if address {
        return Some("tells an address".to_owned());
    }
    if answer.status == 200 {
        return None;
    }
    let Ok(error) = serde_json::from_str::<Value>(&answer.body) else {
        return Some("the error is not JSON".to_owned());
    };
    let message = error["error"]["message"].as_str().unwrap_or_default();
    if message.is_empty() || message.len() > 1000 || message.contains(char::is_control) {
        return Some(format!("says {message:?}"));
    }
    let named = error["error"]["param"].as_str().unwrap_or_default();
    (named.len() > 300).then(|| format!("names {} bytes", named.len()))
}

/// What a case expects and the answer is not.
fn unexpected(answer: &Answer, case: &Value) -> Option<String> {
    if u64::from(answer.status) != case["status"] {
        return Some(format!("status {}", answer.status));
    }
    if answer.status == 200 {
        return None;
    }
    let error = answer.json()["error"].clone();
    let message = error["message"].as_str().unwrap();
    let (param, says) = (case["param"].as_str().unwrap_or(""), case["says"].as_str().unwrap_or(""));
    // Anthropic's errors have no field for it; the message begins with it.
    let named = error.get("param").map_or(message, |param| param.as_str().unwrap_or(""));
    if !named.starts_with(param) {
        return Some(format!("names {named:?}"));
    }
    (!message.contains(says)).then(|| format!("does not say {says:?}"))
}

/// The log-probability and the text of each token of a stream that must say the same every time.
async fn song(address: SocketAddr) -> Vec<(Value, Value)> {
    let ask = json!({"prompt": format!("The {SECRET} sings"), "max_tokens": 60, "seed": 3, "temperature": 1,
                     "stream": true, "logprobs": 2});
    let answer = post(address, "/v1/completions", &ask).await;
    let events = answer.events(true);
    let told = events.iter().flat_map(|event| {
        let told = &event["choices"][0]["logprobs"];
        let list = |name: &str| told[name].as_array().unwrap().clone();
        list("tokens").into_iter().zip(list("token_logprobs")).collect::<Vec<_>>()
    });
    told.collect()
}

/// What is wrong with the answers to a case.
async fn problems(address: SocketAddr, case: &Value) -> String {
    let mut wrong = String::new();
    for ((name, path, _), sent) in entries().into_iter().zip(bodies(case)) {
        let meant = case["to"].as_array().unwrap().iter().any(|to| to == name || to == "all");
        // Megabytes need not be refused by those who do not know the field.
        if !meant && sent.len() > 100_000 {
            continue;
        }
        let answer = post_bytes(address, path, &sent).await;
        let expected = || meant.then(|| unexpected(&answer, case)).flatten();
        if let Some(problem) = indecent(&answer, &sent).or_else(expected) {
            let said: String = answer.body.chars().take(300).collect();
            writeln!(wrong, "{name}: {problem}\n  case {case}\n  said {said}").unwrap();
        }
    }
    wrong
}

async fn play(files: &[&str]) {
    let server = Server::with(Setup { tools: Some(ToolFormat::Hermes), ..Setup::default() }).await;
    let undisturbed = song(server.address).await;
    assert_eq!(undisturbed.len(), 60);
    let mut wrong = String::new();
    for case in files.iter().flat_map(|file| cases(file)) {
        let (found, sung) = tokio::join!(problems(server.address, &case), song(server.address));
        assert_eq!(sung, undisturbed, "beside {case}");
        wrong += &found;
    }
    assert!(wrong.is_empty(), "{wrong}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_bounded() {
    play(&["numbers", "unserved"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_bounded() {
    play(&["prompts"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_bounded() {
    play(&["answers"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_bounded() {
    play(&["conversations"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grammars_are_bounded() {
    play(&["structured"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_json_are_refused() {
    play(&["bodies"]).await;
}
