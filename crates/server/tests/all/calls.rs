//! Calls and thoughts in three dialects: chat, OpenAI's responses and Anthropic's messages, streamed and not.

use crate::common::http::{Answer, post};
use crate::common::{Server, Setup, with};
use folio_text::{MistralStyle, ToolFormat};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn schema() -> Value {
    json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false})
}

fn tools(path: &str) -> Value {
    match path {
        CHAT => json!([{"type": "function", "function": {"name": "f", "parameters": schema()}}]),
        RESPONSES => {
            json!([{"type": "function", "name": "f", "parameters": schema(), "strict": true}])
        }
        _ => json!([{"name": "f", "description": "d", "input_schema": schema()}]),
    }
}

/// The wish for a text that is no call.
fn format(path: &str) -> Value {
    let schema = json!({"enum": [7]});
    match path {
        CHAT => {
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}})
        }
        RESPONSES => {
            json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}})
        }
        _ => json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
    }
}

/// A request whose answer is `script`.
fn ask(path: &str, script: &str, more: &Value) -> Value {
    let said = json!([{"role": "user", "content": format!("[{script}]")}]);
    let base = match path {
        CHAT => json!({"messages": said, "max_tokens": 120, "temperature": 0}),
        RESPONSES => json!({"input": said, "max_output_tokens": 120, "temperature": 0}),
        _ => json!({"messages": said, "max_tokens": 120, "temperature": 0}),
    };
    with(&base, more)
}

async fn good(server: &Server, path: &str, body: &Value) -> Answer {
    let answer = post(server.address, path, body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer
}

/// What an answer says, in no dialect: a list of blocks without ids, and how it ended.
fn plain(path: &str, whole: &Value) -> (Vec<Value>, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let call = |name: &Value, arguments: &Value| {
        let read: Value = serde_json::from_str(&text(arguments)).unwrap_or(Value::Null);
        json!({"call": name, "with": read})
    };
    match path {
        CHAT => {
            let choice = &whole["choices"][0];
            let message = &choice["message"];
            let mut blocks = Vec::new();
            blocks.extend(message["reasoning"].as_str().map(|it| json!({"thought": it})));
            let said = message["content"].as_str().filter(|it| !it.trim().is_empty());
            blocks.extend(said.map(|it| json!({"text": it})));
            let calls = message["tool_calls"].as_array().into_iter().flatten();
            blocks.extend(
                calls.map(|it| call(&it["function"]["name"], &it["function"]["arguments"])),
            );
            (blocks, text(&choice["finish_reason"]))
        }
        RESPONSES => {
            let block = |item: &Value| match item["type"].as_str() {
                Some("reasoning") => json!({"thought": item["content"][0]["text"]}),
                Some("message") => json!({"text": item["content"][0]["text"]}),
                _ => call(&item["name"], &item["arguments"]),
            };
            let items = whole["output"].as_array().expect("items");
            (items.iter().map(block).collect(), text(&whole["status"]))
        }
        _ => {
            let block = |block: &Value| match block["type"].as_str() {
                Some("thinking") => json!({"thought": block["thinking"]}),
                Some("text") => json!({"text": block["text"]}),
                _ => json!({"call": block["name"], "with": block["input"]}),
            };
            let blocks = whole["content"].as_array().expect("blocks");
            (blocks.iter().map(block).collect(), text(&whole["stop_reason"]))
        }
    }
}

/// The message that the events of a stream add up to, as Anthropic's client adds them up.
fn message_of(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    let mut json = String::new();
    for event in events {
        let blocks = message["content"].as_array_mut().expect("blocks");
        let add = |to: &mut Value, more: &Value| {
            *to = json!(to.as_str().unwrap().to_owned() + more.as_str().unwrap());
        };
        match event["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                json.clear();
            }
            "content_block_delta" => {
                let block = blocks.last_mut().expect("a block");
                let delta = &event["delta"];
                match delta["type"].as_str().expect("a type") {
                    "text_delta" => add(&mut block["text"], &delta["text"]),
                    "thinking_delta" => add(&mut block["thinking"], &delta["thinking"]),
                    "input_json_delta" => json += delta["partial_json"].as_str().unwrap(),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" if !json.is_empty() => {
                blocks.last_mut().expect("a block")["input"] =
                    serde_json::from_str(&json).expect("arguments");
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
            }
            _ => {}
        }
    }
    message
}

/// The response that the events of a stream end with, after checking that they add up to it.
fn response_of(events: &[Value]) -> Value {
    let mut items: Vec<Value> = Vec::new();
    let mut told = String::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        let kind = event["type"].as_str().expect("a type");
        match kind {
            "response.output_item.added" => {
                assert_eq!(event["output_index"], items.len());
                items.push(event["item"].clone());
                told.clear();
            }
            "response.output_item.done" => {
                let last = items.last_mut().expect("an item");
                assert_eq!(last["id"], event["item"]["id"]);
                *last = event["item"].clone();
            }
            _ if kind.ends_with(".delta") => {
                assert_eq!(event["item_id"], items.last().expect("an item")["id"]);
                told += event["delta"].as_str().expect("a delta");
            }
            "response.content_part.added" => assert_eq!(event["part"]["text"], ""),
            "response.content_part.done" => assert_eq!(event["part"]["text"], told),
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], told),
            _ if kind.ends_with(".done") => assert_eq!(event["text"], told),
            _ => {}
        }
    }
    let response = events.last().expect("an end")["response"].clone();
    assert_eq!(response["output"], json!(items));
    response
}

