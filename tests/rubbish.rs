//! What people and machines send by mistake or on purpose: each gets an answer that a person can act on, and a stream that
//! runs at the same time does not notice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::Server;
use serde_json::{Value, json};

/// What is sent, to which endpoint, and a word that the answer must contain.
type Case = (&'static str, String, &'static str);

/// A sound request with `change` made to it.
fn with(path: &'static str, mut body: Value, change: &Value, word: &'static str) -> Case {
    for (field, value) in change.as_object().expect("fields") {
        body[field] = value.clone();
    }
    (path, body.to_string(), word)
}

fn complete(change: &Value, word: &'static str) -> Case {
    let body = json!({"model": "folio-demo", "prompt": "Once", "max_tokens": 4});
    with("/v1/completions", body, change, word)
}

fn chat(change: &Value, word: &'static str) -> Case {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let body = json!({"model": "folio-demo", "max_tokens": 4, "messages": messages});
    with("/v1/chat/completions", body, change, word)
}

fn not_even_json() -> Vec<Case> {
    let with_temperature = |number: &str| {
        format!("{{\"model\":\"folio-demo\",\"prompt\":\"x\",\"temperature\":{number}}}")
    };
    [
        (String::new(), "JSON"),
        ("{\"prompt\": ".to_owned(), "JSON"),
        ("[]".to_owned(), "object"),
        (with_temperature("NaN"), "JSON"),
        (with_temperature("1e400"), "range"),
        (format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), "JSON"),
    ]
    .map(|(body, word)| ("/v1/completions", body, word))
    .into()
}

fn numbers() -> Vec<Case> {
    vec![
        complete(&json!({"n": 1_000_000_000}), "n "),
        complete(&json!({"n": 0}), "n "),
        complete(&json!({"n": -1}), "n "),
        complete(&json!({"n": "two"}), "n"),
        complete(&json!({"max_tokens": 0}), "max_tokens"),
        complete(&json!({"max_tokens": 100_000}), "max_tokens"),
        complete(&json!({"temperature": -0.5}), "temperature"),
        complete(&json!({"temperature": "hot"}), "temperature"),
        complete(&json!({"top_p": 0}), "top_p"),
        complete(&json!({"top_k": -2}), "top_k"),
        complete(&json!({"min_p": 2}), "min_p"),
        complete(&json!({"logprobs": 1_000}), "logprobs"),
        complete(&json!({"logit_bias": {"-1": 1}}), "logit_bias"),
        complete(&json!({"stop_token_ids": [1_u64 << 40]}), "stop_token_ids"),
    ]
}

fn ways_of_decoding() -> Vec<Case> {
    let beams = |mut change: Value, word| {
        change["use_beam_search"] = json!(true);
        [complete(&change, word), chat(&change, word)]
    };
    let alone = |change: &Value, word| [complete(change, word), chat(change, word)];
    [
        alone(&json!({"best_of": 0}), "best_of"),
        alone(&json!({"best_of": 1_000_000_000}), "best_of"),
        alone(&json!({"n": 3, "best_of": 2}), "best_of"),
        alone(&json!({"best_of": [2]}), "best_of"),
        alone(&json!({"beam_width": 4}), "beam_width"),
        alone(&json!({"length_penalty": 2}), "length_penalty"),
        alone(&json!({"early_stopping": "never"}), "early_stopping"),
        alone(&json!({"use_beam_search": "yes"}), "use_beam_search"),
        beams(json!({"beam_width": 100_000}), "beam_width"),
        beams(json!({"beam_width": -1}), "beam_width"),
        beams(json!({"beam_width": "wide"}), "beam_width"),
        beams(json!({"beam_width": 2, "n": 3}), "beam_width"),
        beams(json!({"beam_width": 2, "best_of": 3}), "best_of"),
        beams(json!({"length_penalty": "x"}), "length_penalty"),
        beams(json!({"length_penalty": 1e9}), "length_penalty"),
        beams(json!({"early_stopping": "sometimes"}), "early_stopping"),
        beams(json!({"early_stopping": {"at": 3}}), "early_stopping"),
        beams(json!({"temperature": 0.5}), "temperature"),
        beams(json!({"top_k": 5}), "top_k"),
        beams(json!({"frequency_penalty": 1}), "frequency_penalty"),
    ]
    .concat()
}

