//! Our own templates render what Jinja2 renders; `fixtures/make_templates.py` made the expectations with Jinja2 itself.

use crate::common;
use folio_text::{ChatTemplate, DateTime, RenderInput, SpecialTokens, TemplateError};
use serde_json::{Map, Value, json};

const NOW: DateTime = DateTime { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };

fn tokens() -> SpecialTokens {
    SpecialTokens {
        bos: Some("<s>".to_owned()),
        eos: Some("</s>".to_owned()),
        ..SpecialTokens::default()
    }
}

fn render(
    source: &str,
    messages: &Value,
    tools: Option<&Value>,
    extra: Option<&Map<String, Value>>,
) -> Result<String, TemplateError> {
    let input = RenderInput {
        messages,
        add_generation_prompt: true,
        tools,
        extra,
        now: NOW,
        max_output: 1 << 20,
    };
    ChatTemplate::compile(source, tokens())?.render(&input)
}

#[test]
fn templates_render_what_jinja_renders() {
    let file: Value = serde_json::from_slice(&common::fixture("templates.json")).unwrap();
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let rendered =
            render(source, &file["messages"], Some(&file["tools"]), case["extra"].as_object());
        let (field, got) = match rendered {
            Ok(text) => ("expected", text),
            Err(TemplateError::Failed { detail, .. }) => ("error", detail),
            Err(error) => ("error", error.to_string()),
        };
        if case[field] != got.as_str() {
            let want = if case["error"].is_string() { &case["error"] } else { &case["expected"] };
            wrong.push(format!("{}\n got {got:?}\nwant {want}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn errors_say_where_and_what() {
    let error = render("a\n{{ 'x' + 1 }}", &json!([]), None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template failed: can only concatenate str (not \"int\") to str (line 2)"
    );
    let error =
        render("{{ raise_exception('no tools, please') }}", &json!([]), None, None).unwrap_err();
    assert_eq!(error, TemplateError::Raised { message: "no tools, please".to_owned() });
    assert_eq!(error.to_string(), "no tools, please");
}

#[test]
fn extra_variables_cannot_replace_the_conversation() {
    for name in [
        "messages",
        "tools",
        "add_generation_prompt",
        "bos_token",
        "raise_exception",
        "namespace",
        "a b",
        "",
        "é",
    ] {
        let extra = json!({ name: 1 });
        let error = render("x", &json!([]), None, extra.as_object()).unwrap_err();
        assert!(matches!(error, TemplateError::BadVariable { .. }), "{name}: {error}");
    }
    let many: Map<String, Value> = (0..65).map(|i| (format!("v{i}"), json!(i))).collect();
    assert!(matches!(
        render("x", &json!([]), None, Some(&many)),
        Err(TemplateError::BadVariable { .. })
    ));
    let fine = json!({ "enable_thinking": true, "documents_": [1] });
    assert_eq!(
        render("{{ enable_thinking }}", &json!([]), None, fine.as_object()).unwrap(),
        "True"
    );
}

/// One template serves all requests, from all threads, and remembers nothing.
#[test]
fn a_template_is_shared_between_threads() {
    let template = ChatTemplate::compile(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        SpecialTokens::default(),
    )
    .unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let template = template.clone();
            scope.spawn(move || {
                let messages = Value::from(vec![json!({}); n]);
                let input = RenderInput {
                    messages: &messages,
                    add_generation_prompt: false,
                    tools: None,
                    extra: None,
                    now: NOW,
                    max_output: 10,
                };
                assert_eq!(template.render(&input).unwrap(), n.to_string());
            });
        }
    });
}