/// The data of all events, whatever their names.
fn data(answer: &Answer) -> Vec<Value> {
    answer.events(false)
}

/// What an answer says, which must be the same when it is streamed.
async fn said(server: &Server, path: &str, body: &Value) -> (Vec<Value>, String) {
    let whole = plain(path, &good(server, path, body).await.json());
    if path != CHAT {
        let streamed = good(server, path, &with(body, &json!({"stream": true}))).await;
        let events = data(&streamed);
        let joined = if path == RESPONSES { response_of(&events) } else { message_of(&events) };
        assert_eq!(plain(path, &joined), whole, "{body}");
    }
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_writes_is_read_alike_in_all_dialects() {
    let args = ToolFormat::Mistral { writes: MistralStyle::Args };
    for (format, script, blocks) in [
        (
            ToolFormat::Hermes,
            "<think>Hm.</think>\n\nI look.\n<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>",
            json!([{"thought": "Hm."}, {"text": "\n\nI look.\n"}, {"call": "f", "with": {"a": 1}}]),
        ),
        (
            ToolFormat::Llama3,
            "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"f\", \"parameters\": {\"a\": 2}}",
            json!([{"call": "f", "with": {"a": 1}}, {"call": "f", "with": {"a": 2}}]),
        ),
        (args, "[TOOL_CALLS]f[ARGS]{\"a\": 2}", json!([{"call": "f", "with": {"a": 2}}])),
    ] {
        let reasoning = format == ToolFormat::Hermes;
        let setup = Setup { tools: Some(format), reasoning, ..Setup::default() };
        let server = Server::with(setup).await;
        for (path, ending) in
            [(CHAT, "tool_calls"), (RESPONSES, "completed"), (MESSAGES, "tool_use")]
        {
            let body = ask(path, script, &json!({"tools": tools(path)}));
            let (told, ended) = said(&server, path, &body).await;
            assert_eq!((json!(told), ended.as_str()), (blocks.clone(), ending), "{path}");
            // One call at most, if that is asked for.
            let alone = match path {
                MESSAGES => {
                    json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}})
                }
                _ => json!({"parallel_tool_calls": false}),
            };
            let (told, _) = said(&server, path, &with(&body, &alone)).await;
            assert_eq!(told.iter().filter(|block| block["call"].is_string()).count(), 1, "{path}");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_demanded_is_made() {
    // Nobody knows how this model writes its calls: a grammar makes it write some.
    let server = Server::start().await;
    for (path, any, one) in [
        (CHAT, json!("required"), json!({"type": "function", "function": {"name": "f"}})),
        (RESPONSES, json!("required"), json!({"type": "function", "name": "f"})),
        (
            MESSAGES,
            json!({"type": "any", "disable_parallel_tool_use": true}),
            json!({"type": "tool", "name": "f"}),
        ),
    ] {
        for choice in [any, one] {
            let mut body = ask(path, "no", &json!({"tools": tools(path), "tool_choice": choice}));
            if path != MESSAGES {
                body = with(&body, &json!({"parallel_tool_calls": false}));
            }
            // A format is that of texts, and here there is none.
            for body in [with(&body, &format(path)), body] {
                let (told, _) = said(&server, path, &body).await;
                assert!(
                    matches!(&told[..], [call] if call["call"] == "f" && call["with"]["a"].is_u64()),
                    "{path}: {told:?}"
                );
            }
        }
        let silent = if path == MESSAGES { json!({"type": "none"}) } else { json!("none") };
        let body = ask(path, "no", &json!({"tools": tools(path), "tool_choice": silent}));
        assert_eq!(said(&server, path, &body).await.0, [json!({"text": "no"})], "{path}");
    }
    server.stop().await;
}

/// What came back is sent back with what the call led to, as stateless clients do. The tests' template shows contents only.
#[tokio::test(flavor = "multi_thread")]
async fn calls_and_their_results_can_be_sent_back() {
    let setup = Setup { tools: Some(ToolFormat::Llama3), reasoning: true, ..Setup::default() };
    let server = Server::with(setup).await;
    let script = "<think>Hm.</think>{\"name\": \"f\", \"parameters\": {\"a\": 1}}";
    let asked = |path: &str| ask(path, script, &json!({"tools": tools(path)}));

    let first = good(&server, RESPONSES, &asked(RESPONSES)).await.json();
    let mut input = first["output"].as_array().expect("items").clone();
    let kinds: Vec<&str> = input.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "function_call"]);
    let call_id = input[1]["call_id"].clone();
    input.insert(0, json!({"role": "user", "content": "Hi"}));
    for output in [json!("[done]"), json!([{"type": "input_text", "text": "[done]"}])] {
        let result = json!({"type": "function_call_output", "call_id": call_id, "output": output});
        let again = [&input[..], &[result]].concat();
        let body = json!({"input": again, "tools": tools(RESPONSES), "temperature": 0});
        assert_eq!(said(&server, RESPONSES, &body).await.0, [json!({"text": "done"})]);
        let count = good(&server, "/v1/responses/input_tokens", &body).await.json();
        let usage = good(&server, RESPONSES, &body).await.json()["usage"].clone();
        assert_eq!(count["input_tokens"], usage["input_tokens"]);
    }

    let first = good(&server, MESSAGES, &asked(MESSAGES)).await.json();
    let id = &first["content"][1]["id"];
    for (content, failed) in
        [(json!("[done]"), false), (json!([{"type": "text", "text": "[done]"}]), true)]
    {
        let result = json!({"type": "tool_result", "tool_use_id": id, "content": content, "is_error": failed});
        let turns = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [result]},
        ]);
        let body = json!({"messages": turns, "max_tokens": 9, "tools": tools(MESSAGES)});
        assert_eq!(said(&server, MESSAGES, &body).await.0, [json!({"text": "done"})]);
        let mut counted = body.clone();
        counted.as_object_mut().unwrap().remove("max_tokens");
        let count = good(&server, "/v1/messages/count_tokens", &counted).await.json();
        let usage = good(&server, MESSAGES, &body).await.json()["usage"].clone();
        let read =
            ["input_tokens", "cache_read_input_tokens"].map(|it| usage[it].as_u64().unwrap());
        assert_eq!(count["input_tokens"], read[0] + read[1]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thoughts_are_counted_bounded_and_left_out() {
    let server = Server::with(Setup { reasoning: true, ..Setup::default() }).await;
    let script = "<think>abcdef</think>Yes";
    let blocks = [json!({"thought": "abcdef"}), json!({"text": "Yes"})];
    for path in [CHAT, RESPONSES, MESSAGES] {
        assert_eq!(said(&server, path, &ask(path, script, &json!({}))).await.0, blocks, "{path}");
    }
    // Six letters and the marks around them.
    let usage = good(&server, RESPONSES, &ask(RESPONSES, script, &json!({}))).await.json();
    assert_eq!(usage["usage"]["output_tokens_details"]["reasoning_tokens"], 8);
    let usage = good(&server, CHAT, &ask(CHAT, script, &json!({}))).await.json();
    assert_eq!(usage["usage"]["completion_tokens_details"]["reasoning_tokens"], 8);
    assert_eq!(usage["usage"]["completion_tokens"], 12);
    let hidden = json!({"include_reasoning": false});
    assert_eq!(said(&server, CHAT, &ask(CHAT, script, &hidden)).await.0, blocks[1..]);
    let thinking = |thinking: Value| ask(MESSAGES, script, &json!({"thinking": thinking}));
    for (asked, wanted) in [
        (json!({"type": "adaptive", "display": "omitted"}), &blocks[1..]),
        (json!({"type": "enabled", "budget_tokens": 7}), &blocks[..]),
    ] {
        assert_eq!(said(&server, MESSAGES, &thinking(asked)).await.0, wanted);
    }
    // The mark that ends the thinking comes when the budget is spent; the script goes on by position.
    let bounded =
        said(&server, MESSAGES, &thinking(json!({"type": "enabled", "budget_tokens": 3}))).await.0;
    assert_eq!(bounded[0], json!({"thought": "ab"}), "{bounded:?}");
    // A grammar holds from the end of the thinking on, whether the model thinks or not.
    let one = json!({"type": "json_schema", "name": "x", "schema": {"enum": ["Yes"]}});
    let format = json!({"text": {"format": one}});
    for script in [script, "\"Yes\"", "<think>a</think>No"] {
        let told = said(&server, RESPONSES, &ask(RESPONSES, script, &format)).await.0;
        assert_eq!(told.last(), Some(&json!({"text": "\"Yes\""})), "{script}: {told:?}");
        assert_eq!(told.len(), 1 + usize::from(script.starts_with('<')), "{told:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_are_followed_in_all_dialects() {
    let server = Server::start().await;
    let schema = schema();
    let chat = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let responses = json!({"text": {"format": {"type": "json_schema", "name": "x", "strict": true, "schema": schema}}});
    let messages = json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let beta = json!({"output_format": {"type": "json_schema", "schema": schema}});
    for (path, more) in
        [(CHAT, chat), (RESPONSES, responses), (MESSAGES, messages), (MESSAGES, beta)]
    {
        let (told, _) = said(&server, path, &ask(path, "no", &more)).await;
        let text = told[0]["text"].as_str().expect("a text");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"));
        assert!(value["a"].is_u64(), "{path}: {text}");
        if path == RESPONSES {
            let whole = good(&server, path, &ask(path, "no", &more)).await.json();
            assert_eq!(whole["text"]["format"]["schema"], more["text"]["format"]["schema"]);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_repeats_how_it_was_asked_for() {
    let server = Server::start().await;
    let more = json!({
        "tools": tools(RESPONSES), "tool_choice": "required", "parallel_tool_calls": false,
        "metadata": {"trace": "7"}, "reasoning": {"effort": "medium"}, "text": {"verbosity": "medium"},
    });
    let whole = good(&server, RESPONSES, &ask(RESPONSES, "no", &more)).await.json();
    for field in ["tools", "tool_choice", "parallel_tool_calls", "metadata"] {
        assert_eq!(whole[field], more[field], "{field}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_responses_do_not_serve_is_named() {
    let server = Server::start().await;
    let call = json!({"type": "function_call", "name": "f", "arguments": "{}"});
    for (more, param) in [
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "name": "a b"}]}), "tools[0].name"),
        (json!({"tools": [{"type": "function", "name": "f", "x": 1}]}), "tools[0].x"),
        (json!({"tools": tools(RESPONSES)}), "tool_choice"),
        (json!({"tools": tools(RESPONSES), "tool_choice": "maybe"}), "tool_choice"),
        (
            json!({"tools": tools(RESPONSES), "tool_choice": {"type": "function", "name": "g"}}),
            "tool_choice.name",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"reasoning": {"effort": "high"}}), "reasoning.effort"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"format": {"type": "json_schema", "name": "x"}}}), "text.format.schema"),
        (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        (json!({"input": [call]}), "input[0].call_id"),
        (
            json!({"input": [with(&call, &json!({"call_id": "1", "role": "user"}))]}),
            "input[0].role",
        ),
        (json!({"input": [{"type": "function_call_output", "call_id": "1"}]}), "input[0].output"),
        (
            json!({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}),
            "input[0].encrypted_content",
        ),
    ] {
        let answer = post(server.address, RESPONSES, &ask(RESPONSES, "no", &more)).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (400, &json!(param)), "{more}: {error}");
        assert!(error["message"].as_str().unwrap().starts_with(param), "{error}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_messages_do_not_serve_is_named() {
    let server = Server::start().await;
    let turn = |role: &str, block: Value| json!({"messages": [{"role": role, "content": [block]}]});
    let result = json!({"type": "tool_result", "tool_use_id": "1"});
    let use_f = json!({"type": "tool_use", "id": "1", "name": "f", "input": {}});
    for (more, words) in [
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0].type is"),
        (json!({"tools": [{"name": "f", "input_schema": 1}]}), "tools[0].input_schema must"),
        (
            json!({"tools": tools(MESSAGES), "tool_choice": {"type": "some"}}),
            "tool_choice.type must",
        ),
        (
            json!({"tools": tools(MESSAGES), "tool_choice": {"type": "tool"}}),
            "tool_choice.name is missing",
        ),
        (
            json!({"tools": tools(MESSAGES), "tool_choice": {"type": "any", "x": 1}}),
            "tool_choice.x is",
        ),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 9}}), "thinking.type cannot"),
        (
            json!({"thinking": {"type": "adaptive", "budget_tokens": 9}}),
            "thinking.budget_tokens only",
        ),
        (json!({"output_config": {"effort": "low"}}), "output_config.effort must be `high`"),
        (
            json!({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": 1}]}}),
            "context_management.edits may have",
        ),
        (json!({"context_management": {"edits": 1}}), "context_management.edits may have"),
        (json!({"context_management": 1}), "context_management must be"),
        (
            json!({"messages": [
                {"role": "user", "content": "Hi"}, {"role": "system", "content": [&result]},
            ]}),
            "messages[1].content[0].type only",
        ),
        (
            json!({"output_config": {"format": {"type": "json_schema"}}}),
            "output_config.format.schema is missing",
        ),
        (turn("assistant", result.clone()), "messages[0].content[0].type only"),
        (turn("user", use_f.clone()), "messages[0].content[0].type only"),
        (
            turn("user", with(&result, &json!({"text": "x"}))),
            "messages[0].content[0].text does not go",
        ),
        (
            turn("user", json!({"type": "tool_result"})),
            "messages[0].content[0].tool_use_id is missing",
        ),
        (turn("assistant", use_f), "messages ends with"),
    ] {
        let answer = post(server.address, MESSAGES, &ask(MESSAGES, "no", &more)).await;
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{more}: {message}");
        assert!(message.starts_with(words), "{more}: {message}");
    }
    server.stop().await;
}
