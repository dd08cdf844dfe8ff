//! What clients get when all is well: both endpoints, streamed and not, must tell the same story.

use crate::common::http::{get, post};
use crate::common::{END, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

/// A chat request whose answer is `script`, with `more` fields.
fn chat(script: &str, more: Value) -> Value {
    let mut body =
        json!({"model": "tiny", "messages": [{"role": "user", "content": format!("[{script}]")}]});
    extend(&mut body, more);
    body
}

/// A completion request whose answer is `script`, with `more` fields.
fn complete(script: &str, more: Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": format!("[{script}]>"), "max_tokens": 100});
    extend(&mut body, more);
    body
}

fn extend(body: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("an object of fields") };
    body.as_object_mut().expect("an object").extend(more);
}

/// Text, finish reason and stop reason of each choice of a stream, in the order of their indices.
fn gather(events: &[Value], text: impl Fn(&Value) -> &str) -> Vec<(String, Value, Value)> {
    let mut choices: Vec<(String, Value, Value)> = Vec::new();
    for choice in events.iter().flat_map(|event| event["choices"].as_array().expect("choices")) {
        let index =
            usize::try_from(choice["index"].as_u64().expect("an index")).expect("a small one");
        if choices.len() <= index {
            choices.resize(index + 1, (String::new(), Value::Null, Value::Null));
        }
        let gathered = &mut choices[index];
        assert!(gathered.1.is_null(), "a choice goes on after its end");
        gathered.0.push_str(text(choice));
        gathered.1 = choice["finish_reason"].clone();
        gathered.2 = choice["stop_reason"].clone();
    }
    choices
}

/// (request, then per choice: text, finish reason, stop reason, and the number of tokens of all together)
type Case = (&'static str, Value, Vec<(&'static str, Value, Value)>, u64);

