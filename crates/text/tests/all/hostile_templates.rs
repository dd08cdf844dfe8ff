//! A template that comes with a model may be hostile. Whatever it does, a rendering ends with a prompt or a sentence, in bounded
//! time and memory; what these would do without bounds is to hang, to fill the memory or to overflow the stack.
//!
//! The tests run on a stack of two megabytes, as a server's blocking threads have.

use crate::common;
use folio_text::{ChatTemplate, DateTime, RenderInput, SpecialTokens, TemplateError};
use serde_json::{Value, json};

fn render(source: &str, messages: &Value) -> Result<String, TemplateError> {
    ChatTemplate::compile(source, SpecialTokens::default())?.render(&RenderInput {
        messages,
        add_generation_prompt: true,
        tools: None,
        extra: None,
        now: DateTime::from_unix_seconds(0),
        max_output: 1 << 20,
    })
}

fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

const STEPS: &str = "did not finish within 2000000 steps";
const WORK: &str = "handles more than 268435456 bytes";
const OUTPUT: &str = "the limit is 1048576";

/// Each template of this part of the fixture ends with the error that stands there.
fn all_end(part: &str) {
    let fixture = String::from_utf8(common::fixture("hostile_templates.txt")).expect("UTF-8");
    let start = format!("# {part}\n");
    let (_, cases) = fixture.split_once(&start).expect("the part");
    let cases = cases.split("\n\n").next().unwrap_or_default().to_owned();
    on_a_small_stack(move || {
        for case in cases.lines() {
            let (words, source) = case.split_once('\t').expect("a tab");
            let words = match words {
                "steps" => STEPS,
                "work" => WORK,
                "output" => OUTPUT,
                words => words,
            };
            let error =
                render(source, &json!([{"role": "user", "content": "hi"}])).expect_err(source);
            assert!(error.to_string().contains(words), "{source}: {error}");
        }
    });
}

#[test]
fn loops_and_recursion_end() {
    all_end("loops and recursion");
}

#[test]
fn text_does_not_grow_without_bounds() {
    all_end("text that grows");
}

#[test]
fn values_do_not_grow_without_bounds() {
    all_end("values that grow");
}

/// Operations that read their operands without copying them are paid, too.
#[test]
fn reading_is_paid() {
    all_end("reading without copying; each of these would read terabytes");
}

#[test]
fn constructs_outside_the_sandbox_are_refused_when_compiled() {
    all_end("outside the sandbox");
    let error = render("a\nb\n{% endif %}", &json!([])).unwrap_err();
    assert!(error.to_string().contains("(line 3)"), "{error}");
}

/// Raw text is not free, whether it is captured or not.
#[test]
fn raw_text_in_loops_is_paid() {
    on_a_small_stack(|| {
        let raw = "some raw text\n".repeat(10_000);
        let loops = format!("{{% for i in range(100000) %}}{raw}{{% endfor %}}");
        for source in [
            loops.clone(),
            format!("{{% set x %}}{loops}{{% endset %}}"),
            format!("{{% filter upper %}}{loops}{{% endfilter %}}"),
        ] {
            let error = render(&source, &json!([])).unwrap_err();
            assert!(error.to_string().contains(WORK), "{error}");
        }
    });
}

/// Variables are looked up through all blocks around.
#[test]
fn deep_scopes_cost_steps() {
    on_a_small_stack(|| {
        let uses = "{% if bos_token and bos_token and bos_token and bos_token and bos_token and bos_token %}{% endif %}".replace("bos_token", "messages");
        let inner = format!("{{% for i in range(100000) %}}{}{{% endfor %}}", uses.repeat(20));
        let with = format!("{}{inner}{}", "{% with %}".repeat(140), "{% endwith %}".repeat(140));
        let loops = format!(
            "{{% for x in [1] recursive %}}{{% if loop.depth < 180 %}}{{{{ loop([1]) }}}}{{% else %}}{inner}{{% endif %}}{{% endfor %}}"
        );
        for source in [with, loops] {
            let error = render(&source, &json!([1])).unwrap_err().to_string();
            assert!(error.contains(STEPS), "{error}");
        }
    });
}

