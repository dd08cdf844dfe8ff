//! The same conversation in the words of other APIs: OpenAI's responses and Anthropic's messages.

use crate::common;
use crate::common::http::{Answer, get, post, request};
use crate::common::{Server, Setup, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// The events of a stream whose events have names: each name must be its event's type. Comments keep the connection alive.
fn named(answer: &Answer) -> Vec<Value> {
    let mut events = Vec::new();
    for block in
        answer.body.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'))
    {
        let (name, data) = block.split_once('\n').unwrap_or_else(|| panic!("{block}"));
        let data: Value =
            serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{block}");
        events.push(data);
    }
    events
}

fn types(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> =
        events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    types.dedup();
    types
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_says_what_the_model_said() {
    let server = Server::start().await;
    let body = json!({"input": "[hello]"});
    for (more, text, status) in [
        (json!({}), "hello", "completed"),
        (json!({"max_output_tokens": 3}), "hel", "incomplete"),
        (json!({"instructions": "Be brief", "temperature": 0.5}), "hello", "completed"),
        (json!({"truncate_prompt_tokens": 30}), "hello", "completed"),
        // As Codex sends it.
        (
            json!({
                "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}, "store": false,
                "prompt_cache_key": "1", "client_metadata": {"turn_id": "1"},
            }),
            "hello",
            "completed",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "[hello]"}]}]}),
            "hello",
            "completed",
        ),
    ] {
        let answer = post(server.address, RESPONSES, &with(&body, &more)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let whole = answer.json();
        assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!(status)));
        assert_eq!(whole["output"][0]["content"][0]["text"], text, "{whole}");
        assert_eq!(whole["instructions"], more["instructions"]);
        let usage = &whole["usage"];
        assert_eq!(usage["output_tokens"], if text == "hel" { 3 } else { 6 });
        let counted =
            ["input_tokens", "output_tokens"].map(|name| usage[name].as_u64().expect("a count"));
        assert_eq!(usage["total_tokens"], counted[0] + counted[1]);
        let path = "/v1/responses/input_tokens";
        let count = post(server.address, path, &with(&body, &more)).await.json();
        assert_eq!(count, json!({"object": "response.input_tokens", "input_tokens": counted[0]}));

        let streamed = with(&with(&body, &more), &json!({"stream": true}));
        let events = named(&post(server.address, RESPONSES, &streamed).await);
        let numbers: Vec<u64> =
            events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<u64>>());
        let last = format!("response.{status}");
        assert_eq!(
            types(&events),
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                &last
            ]
        );
        let told: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(told, text);
        let end = &events.last().unwrap()["response"];
        assert_eq!(end["output"][0]["content"], whole["output"][0]["content"]);
        assert_eq!(end["usage"]["output_tokens"], usage["output_tokens"]);
    }
    server.stop().await;
}

/// What came back is sent back, as stateless clients do, with the next thing to say.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_sent_back_as_it_came() {
    let server = Server::start().await;
    let include = json!(["message.output_text.logprobs"]);
    let body = json!({"input": "[one]", "include": include, "top_logprobs": 2});
    let first = post(server.address, RESPONSES, &body).await.json();
    let logprobs = first["output"][0]["content"][0]["logprobs"].as_array().expect("logprobs");
    assert_eq!(
        (logprobs.len(), logprobs[0]["top_logprobs"].as_array().map(Vec::len)),
        (4, Some(2))
    );
    let mut input = first["output"].as_array().expect("items").clone();
    input.insert(0, json!({"role": "user", "content": "[one]"}));
    input.push(json!({"type": "message", "role": "user", "content": "[two]"}));
    let answer = post(server.address, RESPONSES, &json!({"input": input})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["output"][0]["content"][0]["text"], "two");
    server.stop().await;
}

