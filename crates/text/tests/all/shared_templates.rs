//! Published chat templates render what `transformers` renders, and fail where and as it fails.

use std::collections::BTreeMap;

use crate::common;
use folio_text::{
    ChatTemplate, DateTime, MistralStyle, RenderInput, SpecialTokens, TemplateError, ToolDelta,
    ToolFormat, ToolParser,
};
use serde_json::{Value, json};

/// What the cases were rendered at.
const NOW: DateTime = DateTime { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };
const MAX_OUTPUT: usize = 16 << 20;

fn compile(folder: &std::path::Path, case: &Value) -> ChatTemplate {
    let source = std::fs::read_to_string(folder.join(case["template"].as_str().expect("a name")));
    let source = source.expect("a template");
    let token = |name: &str| case[name].as_str().map(str::to_owned);
    let tokens = SpecialTokens {
        bos: token("bos_token"),
        eos: token("eos_token"),
        ..SpecialTokens::default()
    };
    ChatTemplate::compile(&source, tokens)
        .unwrap_or_else(|error| panic!("{}: {error}", case["template"]))
}

fn render(
    template: &ChatTemplate,
    case: &Value,
    messages: &Value,
) -> Result<String, TemplateError> {
    template.render(&RenderInput {
        messages,
        add_generation_prompt: case["add_generation_prompt"].as_bool().expect("a flag"),
        tools: Some(&case["tools"]),
        extra: None,
        now: NOW,
        max_output: MAX_OUTPUT,
    })
}

/// The words of an error, without what says where.
fn words(error: &TemplateError) -> String {
    match error {
        TemplateError::Raised { message } => format!("TemplateError: {message}"),
        TemplateError::Failed { detail, .. } if detail.contains("has no attribute") => {
            format!("UndefinedError: {detail}")
        }
        TemplateError::Failed { detail, .. } => format!("TypeError: {detail}"),
        other => other.to_string(),
    }
}