/// Shapes of source that would overflow the stack of a recursive parser, or fold constants of gigabytes.
#[test]
fn sources_out_of_shape_are_refused() {
    on_a_small_stack(|| {
        let repeat = |start: &str, part: &str, end: &str| {
            // In lines of moderate length, which have a bound of their own.
            let lines = format!("{}\n", part.repeat(100)).repeat(100_000 / (part.len() * 100));
            format!("{start}{lines}{end}")
        };
        for source in [
            repeat("{{ ", "not ", "1 }}"),
            repeat("{{ ", "- ", "1 }}"),
            repeat("{{ ", "(", "1"),
            repeat("{{ 1", " ~ 1", " }}"),
            repeat("{{ x", ".x", " }}"),
            repeat("{{ x", "[0]", " }}"),
            repeat("{{ x", "|e", " }}"),
            repeat("{{ x", " is string", " }}"),
            repeat("{{ 1", " if 1 else 1", " }}"),
            repeat("{{ x", "()", " }}"),
            repeat("{{ ", "[", "1"),
            repeat("{{ ", "{1:", "1"),
            repeat("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
            repeat("", "{% if 1 %}", ""),
            repeat("", "{% for x in y %}", ""),
            repeat("", "{% macro m() %}", ""),
            repeat("", "{{ '", ""),
            repeat("", "{#", ""),
            repeat("", "{% raw %}", ""),
            "x".repeat(100_000),
            "x\n".repeat(200_000),
        ] {
            let error = render(&source, &json!([])).unwrap_err();
            assert!(matches!(error, TemplateError::Syntax { .. }), "{}…: {error}", &source[..20]);
        }
    });
}

/// The longest chains that are accepted fit the stack, too, alone and inside each other.
#[test]
fn sources_at_the_bounds_run() {
    on_a_small_stack(|| {
        let chain = |start: &str, part: &str, count: usize, end: &str| {
            format!("{start}{}{end}", part.repeat(count))
        };
        let parens = |count| chain("{{ ", "(", count, "1") + &chain("", ")", count, " }}");
        let ifs = |count, inner: &str| {
            chain("", "{% if 1 %}", count, inner) + &"{% endif %}".repeat(count)
        };
        let elifs = |inner: &str| {
            chain("{% if 0 %}", "{% elif 0 %}", 250, &format!("{{% else %}}{inner}{{% endif %}}"))
        };
        let nots = chain("{{ ", "not ", 2000, "1 }}");
        for source in [
            nots.clone(),
            chain("{{ ", "- ", 2000, "1 }}"),
            chain("{{ 1", " ~ 1", 1000, " }}"),
            chain("{{ 1", " + 1", 600, " }}"),
            chain("{{ 'a'", "|e", 1000, " }}"),
            chain("{{ {}", ".get('x', {})", 250, " }}"),
            parens(70),
            elifs(&ifs(140, &nots)),
            ifs(70, &parens(30)),
        ] {
            let result = render(&source, &json!([]));
            assert!(result.is_ok(), "{}…: {result:?}", &source[..30]);
        }
    });
}

#[test]
fn a_conversation_cannot_be_nested_too_deep() {
    on_a_small_stack(|| {
        let mut deep = json!("x");
        for _ in 0..120 {
            deep = json!([deep]);
        }
        assert!(render("{{ messages }}{{ messages|tojson }}{{ messages == [1] }}", &deep).is_ok());
        for _ in 0..1000 {
            deep = json!({ "a": deep });
        }
        let error = render("{{ messages }}", &deep).unwrap_err();
        assert_eq!(error.to_string(), "`messages` is nested more than 128 levels deep");
    });
}

/// A conversation of megabytes goes through the templates that people write, and a template that is quadratic in it is bounded.
#[test]
fn large_conversations_are_linear_or_refused() {
    on_a_small_stack(|| {
        let turn = json!({"role": "user", "content": "x".repeat(10)});
        let many = Value::from(vec![turn; 50_000]);
        let chatml = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m.content|trim + '<|im_end|>' }}{% if loop.index0 == messages|length - 1 %}!{% endif %}{% endfor %}";
        assert!(matches!(render(chatml, &many), Err(TemplateError::OutputTooLong { .. })));
        let quadratic = "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m.content %}{% endfor %}{{ ns.x }}";
        assert!(matches!(render(quadratic, &many), Err(TemplateError::TooMuchWork { .. })));
    });
}
