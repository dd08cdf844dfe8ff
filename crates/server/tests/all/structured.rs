//! Output that follows a grammar, calls of tools, and thoughts: what clients get, streamed and not.

use crate::common::http::{Answer, get, post};
use crate::common::{Server, Setup, with};
use folio_text::ToolFormat;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

/// A chat request whose answer is `script`, as far as it is allowed.
fn chat(script: &str, more: &Value) -> Value {
    let body = json!({"messages": [{"role": "user", "content": format!("[{script}]")}], "max_tokens": 160});
    with(&body, more)
}

fn tool(name: &str, parameters: &Value) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters, "strict": true}})
}

fn weather() -> Value {
    let parameters = json!({
        "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false,
    });
    json!([
        tool("weather", &parameters),
        tool("now", &json!({"type": "object", "additionalProperties": false}))
    ])
}

/// The answer's first choice, once whole and once put together from a stream; they must be equal.
async fn both(server: &Server, body: &Value) -> Value {
    let whole = post(server.address, CHAT, body).await;
    assert_eq!(whole.status, 200, "{}", whole.body);
    let streamed = with(body, &json!({"stream": true}));
    let streamed = post(server.address, CHAT, &streamed).await;
    assert_eq!(streamed.status, 200, "{}", streamed.body);
    let mut whole = whole.json()["choices"][0].clone();
    let joined = joined(&streamed);
    forget_ids(&mut whole["message"]["tool_calls"]);
    for field in ["content", "reasoning", "tool_calls"] {
        let empty = |value: &Value| value.is_null() || *value == json!("") || *value == json!([]);
        let (one, other) = (&whole["message"][field], &joined[field]);
        assert!(one == other || (empty(one) && empty(other)), "{field}: {one} and {other}");
    }
    assert_eq!(whole["finish_reason"], joined["finish_reason"]);
    whole
}