fn cases() -> Vec<Case> {
    let end = |text| (text, json!("stop"), Value::Null);
    let stop = |text, why: Value| (text, json!("stop"), why);
    let length = |text| (text, json!("length"), Value::Null);
    vec![
        ("the end of sequence is counted and not shown", json!({}), vec![end("hello")], 6),
        ("a limit", json!({"max_tokens": 3}), vec![length("hel")], 3),
        ("a stop string is cut off", json!({"stop": "ll"}), vec![stop("he", json!("ll"))], 4),
        ("the first of several", json!({"stop": ["lo", "el"]}), vec![stop("h", json!("el"))], 3),
        ("a stop string that almost comes", json!({"stop": "lox"}), vec![end("hello")], 6),
        (
            "one that is cut by the limit",
            json!({"stop": "lox", "max_tokens": 4}),
            vec![length("hell")],
            4,
        ),
        (
            "a stop token is not shown",
            json!({"stop_token_ids": [111]}),
            vec![stop("hell", json!(111))],
            5,
        ),
        ("two choices", json!({"n": 2}), vec![end("hello"), end("hello")], 12),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_what_the_model_said_and_why_it_ended() {
    let server = Server::start().await;
    for (what, more, expected, tokens) in cases() {
        let expected: Vec<(String, Value, Value)> =
            expected.into_iter().map(|(text, why, stop)| (text.to_owned(), why, stop)).collect();
        for (path, body) in
            [(CHAT, chat("hello", more.clone())), (COMPLETE, complete("hello", more.clone()))]
        {
            let text = |choice: &Value| -> String {
                let text =
                    if path == CHAT { &choice["message"]["content"] } else { &choice["text"] };
                text.as_str().expect("text").to_owned()
            };
            let answer = post(server.address, path, &body).await;
            assert_eq!(answer.status, 200, "{what}: {}", answer.body);
            let whole = answer.json();
            let said: Vec<(String, Value, Value)> = whole["choices"]
                .as_array()
                .expect("choices")
                .iter()
                .map(|c| (text(c), c["finish_reason"].clone(), c["stop_reason"].clone()))
                .collect();
            assert_eq!(said, expected, "{what} at {path}");
            let usage = &whole["usage"];
            assert_eq!(usage["completion_tokens"], tokens, "{what} at {path}");
            assert_eq!(
                usage["total_tokens"].as_u64().unwrap(),
                usage["prompt_tokens"].as_u64().unwrap() + tokens
            );

            let mut streamed = body.clone();
            extend(
                &mut streamed,
                json!({"stream": true, "stream_options": {"include_usage": true}}),
            );
            let answer = post(server.address, path, &streamed).await;
            assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
            let mut events = answer.events(true);
            let last = events.pop().expect("a last event");
            assert_eq!(last["choices"], json!([]), "{what}");
            assert_eq!(last["usage"]["completion_tokens"], tokens, "{what} at {path}");
            assert!(
                events.iter().all(|event| event["usage"].is_null() && event["id"] == last["id"])
            );
            let delta = |choice: &Value| -> String {
                let text = if path == CHAT { &choice["delta"]["content"] } else { &choice["text"] };
                text.as_str().expect("text").to_owned()
            };
            let mut texts = Vec::new();
            for event in &events {
                texts.push(delta(&event["choices"][0]));
            }
            let gathered = gather(&events, |choice| {
                let text = if path == CHAT { &choice["delta"]["content"] } else { &choice["text"] };
                text.as_str().expect("text")
            });
            assert_eq!(gathered, expected, "{what} at {path}, streamed as {texts:?}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_stream_begins_each_choice_with_its_role() {
    let server = Server::start().await;
    let body = chat("one|two", json!({"n": 2, "stream": true, "temperature": 1.0}));
    let events = post(server.address, CHAT, &body).await.events(true);
    assert!(events.iter().all(|event| event.get("usage").is_none()), "nobody asked for usage");
    let mut seen = [false; 2];
    for choice in events.iter().map(|event| &event["choices"][0]) {
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        let first = !std::mem::replace(&mut seen[index], true);
        assert_eq!(choice["delta"]["role"] == "assistant", first, "{choice}");
    }
    let said = gather(&events, |choice| choice["delta"]["content"].as_str().unwrap());
    assert_eq!((said[0].0.as_str(), said[1].0.as_str()), ("one", "two"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn characters_are_never_split_and_stops_are_found_across_tokens() {
    let server = Server::start().await;
    // Every byte is a token, so every character beyond ASCII is split between tokens.
    let text = "Zoë ist müde. 日本語 🦀!";
    let body = complete(text, json!({"stream": true}));
    let events = post(server.address, COMPLETE, &body).await.events(true);
    assert!(
        events
            .iter()
            .all(|event| !event["choices"][0]["text"].as_str().unwrap().contains('\u{FFFD}'))
    );
    assert_eq!(gather(&events, |choice| choice["text"].as_str().unwrap())[0].0, text);
    let body = complete(text, json!({"stop": ["本語 🦀", "nowhere"], "stream": true}));
    let events = post(server.address, COMPLETE, &body).await.events(true);
    assert_eq!(gather(&events, |choice| choice["text"].as_str().unwrap())[0].0, "Zoë ist müde. 日");
    // An end in the middle of a character shows that something is missing.
    let body = complete("日", json!({"max_tokens": 2}));
    let answer = post(server.address, COMPLETE, &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "\u{FFFD}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_prompts_are_numbered_prompt_by_prompt() {
    let server = Server::start().await;
    let ids: Vec<u32> = "[x|y]>".bytes().map(u32::from).collect();
    let more = [
        (json!(["[a|b]>", "[c|d]>"]), vec!["a", "b", "c", "d"]),
        (json!([ids, ids]), vec!["x", "y", "x", "y"]),
        (json!(ids), vec!["x", "y"]),
    ];
    for (prompt, expected) in more {
        let body = json!({"prompt": prompt, "n": 2});
        let answer = post(server.address, COMPLETE, &body).await.json();
        let choices = answer["choices"].as_array().expect("choices");
        let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(texts, expected, "{prompt}");
        let indices: Vec<u64> = choices.iter().map(|c| c["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..indices.len() as u64).collect::<Vec<_>>());
        assert_eq!(answer["usage"]["completion_tokens"], 2 * expected.len());
        let mut streamed = body.clone();
        extend(&mut streamed, json!({"stream": true}));
        let events = post(server.address, COMPLETE, &streamed).await.events(true);
        let said = gather(&events, |choice| choice["text"].as_str().unwrap());
        assert_eq!(said.iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_logprobs_are_complete_and_in_order_whatever_is_held_back() {
    let server = Server::start().await;
    let more = json!({"logprobs": true, "top_logprobs": 2, "stop": "llx"});
    let check = |content: &[Value], tokens: u64| {
        assert_eq!(content.len() as u64, tokens, "one entry per token that is counted");
        let spelled: String = content.iter().map(|c| c["token"].as_str().unwrap()).collect();
        assert_eq!(spelled, "hello<|end|>");
        for entry in content {
            let top = entry["top_logprobs"].as_array().expect("alternatives");
            assert_eq!(top.len(), 2);
            assert_eq!(top[0]["token"], entry["token"], "the stand-in's token is its likeliest");
            assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
            let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
            assert_eq!(String::from_utf8_lossy(&bytes), entry["token"].as_str().unwrap());
        }
    };
    let whole = post(server.address, CHAT, &chat("hello", more.clone())).await.json();
    check(whole["choices"][0]["logprobs"]["content"].as_array().unwrap(), 6);
    let mut streamed = chat("hello", more);
    extend(&mut streamed, json!({"stream": true}));
    let events = post(server.address, CHAT, &streamed).await.events(true);
    let content: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    check(&content, 6);
    let plain = post(server.address, CHAT, &chat("hello", json!({}))).await.json();
    assert!(plain["choices"][0]["logprobs"].is_null());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_logprobs_say_where_each_token_begins() {
    let server = Server::start().await;
    let body = complete("aé", json!({"logprobs": 1, "echo": true, "max_tokens": 3}));
    let mut streamed = body.clone();
    extend(&mut streamed, json!({"stream": true}));
    let whole = post(server.address, COMPLETE, &body).await.json();
    let events = post(server.address, COMPLETE, &streamed).await.events(true);
    let mut joined =
        json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    for event in &events {
        let logprobs = &event["choices"][0]["logprobs"];
        for (name, list) in joined.as_object_mut().unwrap() {
            let part = logprobs[name].as_array().expect("four lists of one length");
            list.as_array_mut().unwrap().extend(part.iter().cloned());
        }
    }
    let said = &whole["choices"][0];
    assert_eq!(&joined, &said["logprobs"]);
    assert_eq!(said["text"], "[aé]>aé");
    let expected =
        ["<|bos|>", "[", "a", "\u{FFFD}", "\u{FFFD}", "]", ">", "a", "\u{FFFD}", "\u{FFFD}"];
    assert_eq!(joined["tokens"], json!(expected));
    assert_eq!(joined["text_offset"], json!([0, 0, 1, 2, 2, 3, 4, 5, 6, 6]));
    assert!(joined["token_logprobs"][0].is_null() && joined["top_logprobs"][0].is_null());
    for (index, token) in expected.iter().enumerate().skip(1) {
        assert_eq!(
            joined["top_logprobs"][index][token], joined["token_logprobs"][index],
            "{token}"
        );
    }
    server.stop().await;
}

/// Whoever only wants a prompt's scores asks for no token at all, and gets what comes before the first one otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_may_be_scored_alone() {
    let server = Server::start().await;
    let more = json!({"logprobs": 1, "echo": true, "n": 2, "prompt": ["[aé]>", "[b]>"]});
    let ask = |max_tokens: u32| {
        let mut body = complete("", more.clone());
        extend(&mut body, json!({"max_tokens": max_tokens}));
        body
    };
    let scored = post(server.address, COMPLETE, &ask(0)).await.json();
    let longer = post(server.address, COMPLETE, &ask(3)).await.json();
    assert_eq!(scored["choices"].as_array().map(Vec::len), Some(4));
    let both = [&scored, &longer].map(|answer| answer["choices"].as_array().unwrap());
    for (scored, longer) in both[0].iter().zip(both[1]) {
        let tokens = scored["logprobs"]["tokens"].as_array().unwrap().len();
        for (name, list) in scored["logprobs"].as_object().unwrap() {
            let list = list.as_array().unwrap();
            assert_eq!(*list, longer["logprobs"][name].as_array().unwrap()[..tokens], "{name}");
        }
        assert!(longer["text"].as_str().unwrap().starts_with(scored["text"].as_str().unwrap()));
        assert_eq!(scored["finish_reason"], "length");
    }
    assert_eq!(scored["choices"][0]["text"], "[aé]>");
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    assert_eq!(scored["usage"]["total_tokens"], scored["usage"]["prompt_tokens"]);
    let mut streamed = ask(0);
    extend(&mut streamed, json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = post(server.address, COMPLETE, &streamed).await.events(true);
    let texts = gather(&events, |choice| choice["text"].as_str().unwrap());
    assert_eq!(
        texts.iter().map(|text| &*text.0).collect::<Vec<_>>(),
        ["[aé]>", "[aé]>", "[b]>", "[b]>"]
    );
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_of_token_ids_is_their_text() {
    let server = Server::start().await;
    let ids: Vec<u32> = "[é]>".bytes().map(u32::from).collect();
    let body = json!({"prompt": ids, "echo": true, "stream": true, "n": 2});
    let events = post(server.address, COMPLETE, &body).await.events(true);
    for choice in gather(&events, |choice| choice["text"].as_str().unwrap()) {
        assert_eq!(choice.0, "[é]>é");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_repeat_and_their_absence_does_not() {
    let server = Server::start().await;
    let ask = |more: Value| {
        let mut body = json!({"prompt": "no script", "max_tokens": 24, "temperature": 1.0});
        extend(&mut body, more);
        body
    };
    let address = server.address;
    let say = async |body: Value| {
        post(address, COMPLETE, &body).await.json()["choices"][0]["text"].clone()
    };
    assert_eq!(say(ask(json!({"seed": 5}))).await, say(ask(json!({"seed": 5}))).await);
    assert_ne!(say(ask(json!({"seed": 5}))).await, say(ask(json!({"seed": -5}))).await);
    assert_ne!(say(ask(json!({}))).await, say(ask(json!({}))).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_tokens_are_reported_and_salts_separate_caches() {
    let server = Server::start().await;
    let address = server.address;
    let cached = async |more: Value| {
        let body = complete("a prompt of more than one block", more);
        post(address, COMPLETE, &body).await.json()["usage"]["prompt_tokens_details"]["cached_tokens"].clone()
    };
    assert_eq!(cached(json!({})).await, 0);
    // All but the last token, the half-filled last block included.
    assert_eq!(cached(json!({})).await, 34);
    assert_eq!(cached(json!({"cache_salt": "mine"})).await, 0);
    assert_eq!(cached(json!({"cache_salt": "mine"})).await, 34);
    assert_eq!(cached(json!({"cache_salt": "yours"})).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_the_template_as_they_were_meant() {
    let server = Server::start().await;
    let cases = [
        (json!([{"role": "user", "content": "Hi"}]), "<|start|>user: Hi<|end|>>"),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b", "type": "text"}]}]),
            "<|start|>user: a\nb<|end|>>",
        ),
        (
            json!([{"role": "system", "content": "S"}, {"role": "developer", "content": "D"},
                   {"role": "assistant", "content": null, "tool_calls": [
                       {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
                   {"role": "tool", "content": "T", "tool_call_id": "c"}]),
            "<|start|>system: S<|end|><|start|>developer: D<|end|><|start|>assistant: None<|end|><|start|>tool: T<|end|>>",
        ),
    ];
    for (messages, expected) in cases {
        let answer = post(server.address, "/tokenize", &json!({"messages": messages})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let tokens = answer.json();
        let text = post(server.address, "/detokenize", &json!({"tokens": tokens["tokens"]})).await;
        assert_eq!(text.json()["prompt"], expected);
    }
    // A template that knows no developers hears the system.
    let plain = json!({
        "messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": "Hi"}],
        "chat_template_kwargs": {"plain": true},
    });
    let tokens = post(server.address, "/tokenize", &plain).await.json();
    let text = post(server.address, "/detokenize", &json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(text.json()["prompt"], "<|start|>system: D<|end|><|start|>user: Hi<|end|>>");
    let open =
        json!({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": false});
    let tokens = post(server.address, "/tokenize", &open).await.json();
    assert_eq!(tokens["tokens"].as_array().unwrap().last(), Some(&json!(END)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_models_are_described() {
    let server = Server::start().await;
    let answer =
        post(server.address, "/tokenize", &json!({"prompt": "é", "return_token_strs": true})).await;
    let tokens = answer.json();
    assert_eq!(tokens["tokens"], json!([256, 195, 169]));
    assert_eq!((&tokens["count"], &tokens["max_model_len"]), (&json!(3), &json!(256)));
    assert_eq!(tokens["token_strs"].as_array().unwrap().len(), 3);
    let bare = json!({"prompt": "é", "add_special_tokens": false});
    assert_eq!(post(server.address, "/tokenize", &bare).await.json()["tokens"], json!([195, 169]));

    let list = get(server.address, "/v1/models").await.json();
    assert_eq!(list["data"][0]["id"], "tiny");
    for name in ["tiny", "org/tiny"] {
        let card = get(server.address, &format!("/v1/models/{name}")).await.json();
        assert_eq!((card["id"].as_str(), card["max_model_len"].as_u64()), (Some(name), Some(256)));
    }
    assert_eq!(get(server.address, "/v1/models/org%2Ftiny").await.status, 200);
    let named =
        post(server.address, COMPLETE, &complete("x", json!({"model": "org/tiny"}))).await.json();
    assert_eq!(named["model"], "org/tiny");
    server.stop().await;
}