#[test]
fn renderings_and_errors_equal_those_of_transformers() {
    let Some(shared) = common::shared() else { return };
    let folder = shared.join("templates");
    let cases = common::json(&folder.join("expected_renderings.json"));
    let cases = cases["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let got = match render(&compile(&folder, case), case, &case["messages"]) {
            Ok(text) => ("expected", text),
            Err(error) => ("error", words(&error)),
        };
        if case[got.0] != got.1.as_str() {
            let wanted = if case["error"].is_string() { &case["error"] } else { &case["expected"] };
            wrong.push(format!(
                "{} {}\n got {:?}\nwant {wanted}",
                case["template"], case["case"], got.1
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} of {} cases are equal", cases.len(), cases.len());
}

/// The bounds leave room for conversations of many turns.
#[test]
fn long_conversations_stay_within_the_bounds() {
    let Some(shared) = common::shared() else { return };
    let folder = shared.join("templates");
    let cases = common::json(&folder.join("expected_renderings.json"));
    let mut rendered: BTreeMap<&str, usize> = BTreeMap::new();
    for case in
        cases["cases"].as_array().unwrap().iter().filter(|case| case["expected"].is_string())
    {
        let mut messages = Vec::new();
        let turns = case["messages"].as_array().unwrap();
        let system = turns.iter().take_while(|m| m["role"] == "system").count();
        messages.extend_from_slice(&turns[..system]);
        for _ in 0..100 {
            messages.extend_from_slice(&turns[system..]);
        }
        match render(&compile(&folder, case), case, &Value::from(messages)) {
            Ok(text) => {
                *rendered.entry(case["template"].as_str().unwrap()).or_default() += text.len();
            }
            // Some conversations do not repeat: user after user.
            Err(error) => assert!(
                matches!(error, TemplateError::Raised { .. }),
                "{}: {error}",
                case["template"]
            ),
        }
    }
    assert!(rendered.len() >= 20, "only {} templates rendered long conversations", rendered.len());
}

/// The formats of templates, and none where it is not one of those that are read.
fn format_of(template: &str) -> Option<ToolFormat> {
    let mistral = |writes| Some(ToolFormat::Mistral { writes });
    match template.trim_end_matches(".jinja") {
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"
        | "Qwen-QwQ-32B"
        | "Qwen-Qwen2.5-7B-Instruct"
        | "Qwen-Qwen3-0.6B"
        | "tool_chat_template_hermes" => Some(ToolFormat::Hermes),
        "meta-llama-Llama-3.1-8B-Instruct"
        | "meta-llama-Llama-3.2-3B-Instruct"
        | "tool_chat_template_llama3.1_json" => Some(ToolFormat::Llama3),
        "mistralai-Mistral-Nemo-Instruct-2407" | "tool_chat_template_mistral" => {
            mistral(MistralStyle::List)
        }
        "Mistral-Small-3.2-24B-Instruct-2506" | "unsloth-mistral-Devstral-Small-2507" => {
            mistral(MistralStyle::Args)
        }
        _ => None,
    }
}

/// The calls in a text that comes in these pieces, and what stands beside them.
fn read(format: ToolFormat, pieces: &[&str]) -> (Vec<Value>, String) {
    let mut parser = ToolParser::new(format);
    let (mut calls, mut beside) = (Vec::<(String, String)>::new(), String::new());
    let mut deltas: Vec<ToolDelta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    for delta in deltas {
        match delta {
            ToolDelta::Text(text) => beside.push_str(&text),
            ToolDelta::Call { name } => calls.push((name, String::new())),
            ToolDelta::Arguments(more) => calls.last_mut().expect("a call").1.push_str(&more),
        }
    }
    let parsed = |(name, arguments): (String, String)| {
        let arguments: Value = serde_json::from_str(&arguments).expect("arguments are JSON");
        json!({"name": name, "arguments": arguments})
    };
    (calls.into_iter().map(parsed).collect(), beside)
}

/// What a template shows its model as an earlier call is what the model will write, and is read as that call.
#[test]
fn calls_are_read_as_published_templates_write_them() {
    let Some(shared) = common::shared() else { return };
    let folder = shared.join("templates");
    let cases = common::json(&folder.join("expected_renderings.json"));
    let mut formats = 0;
    for case in cases["cases"].as_array().unwrap().iter().filter(|c| c["case"] == "tool_roundtrip")
    {
        let name = case["template"].as_str().unwrap();
        let template = compile(&folder, case);
        let format = ToolFormat::of_template(template.source());
        assert_eq!(format, format_of(name), "{name}");
        let Some(format) = format else { continue };
        let turns = case["messages"].as_array().unwrap();
        let at = turns.iter().position(|turn| turn["tool_calls"].is_array()).expect("a call");
        let shown = |turns: &[Value]| {
            let case = json!({"tools": case["tools"], "add_generation_prompt": false});
            let text = render(&template, &case, &json!(turns));
            text.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let (before, after) = (shown(&turns[..at]), shown(&turns[..=at]));
        let turn = after.strip_prefix(&before).unwrap_or_else(|| panic!("{name}: {after}"));
        let first = |marks: [&str; 3]| marks.iter().filter_map(|mark| turn.find(mark)).min();
        let start = first(["<tool_call>", "[TOOL_CALLS]", "{"]).expect("a start");
        let end = first(["<|im_end|>", "<|eot_id|>", "</s>"]).expect("an end");
        let written = &turn[start..end];
        let called = turns[at]["tool_calls"].as_array().unwrap().iter();
        let wanted: Vec<Value> = called.map(|call| call["function"].clone()).collect();
        for (cut, _) in written.char_indices() {
            let (one, other) = written.split_at(cut);
            let (calls, beside) = read(format, &[one, other]);
            assert_eq!((&calls, beside.trim()), (&wanted, ""), "{name} cut at {cut}: {written}");
        }
        formats += 1;
    }
    println!("{formats} templates teach a format that is known");
    assert_eq!(formats, 12);
}