/// Ids are made anew for every answer.
fn forget_ids(calls: &mut Value) {
    let mut ids = Vec::new();
    for call in calls.as_array_mut().into_iter().flatten() {
        ids.push(call["id"].as_str().expect("an id").to_owned());
        assert_eq!(call["type"], "function");
        call.as_object_mut().unwrap().remove("id");
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

fn joined(streamed: &Answer) -> Value {
    let mut all = json!({"content": "", "reasoning": "", "tool_calls": []});
    let append = |to: &mut Value, more: &Value| {
        *to = json!(format!("{}{}", to.as_str().unwrap_or(""), more.as_str().unwrap_or("")));
    };
    for event in streamed.events(true) {
        let choice = &event["choices"][0];
        let delta = &choice["delta"];
        append(&mut all["content"], &delta["content"]);
        append(&mut all["reasoning"], &delta["reasoning"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            let calls = all["tool_calls"].as_array_mut().unwrap();
            if index == calls.len() {
                let name = &call["function"]["name"];
                calls.push(json!({"id": call["id"], "type": call["type"], "function": {"name": name, "arguments": ""}}));
            }
            append(&mut calls[index]["function"]["arguments"], &call["function"]["arguments"]);
        }
        if !choice["finish_reason"].is_null() {
            all["finish_reason"] = choice["finish_reason"].clone();
        }
    }
    forget_ids(&mut all["tool_calls"]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_follow_what_was_asked_for() {
    let server = Server::start().await;
    let schema = json!({
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": false,
    });
    let named = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}});
    for more in [
        json!({"response_format": named}),
        json!({"structured_outputs": {"json": schema, "disable_any_whitespace": true}}),
        json!({"structured_outputs": {"json": schema.to_string()}}),
        json!({"response_format": named, "n": 3, "temperature": 1.5, "seed": 1}),
        json!({"response_format": named, "n": 1, "best_of": 3, "temperature": 1.5, "seed": 1}),
    ] {
        let answer = post(server.address, CHAT, &chat("anything", &more)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let choices = answer.json()["choices"].as_array().unwrap().clone();
        assert_eq!(choices.len(), usize::try_from(more["n"].as_u64().unwrap_or(1)).unwrap());
        for choice in choices {
            let text = choice["message"]["content"].as_str().unwrap();
            let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(value["ok"].is_boolean(), "{text}");
            assert_eq!(choice["finish_reason"], "stop");
        }
    }
    for (more, wanted) in [
        (json!({"structured_outputs": {"choice": ["left", "right"]}}), "left"),
        (json!({"structured_outputs": {"regex": "[0-9]{2}(x|y)"}}), "00x"),
        (json!({"structured_outputs": {"grammar": "start: \"a\" b\nb: \"+\" | \"-\""}}), "a+"),
        (json!({"structured_outputs": {"choice": ["left", "right"]}, "stop": "ef"}), "l"),
    ] {
        let body = json!({"prompt": ["[l0a+]>", "[l0a+]>"], "max_tokens": 20, "temperature": 0});
        let body = with(&body, &more);
        let answer = post(server.address, COMPLETE, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        for choice in answer.json()["choices"].as_array().unwrap() {
            let text = choice["text"].as_str().unwrap();
            assert!(
                text == wanted || (wanted == "00x" && text.len() == 3),
                "{text} is not {wanted}"
            );
        }
    }
    both(&server, &chat("anything", &json!({"response_format": named, "temperature": 0}))).await;
    // Its price is counted.
    let page = get(server.address, "/metrics").await.body;
    let made = page.lines().find(|line| line.starts_with("folio:grammar_masks_total"));
    let made = made.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    assert!(made.is_some_and(|made| made >= 20.0), "{made:?}");
    // What the model wanted to say in the first place, word for word.
    let object = json!({"response_format": {"type": "json_object"}});
    let choice = both(&server, &chat("{\"a\": {\"b\": 12}}", &object)).await;
    assert_eq!(choice["message"]["content"], "{\"a\": {\"b\": 12}}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_refused() {
    let server = Server::start().await;
    let outputs = |outputs: Value| json!({"structured_outputs": outputs});
    let deep = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
    let cases = [
        (json!({"response_format": {"type": "yaml"}}), "response_format.type", "json_schema"),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "missing",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            "response_format.json_schema.schema",
            "missing",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strange"}}}}),
            "response_format.json_schema.schema",
            "cannot be compiled",
        ),
        (outputs(json!({})), "structured_outputs", "one of"),
        (outputs(json!({"regex": "a", "choice": ["b"]})), "structured_outputs", "one of"),
        (outputs(json!({"regex": "("})), "structured_outputs.regex", "cannot be compiled"),
        (outputs(json!({"regex": deep})), "structured_outputs.regex", "nests deeper"),
        (
            outputs(json!({"grammar": "start: nowhere"})),
            "structured_outputs.grammar",
            "cannot be compiled",
        ),
        (outputs(json!({"choice": []})), "structured_outputs.choice", "no choices"),
        (outputs(json!({"json": "{"})), "structured_outputs.json", "not valid JSON"),
        (
            outputs(json!({"json": {"$ref": "http://127.0.0.1/"}})),
            "structured_outputs.json",
            "cannot be compiled",
        ),
        (outputs(json!({"structural_tag": "{}"})), "structured_outputs.structural_tag", "Lark"),
        (
            json!({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}),
            "structured_outputs",
            "`response_format`",
        ),
        (
            json!({"response_format": {"type": "json_object"}, "use_beam_search": true, "n": 2}),
            "response_format",
            "`use_beam_search`",
        ),
    ];
    for (more, param, words) in cases {
        let answer = post(server.address, CHAT, &chat("x", &more)).await;
        let error = answer.json()["error"].clone();
        let message = error["message"].as_str().unwrap();
        assert_eq!((answer.status, error["param"].as_str().unwrap()), (400, param), "{message}");
        assert!(message.contains(words), "{message}");
    }
    server.assert_nothing_leaked().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_read_and_enforced() {
    let setup = Setup { tools: Some(ToolFormat::Llama3), ..Setup::default() };
    let server = Server::with(setup).await;
    let ask = |more: Value| with(&json!({"tools": weather(), "temperature": 0}), &more);
    let calls = |choice: &Value| -> Vec<(String, Value)> {
        let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
        let read = |call: &Value| {
            let arguments = call["function"]["arguments"].as_str().unwrap();
            let name = call["function"]["name"].as_str().unwrap().to_owned();
            (name, serde_json::from_str(arguments).unwrap())
        };
        calls.iter().map(read).collect()
    };
    // What the model writes by itself.
    let script =
        "{\"name\": \"weather\", \"parameters\": {\"city\": \"Bonn\"}}; {\"name\": \"now\"}";
    let choice = both(&server, &chat(script, &ask(json!({})))).await;
    let bonn = ("weather".to_owned(), json!({"city": "Bonn"}));
    assert_eq!(calls(&choice), [bonn.clone(), ("now".to_owned(), json!({}))]);
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let choice = both(&server, &chat(script, &ask(json!({"parallel_tool_calls": false})))).await;
    assert_eq!(calls(&choice), [bonn]);
    let choice = both(&server, &chat(script, &ask(json!({"tool_choice": "none"})))).await;
    assert_eq!((choice["message"]["content"].as_str().unwrap(), calls(&choice).len()), (script, 0));
    let choice = both(&server, &chat("It rains.", &ask(json!({"tool_choice": "auto"})))).await;
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!("It rains."), &json!("stop"))
    );
    // What it is made to write.
    let choice = both(
        &server,
        &chat("no", &ask(json!({"tool_choice": "required", "parallel_tool_calls": false}))),
    )
    .await;
    assert_eq!((calls(&choice).len(), &choice["finish_reason"]), (1, &json!("tool_calls")));
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "weather"}}});
    let choice = both(&server, &chat("no", &ask(named))).await;
    assert!(
        matches!(&calls(&choice)[..], [(name, it)] if name == "weather" && it["city"].is_string())
    );
    assert_eq!(choice["finish_reason"], "stop");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_are_none_are_refused() {
    let server = Server::with(Setup { tools: Some(ToolFormat::Llama3), ..Setup::default() }).await;
    for (more, param) in [
        (json!({"tools": [{"type": "code"}]}), "tools[0].type"),
        (json!({"tools": [tool("a b", &json!({}))]}), "tools[0].function.name"),
        (json!({"tools": [tool("a", &json!([]))]}), "tools[0].function.parameters"),
        (json!({"tools": 1}), "tools"),
        (json!({"tools": weather(), "tool_choice": "maybe"}), "tool_choice"),
        (
            json!({"tools": weather(), "tool_choice": {"type": "function", "function": {"name": "x"}}}),
            "tool_choice.function.name",
        ),
        (
            json!({"tools": [tool("a", &json!({"type": "strange"}))], "tool_choice": "required"}),
            "tools",
        ),
        (
            json!({"tools": weather(), "tool_choice": "required", "structured_outputs": {"regex": "a"}}),
            "tool_choice",
        ),
    ] {
        let answer = post(server.address, CHAT, &chat("x", &more)).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].as_str().unwrap()),
            (400, param),
            "{}",
            answer.body
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thoughts_are_told_apart() {
    let server = Server::with(Setup { reasoning: true, ..Setup::default() }).await;
    // The script ends where the model writes its first `>`: it answers with letters from there on.
    let choice = both(&server, &chat("<think", &json!({"max_tokens": 3}))).await;
    assert_eq!(choice["message"]["content"], "<th");
    let choice = both(&server, &chat("Hello.", &json!({}))).await;
    assert_eq!(
        (&choice["message"]["content"], &choice["message"]["reasoning"]),
        (&json!("Hello."), &Value::Null)
    );
    server.stop().await;
}