fn prompts_and_texts() -> Vec<Case> {
    vec![
        complete(&json!({"prompt": []}), "prompt"),
        complete(&json!({"prompt": ""}), "prompt"),
        complete(&json!({"prompt": [1, 99_999_999]}), "99999999"),
        complete(&json!({"prompt": [1, -5]}), "prompt"),
        complete(&json!({"prompt": [1, 2.5]}), "prompt"),
        complete(&json!({"prompt": {"text": "x"}}), "prompt"),
        complete(&json!({"prompt": vec!["x"; 5_000]}), "prompt"),
        complete(&json!({"prompt": "word ".repeat(100_000)}), "context"),
        complete(&json!({"stop": vec!["x"; 100]}), "stop"),
        complete(&json!({"sufix": "x"}), "sufix"),
        complete(&json!({"suffix": "x"}), "suffix"),
        complete(&json!({"stream": "yes"}), "stream"),
        complete(&json!({"stream_options": {"include_usage": true}}), "stream_options"),
    ]
}

fn conversations() -> Vec<Case> {
    let image = json!([{"role": "user", "content": [{"type": "image_url"}]}]);
    vec![
        chat(&json!({"messages": []}), "messages"),
        chat(&json!({"messages": "Hi"}), "messages"),
        chat(&json!({"messages": [{"role": "wizard", "content": "Hi"}]}), "role"),
        chat(&json!({"messages": image}), "messages[0].content[0]"),
        chat(&json!({"messages": [{"content": "Hi"}]}), "role"),
        chat(&json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tool_choice"),
        chat(&json!({"response_format": {"type": "yaml"}}), "response_format"),
        chat(&json!({"chat_template": "{{ 'a' * 10 ** 9 }}"}), "chat_template"),
        chat(&json!({"top_logprobs": 3}), "logprobs"),
    ]
}

#[test]
fn rubbish_is_refused_with_a_sentence_and_a_running_stream_does_not_notice() {
    let server = Server::start(&[]);
    let canary = json!({
        "model": "folio-demo", "prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": true,
        "temperature": 1.0, "seed": 5, "stream": true,
    });
    let text = |events: &mut dyn Iterator<Item = Value>| -> String {
        events.map(|e| e["choices"][0]["text"].as_str().expect("text").to_owned()).collect()
    };
    let undisturbed = text(&mut server.stream("/v1/completions", &canary));

    let mut running = server.stream("/v1/completions", &canary);
    let beginning = text(&mut running.by_ref().take(1));
    let cases =
        [not_even_json(), numbers(), ways_of_decoding(), prompts_and_texts(), conversations()]
            .concat();
    for (path, body, word) in cases {
        let shown: String = body.chars().take(200).collect();
        let (status, answer) = server.post_text(path, &body);
        assert!((400..500).contains(&status), "{status} for {shown}: {answer}");
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|_| panic!("not JSON: {answer}"));
        let message = answer["error"]["message"].as_str().expect("an OpenAI error");
        assert!(message.contains(word), "{shown}\n  says {message:?}\n  without {word:?}");
        assert!(message.len() < 1000, "{message}");
    }
    assert_eq!(beginning + &text(&mut running), undisturbed);
    server.assert_nothing_leaked();
    server.stop();
}

#[test]
fn what_does_not_exist_is_said_so_in_the_same_shape() {
    let server = Server::start(&[]);
    let ask = json!({"model": "another", "prompt": "x"});
    let (status, answer) = server.post("/v1/completions", &ask);
    assert_eq!((status, answer["error"]["param"].as_str()), (404, Some("model")));
    for (status, path) in [(404, "/v1/nothing"), (405, "/v1/completions")] {
        let (got, text) = server.get(path);
        let answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
        assert_eq!(got, status, "{path}");
        assert!(answer["error"]["message"].is_string(), "{path}: {text}");
    }
    server.stop();
}