/// A later turn of the system, and what asks for nothing.
fn as_claude_code_sends_it() -> Value {
    json!({
        "messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "[hello]"}],
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"}, "thinking": {"type": "adaptive"},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_says_what_the_model_said() {
    let server = Server::start().await;
    let said = |text: &str| json!([{"role": "user", "content": text}]);
    let body = json!({"model": "tiny", "max_tokens": 30, "messages": said("[hello]")});
    let prefilled =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "[hello]>"}]);
    for (more, text, reason, sequence) in [
        (json!({}), "hello", "end_turn", Value::Null),
        (json!({"max_tokens": 3}), "hel", "max_tokens", Value::Null),
        (json!({"stop_sequences": ["x", "ll"]}), "he", "stop_sequence", json!("ll")),
        (
            json!({"system": [{"type": "text", "text": "Be brief"}]}),
            "hello",
            "end_turn",
            Value::Null,
        ),
        (json!({"messages": prefilled}), "hello", "end_turn", Value::Null),
        (as_claude_code_sends_it(), "hello", "end_turn", Value::Null),
    ] {
        let answer = post(server.address, MESSAGES, &with(&body, &more)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let whole = answer.json();
        assert_eq!(whole["content"], json!([{"type": "text", "text": text}]), "{more}");
        assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!(reason), &sequence));
        let events = named(
            &post(server.address, MESSAGES, &with(&with(&body, &more), &json!({"stream": true})))
                .await,
        );
        assert_eq!(
            types(&events),
            [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop"
            ]
        );
        let told: String =
            events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
        assert_eq!(told, text);
        let end = &events[events.len() - 2];
        assert_eq!(
            (&end["delta"]["stop_reason"], &end["delta"]["stop_sequence"]),
            (&json!(reason), &sequence)
        );
        assert_eq!(end["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
        // What is read is counted the same, wherever it came from.
        let read = |usage: &Value| {
            usage["input_tokens"].as_u64().unwrap()
                + usage["cache_read_input_tokens"].as_u64().unwrap()
        };
        assert_eq!(read(&end["usage"]), read(&whole["usage"]));
        let mut counted = with(&body, &more);
        let fields = counted.as_object_mut().unwrap();
        fields.retain(|name, _| !["max_tokens", "stop_sequences"].contains(&name.as_str()));
        let count = post(server.address, "/v1/messages/count_tokens", &counted).await.json();
        assert_eq!(count["input_tokens"], read(&whole["usage"]));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_these_endpoints_do_not_serve_is_named() {
    let server = Server::start().await;
    let responses = json!({"input": "[ok]"});
    for (more, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "file_search_call", "id": "x"}]}), "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type",
        ),
        (json!({"input": [{"role": "wizard", "content": "x"}]}), "input[0].role"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"store": "yes"}), "store"),
        (json!({"background": true}), "background"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"n": 2}), "n"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"max_output_tokens": 100_000}), "max_output_tokens"),
        (json!({"include": ["file_search_call.results"]}), "include"),
        (json!({"reasoning": {"summary": "detailed"}}), "reasoning.summary"),
        (json!({"top_logprobs": 1}), "top_logprobs"),
        (json!({"return_token_ids": true}), "return_token_ids"),
        (json!({"zebra": 1}), "zebra"),
    ] {
        let answer = post(server.address, RESPONSES, &with(&responses, &more)).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{more}: {}",
            answer.body
        );
    }
    let messages = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "[ok]"}]});
    for (more, word) in [
        (json!({"max_tokens": null}), "max_tokens is missing"),
        (json!({"max_tokens": 0}), "max_tokens must be from 1"),
        (json!({"messages": []}), "messages needs"),
        (json!({"messages": [{"role": "system", "content": "x"}]}), "messages[0].role must be"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            "messages[0].content[0].type is `image`",
        ),
        (json!({"stop_sequences": [""]}), "stop_sequences has an empty"),
        (json!({"container": "x"}), "container is not supported"),
        (json!({"top_p": 2}), "top_p must be"),
        (json!({"zebra": 1}), "zebra is an unknown"),
    ] {
        let answer = post(server.address, MESSAGES, &with(&messages, &more)).await;
        let error = answer.json();
        assert_eq!(
            (answer.status, &error["type"]),
            (400, &json!("error")),
            "{more}: {}",
            answer.body
        );
        assert_eq!(error["error"]["type"], "invalid_request_error");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.starts_with(word), "{more}: {message}");
        assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"));
    }
    let unknown = post(server.address, MESSAGES, &with(&messages, &json!({"model": "x"}))).await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["type"]),
        (404, &json!("not_found_error"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_come_in_either_header() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["alpha".to_owned()];
    let server = Server::with(setup).await;
    for (header, status) in [
        ("authorization: Bearer alpha\r\n", 200),
        ("x-api-key: alpha\r\n", 200),
        ("x-api-key: beta\r\n", 401),
        // One that is wrong is not made good by the other.
        ("authorization: Bearer beta\r\nx-api-key: alpha\r\n", 401),
        ("", 401),
    ] {
        let answer = request(server.address, "GET", "/v1/models", header, "").await;
        assert_eq!(answer.status, status, "{header:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_about_itself_but_no_path() {
    let server = Server::start().await;
    assert_eq!(get(server.address, "/load").await.json(), json!({"server_load": 0}));
    let version = get(server.address, "/version").await.json();
    assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION")}));
    let info = get(server.address, "/server_info").await.json();
    assert_eq!(info["limits"]["body_bytes"], 32 << 20);
    assert_eq!(info["limits"]["n"], 128);
    assert_eq!(info["engine"]["max_model_len"], common::MAX_MODEL_LEN);
    let model = get(server.address, "/get_model_info").await.json();
    assert_eq!((&model["model_path"], &model["is_generation"]), (&json!("tiny"), &json!(true)));
    assert_eq!(get(server.address, "/v1/models/org/tiny").await.json()["id"], "org/tiny");
    let body = json!({"prompt": "[hello]>", "max_tokens": 30});
    let timings = &post(server.address, "/v1/completions", &body).await.json()["timings"];
    assert_eq!(
        (&timings["predicted_n"], &timings["prompt_n"]),
        (&json!(6), &json!(9)),
        "{timings}"
    );
    assert!(timings["predicted_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{timings}");
    server.stop().await;
}

/// `store` is true unless told otherwise, so clients send it who never ask for what is stored.
#[tokio::test]
async fn nothing_is_stored_and_everybody_is_told() {
    let server = Server::start().await;
    for store in [json!(true), json!(false), Value::Null] {
        let answer =
            post(server.address, RESPONSES, &json!({"input": "[ok]", "store": store})).await;
        assert_eq!((answer.status, &answer.json()["store"]), (200, &json!(false)), "{store}");
    }
    let said = json!([{"role": "user", "content": "[ok]"}]);
    let answer = post(server.address, CHAT, &json!({"messages": said, "store": true})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = post(server.address, COMPLETIONS, &json!({"prompt": "Hi", "store": true})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for id in [format!("{RESPONSES}/resp_1"), format!("{CHAT}/chatcmpl-1")] {
        let stored = get(server.address, &id).await;
        let error = &stored.json()["error"];
        assert_eq!((stored.status, &error["type"]), (404, &json!("NotFoundError")), "{id}");
        assert!(
            error["message"].as_str().is_some_and(|it| it.contains("nothing is stored")),
            "{error}"
        );
    }
    server.stop().await;
}