/// With `auto` the model decides whether to call, and `strict` how.
#[tokio::test]
async fn calls_of_strict_tools_follow_their_schema_when_the_model_decides() {
    let setup = Setup { tools: Some(ToolFormat::Hermes), ..Setup::default() };
    let server = Server::with(setup).await;
    let parameters = json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false});
    let call = "Well. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 9}}\n</tool_call>";
    for (strict, fits) in [(true, true), (false, false)] {
        let function = json!({"name": "f", "parameters": parameters, "strict": strict});
        let tools =
            json!({"tools": [{"type": "function", "function": function}], "temperature": 0});
        let choice = both(&server, &chat(call, &tools)).await;
        assert_eq!(choice["message"]["content"].as_str().map(str::trim), Some("Well."));
        let arguments = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str();
        let arguments: Value = serde_json::from_str(arguments.expect("a call")).unwrap();
        assert_eq!([json!(1), json!(2)].contains(&arguments["a"]), fits, "{arguments}");
        // Whoever does not call says what it likes.
        let choice = both(&server, &chat("no <tools> {today}", &tools)).await;
        assert_eq!(choice["message"]["content"], "no <tools> {today}");
    }
    let tools =
        json!({"tools": [tool("f", &parameters)], "use_beam_search": true, "temperature": 0});
    let refused = post(server.address, CHAT, &chat("x", &tools)).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("tools")));
    server.stop().await;
}
