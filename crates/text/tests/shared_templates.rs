//! Published chat templates render what `transformers` renders, and fail where and as it fails.

mod common;

use std::collections::BTreeMap;

use folio_text::{ChatTemplate, DateTime, RenderInput, SpecialTokens, TemplateError};
use serde_json::Value;

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
