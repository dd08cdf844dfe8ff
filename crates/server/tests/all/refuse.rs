//! What is refused, or accepted, because of what a server is; what is refused everywhere is in `hostile.rs`.

use crate::common::http::{Answer, post};
use crate::common::{Server, Setup, with};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

fn assert_refused(answer: &Answer, status: u16, param: &str, words: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    let answer = answer.json();
    let error = &answer["error"];
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(words), "{what}\n  says {message:?}\n  without {words:?}");
    assert!(message.len() < 1000, "{what}: {} bytes", message.len());
    let named = error["param"].as_str().unwrap_or_default();
    assert!(
        named.starts_with(param) && named.len() < 300,
        "{what}: names {named:?}, not {param:?}"
    );
    assert_eq!(error["code"], status, "{what}");
    assert!(error["type"].as_str().is_some_and(|kind| kind.ends_with("Error")), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neutral_values_of_fields_that_are_not_served_are_accepted() {
    let server = Server::start().await;
    let neutral = json!({
        "user": "me", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "request_id": "r",
        "best_of": 1, "use_beam_search": false, "length_penalty": 1.0, "early_stopping": false, "min_tokens": 0, "bad_words": [],
        "response_format": {"type": "text"}, "guided_json": null, "priority": 0, "logits_processors": null,
        "spaces_between_special_tokens": true, "n": 1.0, "temperature": -0.0, "top_k": -1, "stop": null,
        "no_stop_trim": false, "return_hidden_states": false, "logit_bias": {}, "stop_token_ids": [], "seed": i64::MIN, "stream_options": null, "stream": false,
    });
    let chat = json!({
        "messages": [{"role": "user", "content": "[ok]"}], "tools": [], "tool_choice": "none", "functions": null,
        "modalities": ["text"], "logprobs": false, "top_logprobs": 0, "max_tokens": 9, "max_completion_tokens": 9,
        "chat_template_kwargs": {}, "parallel_tool_calls": true,
        "separate_reasoning": true, "stream_reasoning": true, "include_reasoning": true,
        "verbosity": "medium", "reasoning_effort": "medium",
    });
    let completion = json!({"prompt": "[ok]>", "suffix": "", "echo": false, "logprobs": null});
    for (path, body) in [(CHAT, chat), (COMPLETE, completion)] {
        let answer = post(server.address, path, &with(&body, &neutral)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.contains("\"ok\""), "{}", answer.body);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_template_chat_says_where_to_go() {
    let server = Server::with(Setup { template: false, ..Setup::default() }).await;
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    assert_refused(
        &post(server.address, CHAT, &body).await,
        400,
        "",
        "/v1/completions",
        "no template",
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_format_for_calls_tools_say_which_flag_helps() {
    let server = Server::start().await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": tools});
    let answer = post(server.address, CHAT, &body).await;
    assert_refused(&answer, 400, "tool_choice", "--tool-call-parser", "no format");
    server.stop().await;
}

/// Such a request would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_needs_more_blocks_than_there_are_is_refused_at_once() {
    let server = Server::with(Setup { blocks: 16, ..Setup::default() }).await;
    for (more, param) in [
        (json!({"prompt": vec![1; 70], "max_tokens": 1}), "prompt"),
        (json!({"prompt": vec![1; 40], "max_tokens": 100}), "max_tokens"),
        (json!({"prompt": vec![1; 40], "max_tokens": 20, "n": 16}), "n"),
    ] {
        let answer = post(server.address, COMPLETE, &more).await;
        assert_refused(&answer, 400, param, "", &more.to_string());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logits_that_are_not_finite_fail_one_request_and_say_so() {
    let server = Server::with(Setup { poison: Some(b'!'), ..Setup::default() }).await;
    let body = json!({"prompt": "[ab!]>", "max_tokens": 9});
    let answer = post(server.address, COMPLETE, &body).await;
    assert_refused(&answer, 500, "", "not finite", "poison");
    let streamed = with(&body, &json!({"stream": true}));
    let events = post(server.address, COMPLETE, &streamed).await.events(false);
    let last = events.last().expect("an error at least");
    assert!(last["error"]["message"].as_str().is_some_and(|m| m.contains("not finite")), "{last}");
    assert_eq!(post(server.address, COMPLETE, &json!({"prompt": "[ok]>"})).await.status, 200);
    server.stop().await;
}
