//! The parameters that vLLM adds to OpenAI's: what they change in the answer, in both endpoints.

use crate::common;
use crate::common::http::post;
use crate::common::{END, MAX_MODEL_LEN, Server, Setup, with};
use folio_core::params::GenerationDefaults;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

fn chat(script: &str, more: &Value) -> Value {
    let message = json!({"role": "user", "content": format!("[{script}]")});
    with(&json!({"messages": [message], "max_tokens": 30}), more)
}

fn complete(script: &str, more: &Value) -> Value {
    with(&json!({"prompt": format!("[{script}]>"), "max_tokens": 30}), more)
}

/// The text of the first choice, its finish and stop reasons.
async fn answer(server: &Server, path: &str, body: &Value) -> (String, Value, Value) {
    let answer = post(server.address, path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let choice = answer.json()["choices"][0].clone();
    let text = if path == CHAT { &choice["message"]["content"] } else { &choice["text"] };
    let text = text.as_str().expect("text").to_owned();
    (text, choice["finish_reason"].clone(), choice["stop_reason"].clone())
}

/// A token that is banned is replaced by the next one that is not: `l` by `m`, the end by a NUL.
#[tokio::test(flavor = "multi_thread")]
async fn bans_and_stops_shape_the_text() {
    let server = Server::start().await;
    let stop = |why: Value| (json!("stop"), why);
    let cases = [
        ("hi", json!({"min_tokens": 4}), "hi\0\0", stop(Value::Null)),
        ("hi", json!({"min_tokens": 4, "stop_token_ids": [105]}), "hj\0\0", stop(Value::Null)),
        // Stop strings are not looked for in the first tokens either.
        ("abcabc", json!({"min_tokens": 3, "stop": "b"}), "abca", stop(json!("b"))),
        ("hello", json!({"allowed_token_ids": [104, END]}), "hh", stop(Value::Null)),
        ("hello", json!({"bad_words": ["l"]}), "hemmo", stop(Value::Null)),
        ("hello", json!({"bad_words": ["el"]}), "hemlo", stop(Value::Null)),
        ("hello", json!({"bad_words": [" hel", "lo"]}), "hemlp", stop(Value::Null)),
        (
            "hello",
            json!({"stop": "ll", "include_stop_str_in_output": true}),
            "hell",
            stop(json!("ll")),
        ),
        (
            "hello",
            json!({"stop_token_ids": [111], "include_stop_str_in_output": true}),
            "hello",
            stop(json!(111)),
        ),
        (
            "hello",
            json!({"include_stop_str_in_output": true, "skip_special_tokens": false}),
            "hello<|end|>",
            stop(Value::Null),
        ),
        ("hello", json!({"spaces_between_special_tokens": false}), "hello", stop(Value::Null)),
    ];
    for (script, more, text, (finish, why)) in cases {
        for (path, body) in [(CHAT, chat(script, &more)), (COMPLETE, complete(script, &more))] {
            let expected = (text.to_owned(), finish.clone(), why.clone());
            assert_eq!(answer(&server, path, &body).await, expected, "{more} at {path}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_truncated_to_its_last_tokens() {
    let server = Server::start().await;
    let prompt = format!("{}[hello]>", "x".repeat(1000));
    for (kept, read) in [(json!(20), 20), (json!(-1), 226)] {
        let more = json!({"prompt": prompt, "truncate_prompt_tokens": kept, "echo": true});
        let body = post(server.address, COMPLETE, &complete("", &more)).await.json();
        assert_eq!(body["usage"]["prompt_tokens"], read, "{body}");
        let text = body["choices"][0]["text"].as_str().unwrap();
        assert!(text.ends_with("x[hello]>hello") && text.len() == read + 5, "{text}");
    }
    let message = json!([{"role": "user", "content": prompt}]);
    let more = json!({"messages": message, "truncate_prompt_tokens": 20});
    let body = post(server.address, CHAT, &chat("", &more)).await.json();
    assert_eq!(body["usage"]["prompt_tokens"], 20, "{body}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_are_told_streamed_or_not() {
    let server = Server::start().await;
    let said: Vec<u32> = b"hello".iter().map(|&byte| u32::from(byte)).chain([END]).collect();
    for (path, body) in
        [(CHAT, chat("hello", &json!({}))), (COMPLETE, complete("hello", &json!({})))]
    {
        let body = with(&body, &json!({"return_token_ids": true}));
        let whole = post(server.address, path, &body).await.json();
        let choice = &whole["choices"][0];
        assert_eq!(choice["token_ids"], json!(said), "{path}");
        let prompt =
            if path == CHAT { &whole["prompt_token_ids"] } else { &choice["prompt_token_ids"] };
        let read = whole["usage"]["prompt_tokens"].as_u64().unwrap();
        assert_eq!(prompt.as_array().map(Vec::len), usize::try_from(read).ok(), "{path}");

        let events =
            post(server.address, path, &with(&body, &json!({"stream": true}))).await.events(true);
        let first = if path == CHAT { &events[0] } else { &events[0]["choices"][0] };
        assert_eq!(&first["prompt_token_ids"], prompt, "{path}");
        let ids =
            events.iter().flat_map(|event| event["choices"][0]["token_ids"].as_array().unwrap());
        assert_eq!(
            ids.cloned().collect::<Vec<Value>>(),
            json!(said).as_array().unwrap()[..],
            "{path}"
        );
        let again = events.iter().skip(1).any(|event| {
            !event["prompt_token_ids"].is_null()
                || !event["choices"][0]["prompt_token_ids"].is_null()
        });
        assert!(!again, "the prompt is told once");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_logprobs_have_an_entry_per_token() {
    let server = Server::start().await;
    let more = json!({"prompt_logprobs": 2});
    for (path, body) in [(CHAT, chat("hello", &more)), (COMPLETE, complete("hello", &more))] {
        let whole = post(server.address, path, &body).await.json();
        let told = if path == CHAT {
            &whole["prompt_logprobs"]
        } else {
            &whole["choices"][0]["prompt_logprobs"]
        };
        let told = told.as_array().unwrap_or_else(|| panic!("{whole}"));
        assert_eq!(told.len() as u64, whole["usage"]["prompt_tokens"].as_u64().unwrap());
        assert!(told[0].is_null());
        for entry in &told[1..] {
            let entry = entry.as_object().expect("tokens by id");
            assert!((2..=3).contains(&entry.len()), "{entry:?}");
            let ranks: Vec<u64> = entry.values().filter_map(|one| one["rank"].as_u64()).collect();
            assert_eq!(ranks, [1, 2]);
            assert!(
                entry
                    .values()
                    .all(|one| one["logprob"].is_f64() && one["decoded_token"].is_string())
            );
        }
        let refusal = post(server.address, path, &with(&body, &json!({"stream": true}))).await;
        assert_eq!(
            (refusal.status, &refusal.json()["error"]["param"]),
            (400, &json!("prompt_logprobs"))
        );
    }
    let named = json!({"logprobs": 1, "return_tokens_as_token_ids": true});
    let whole = post(server.address, COMPLETE, &complete("h", &named)).await.json();
    assert_eq!(
        whole["choices"][0]["logprobs"]["tokens"],
        json!(["token_id:104", format!("token_id:{END}")])
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_message_can_be_continued_and_repeated() {
    let server = Server::start().await;
    let messages =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "[hello]>"}]);
    let body =
        json!({"messages": messages, "continue_final_message": true, "return_token_ids": true});
    let whole = post(server.address, CHAT, &body).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "hello");
    let ids = whole["prompt_token_ids"].as_array().unwrap();
    assert_eq!(ids.last(), Some(&json!(u32::from(b'>'))), "the message is not ended");
    let echoed = with(&body, &json!({"echo": true}));
    let whole = post(server.address, CHAT, &echoed).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "[hello]>hello");
    let streamed = with(&echoed, &json!({"stream": true}));
    let events = post(server.address, CHAT, &streamed).await.events(true);
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "[hello]>hello");
    let both = with(&body, &json!({"add_generation_prompt": true}));
    let refusal = post(server.address, CHAT, &both).await;
    assert_eq!(
        (refusal.status, &refusal.json()["error"]["param"]),
        (400, &json!("continue_final_message"))
    );
    server.stop().await;
}

/// What the template writes after the last message may have the same letters.
#[tokio::test(flavor = "multi_thread")]
async fn a_continued_prompt_ends_with_the_last_message_and_nothing_after_it() {
    let server = Server::start().await;
    for text in ["<", "end", "|>", "<|end", "One, two"] {
        let messages =
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]);
        let body = json!({"messages": messages, "continue_final_message": true});
        let whole = format!("<|start|>user: Hi<|end|><|start|>assistant: {text}");
        let plain = json!({"prompt": whole, "add_special_tokens": false});
        let shown = post(server.address, "/tokenize", &body).await;
        let wanted = post(server.address, "/tokenize", &plain).await;
        assert_eq!(shown.json()["tokens"], wanted.json()["tokens"], "{text}");
    }
    let nothing = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]);
    let body = json!({"messages": nothing, "max_tokens": 5});
    let refusal = post(server.address, "/v1/messages", &body).await;
    let message = refusal.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(refusal.status == 400 && message.starts_with("messages "), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_can_come_with_every_chunk() {
    let server = Server::start().await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let more = json!({"stream": true, "stream_options": options});
    for (path, body) in [(CHAT, chat("hello", &more)), (COMPLETE, complete("hello", &more))] {
        let events = post(server.address, path, &body).await.events(true);
        let counts: Vec<u64> = events
            .iter()
            .map(|event| event["usage"]["completion_tokens"].as_u64().expect("usage"))
            .collect();
        assert!(counts.is_sorted() && counts.last() == Some(&6) && counts[0] >= 1, "{counts:?}");
    }
    server.stop().await;
}

/// A chunk counts the choice it belongs to, with that choice's prompt; the last one counts everything.
#[tokio::test(flavor = "multi_thread")]
async fn usage_with_every_chunk_is_that_of_its_choice() {
    let server = Server::start().await;
    let more = json!({
        "stream": true, "n": 2, "max_tokens": 6, "ignore_eos": true, "return_token_ids": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
    });
    let prompts = json!(["one", "a longer one"]);
    let mut several = complete("", &more);
    several["prompt"] = prompts.clone();
    let mut lengths = Vec::new();
    for prompt in prompts.as_array().unwrap() {
        let shown = post(server.address, "/tokenize", &json!({ "prompt": prompt })).await.json();
        lengths.extend([shown["count"].as_u64().unwrap(); 2]);
    }
    for (path, body, prompts) in
        [(CHAT, chat("hello", &more), None), (COMPLETE, several, Some(lengths))]
    {
        let mut events = post(server.address, path, &body).await.events(true);
        let total = events.pop().unwrap()["usage"].clone();
        let prompts = prompts.unwrap_or_else(|| vec![total["prompt_tokens"].as_u64().unwrap(); 2]);
        let mut written = vec![0; prompts.len()];
        for event in &events {
            let choice = &event["choices"][0];
            let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
            written[index] += choice["token_ids"].as_array().unwrap().len();
            let usage = &event["usage"];
            assert_eq!(usage["completion_tokens"], written[index], "{event}");
            assert_eq!(usage["prompt_tokens"], prompts[index], "{event}");
            let sum = prompts[index] + u64::try_from(written[index]).unwrap();
            assert_eq!(usage["total_tokens"], sum, "{event}");
        }
        assert_eq!(written, vec![6; prompts.len()]);
        assert_eq!(total["completion_tokens"], 6 * prompts.len());
    }
    server.stop().await;
}

/// The makers' limit holds where the caller sets none, and never asks for more than there is room for.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_long_as_the_models_makers_say() {
    let defaults = GenerationDefaults { max_new_tokens: Some(7), ..GenerationDefaults::default() };
    let server = Server::with(Setup { defaults, ..Setup::default() }).await;
    let said = |text: &str| json!([{"role": "user", "content": text}]);
    let prompt = "x".repeat(usize::try_from(MAX_MODEL_LEN).unwrap() - 15);
    for (path, field, body, tokens) in [
        (CHAT, "completion_tokens", json!({"messages": said("Hi")}), 7),
        (CHAT, "completion_tokens", json!({"messages": said("Hi"), "max_tokens": 9}), 9),
        (CHAT, "completion_tokens", json!({"messages": said("Hi"), "min_tokens": 8}), 8),
        (CHAT, "completion_tokens", json!({"messages": said(&prompt)}), 6),
        ("/v1/responses", "output_tokens", json!({"input": "Hi"}), 7),
        ("/v1/messages", "output_tokens", json!({"messages": said("Hi"), "max_tokens": 9}), 9),
        // OpenAI's own default there.
        (COMPLETE, "completion_tokens", json!({"prompt": "Hi"}), 16),
    ] {
        let answer = post(server.address, path, &body).await;
        assert_eq!(answer.json()["usage"][field], tokens, "{path} {body}: {}", answer.body);
    }
    server.stop().await;
}

/// Nobody is refused for a length that he did not ask for.
#[tokio::test(flavor = "multi_thread")]
async fn the_makers_limit_gives_way_where_many_choices_share_the_memory() {
    let most = GenerationDefaults { max_new_tokens: Some(200), ..GenerationDefaults::default() };
    let server = Server::with(Setup { defaults: most, blocks: 100, ..Setup::default() }).await;
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "n": 8});
    let answer = post(server.address, CHAT, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let reasons = answer.json()["choices"]
        .as_array()
        .map(|choices| choices.iter().filter(|choice| choice["finish_reason"] == "length").count());
    assert_eq!(reasons, Some(8), "{}", answer.body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_bookkeeping_changes_no_answer() {
    let server = Server::start().await;
    let books = json!({
        "user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k", "request_id": "r",
    });
    for (path, body) in [(CHAT, chat("hello", &books)), (COMPLETE, complete("hello", &books))] {
        assert_eq!(answer(&server, path, &body).await.0, "hello", "{path}");
    }
    let body =
        json!({"input": "[hello]", "user": "u", "metadata": {"a": "b"}, "safety_identifier": "s"});
    let told = post(server.address, "/v1/responses", &body).await.json();
    assert_eq!(told["output"][0]["content"][0]["text"], "hello", "{told}");
    server.stop().await;
}

/// Times come with whole answers, and in streams with the counts.
#[tokio::test(flavor = "multi_thread")]
async fn timings_add_up_to_the_counts() {
    let server = Server::start().await;
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    for (path, body) in
        [(CHAT, chat("hello", &json!({}))), (COMPLETE, complete("hello", &json!({})))]
    {
        let whole = post(server.address, path, &body).await.json();
        let events = post(server.address, path, &with(&body, &stream)).await.events(true);
        let (last, others) = events.split_last().expect("events");
        assert!(others.iter().all(|event| event["timings"].is_null()), "{path}");
        for told in [&whole, last] {
            let (timings, usage) = (&told["timings"], &told["usage"]);
            let count = |value: &Value| value.as_u64().expect("a count");
            assert_eq!(timings["predicted_n"], usage["completion_tokens"], "{path}");
            let read = count(&timings["cache_n"]) + count(&timings["prompt_n"]);
            assert_eq!(read, count(&usage["prompt_tokens"]), "{path}");
            assert_eq!(timings["cache_n"], usage["prompt_tokens_details"]["cached_tokens"]);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn special_tokens_are_left_out_unless_they_are_asked_for() {
    let server = Server::start().await;
    let start = json!({"allowed_token_ids": [common::START], "max_tokens": 2});
    for (more, text) in [
        (json!({}), ""),
        (json!({"skip_special_tokens": true}), ""),
        (json!({"skip_special_tokens": false}), "<|start|><|start|>"),
    ] {
        let body = with(&complete("x", &more), &start);
        assert_eq!(answer(&server, COMPLETE, &body).await.0, text, "{more}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_hears_its_variables() {
    let server = Server::with(Setup { reasoning: true, ..Setup::default() }).await;
    for (kwargs, text) in [
        (json!({}), "loud"),
        (json!({"enable_thinking": true, "other": [1, {}]}), "loud"),
        (json!({"enable_thinking": false}), "quiet"),
    ] {
        let body = chat("loud", &json!({"chat_template_kwargs": kwargs}));
        assert_eq!(answer(&server, CHAT, &body).await.0, text, "{kwargs}");
        let body = json!({"messages": body["messages"], "chat_template_kwargs": kwargs});
        let counted = post(server.address, "/tokenize", &body).await.json()["count"].clone();
        assert_eq!(counted, if text == "loud" { 15 } else { 22 }, "{kwargs}");
    }
    for (effort, text) in [("none", "quiet"), ("medium", "loud")] {
        let body = chat("loud", &json!({"reasoning_effort": effort}));
        assert_eq!(answer(&server, CHAT, &body).await.0, text, "{effort}");
        let body = json!({"input": body["messages"], "reasoning": {"effort": effort}});
        let told = post(server.address, "/v1/responses", &body).await.json();
        assert_eq!(told["output"][0]["content"][0]["text"], text, "{told}");
        assert_eq!(told["reasoning"]["effort"], effort);
    }
    for (thinking, text) in [
        (json!({"type": "disabled"}), "quiet"),
        (json!({"type": "enabled"}), "loud"),
        (json!({"type": "adaptive"}), "loud"),
    ] {
        let body = chat("loud", &json!({"thinking": thinking}));
        let told = post(server.address, "/v1/messages", &body).await.json();
        assert_eq!(told["content"][0]["text"], text, "{told}");
    }
    server.stop().await;
}
