//! Calls and thoughts are read the same however a text is cut into pieces, and as their formats say.

use folio_text::{MistralStyle, ReasoningParser, Split, ToolDelta, ToolFormat, ToolParser};
use proptest::prelude::*;

const LIST: ToolFormat = ToolFormat::Mistral { writes: MistralStyle::List };

/// The text beside the calls, and each call's name and arguments.
type Read = (String, Vec<(String, String)>);

fn gather(read: &mut Read, deltas: Vec<ToolDelta>) {
    for delta in deltas {
        match delta {
            ToolDelta::Text(text) => read.0.push_str(&text),
            ToolDelta::Call { name } => read.1.push((name, String::new())),
            ToolDelta::Arguments(more) => {
                let call = read.1.last_mut().expect("arguments of a call that was told");
                call.1.push_str(&more);
            }
        }
    }
}

fn read<'a>(format: ToolFormat, pieces: impl IntoIterator<Item = &'a str>) -> Read {
    let mut parser = ToolParser::new(format);
    let mut read = Read::default();
    for piece in pieces {
        gather(&mut read, parser.push(piece));
    }
    gather(&mut read, parser.finish());
    read
}

fn calls(read: &Read) -> Vec<(&str, &str)> {
    read.1.iter().map(|(name, arguments)| (name.as_str(), arguments.as_str())).collect()
}

/// `text` cut behind every character whose number is in `cuts`.
fn cut(text: &str, cuts: u64) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut number = 0;
    for (at, c) in text.char_indices() {
        number += 1;
        if cuts >> (number % 64) & 1 == 1 {
            let done = text.len() - rest.len();
            let (piece, after) = rest.split_at(at + c.len_utf8() - done);
            pieces.push(piece);
            rest = after;
        }
    }
    pieces.push(rest);
    pieces
}

/// (format, text, what stands beside the calls, the calls)
type Case = (ToolFormat, &'static str, &'static str, Vec<(&'static str, &'static str)>);

fn cases() -> Vec<Case> {
    let weather = [("weather", r#"{"city": "Köln", "days": [1, 2]}"#)];
    let two = [weather[0], ("time", "{}")];
    vec![
        (ToolFormat::Hermes, "Hello", "Hello", vec![]),
        (
            ToolFormat::Hermes,
            "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\", \"days\": [1, 2]}}\n</tool_call>\n<tool_call>{\"arguments\": {}, \"name\": \"time\"}</tool_call>",
            "Let me see.\n",
            two.to_vec(),
        ),
        // A marker or a brace within a string is neither.
        (
            ToolFormat::Hermes,
            r#"<tool_call>{"name": "say", "arguments": {"text": "}</tool_call>\"{"}}</tool_call>!"#,
            "!",
            vec![("say", r#"{"text": "}</tool_call>\"{"}"#)],
        ),
        // What only looks like a call stays text; what was cut off keeps what there is.
        (ToolFormat::Hermes, "<tool_call> no </tool_call>", "<tool_call> no </tool_call>", vec![]),
        (ToolFormat::Hermes, "a <tool_", "a <tool_", vec![]),
        (ToolFormat::Hermes, r#"<tool_call>{"name": "f", "argu"#, "", vec![("f", "")]),
        (
            ToolFormat::Hermes,
            r#"<tool_call>{"name": "f", "arguments": {"a": 1"#,
            "",
            vec![("f", r#"{"a": 1"#)],
        ),
        (ToolFormat::Hermes, r#"<tool_call>{"name": "f"}</tool_call>"#, "", vec![("f", "{}")]),
        // Arguments that are a string of JSON.
        (
            ToolFormat::Hermes,
            r#"<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>"#,
            "",
            vec![("f", r#"{"a": 1}"#)],
        ),
        (ToolFormat::Llama3, "It is {warm}.", "It is {warm}.", vec![]),
        (ToolFormat::Llama3, r#"{"answer": 42}"#, r#"{"answer": 42}"#, vec![]),
        (
            ToolFormat::Llama3,
            "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Köln\", \"days\": [1, 2]}}; {\"name\": \"time\", \"parameters\": {}}",
            "",
            two.to_vec(),
        ),
        (
            LIST,
            "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\", \"days\": [1, 2]}}, {\"name\": \"time\", \"arguments\": {}}]",
            "",
            two.to_vec(),
        ),
        (
            LIST,
            "Well [TOOL_CALLS]weather{\"city\": \"Köln\", \"days\": [1, 2]}[TOOL_CALLS]time{}",
            "Well ",
            two.to_vec(),
        ),
        (
            LIST,
            "[TOOL_CALLS]weather[CALL_ID]abc123[ARGS]{\"city\": \"Köln\", \"days\": [1, 2]}[TOOL_CALLS]time[ARGS]{}",
            "",
            two.to_vec(),
        ),
        // A list that breaks off: nothing of what is no call is lost.
        (LIST, r#"[TOOL_CALLS] [{"name": "time"}, {"nam"#, r#", {"nam"#, vec![("time", "{}")]),
        (LIST, r#"[TOOL_CALLS] [{"name": "time"}, 7]"#, ", 7]", vec![("time", "{}")]),
        (LIST, r#"[TOOL_CALLS] [{"name": "time"}, "#, "", vec![("time", "{}")]),
        (LIST, "[TOOL_CALLS] what was it", "[TOOL_CALLS] what was it", vec![]),
    ]
}

#[test]
fn every_format_is_read() {
    for (format, text, beside, wanted) in cases() {
        let got = read(format, [text]);
        assert_eq!((got.0.as_str(), calls(&got)), (beside, wanted), "{format:?} {text}");
        let single: Vec<&str> = cut(text, u64::MAX);
        assert_eq!(read(format, single), got, "{format:?} {text}, character by character");
    }
}

/// What is awaited so long that it can be no call stays none when its end comes after all.
#[test]
fn names_that_are_too_long_are_text_in_any_pieces() {
    let long = |between: &str| format!("[TOOL_CALLS]f{between}{{}}");
    for text in [long(&" ".repeat(300)), long(&format!("[CALL_ID]{}[ARGS]", "x".repeat(300)))] {
        let whole = read(LIST, [text.as_str()]);
        assert_eq!((whole.0.as_str(), calls(&whole)), (text.as_str(), vec![]));
        assert_eq!(read(LIST, cut(&text, u64::MAX)), whole);
    }
    let text = long(&format!("[CALL_ID]{}[ARGS]", "x".repeat(250)));
    assert_eq!(calls(&read(LIST, cut(&text, u64::MAX))), [("f", "{}")]);
}

fn fragment() -> impl Strategy<Value = String> {
    let fixed = [
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "<think>",
        "</think>",
        "{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}",
        "{\"name\":\"g\",\"parameters\":{}}",
        "{\"arguments\": [1, {\"x\": null}], \"name\": \"h\"}",
        "{",
        "}",
        "[",
        "]",
        "\"name\"",
        ": ",
        ", ",
        ";",
        "\n",
        "\\",
        "\"",
        "name",
        "é",
        "日本",
        "42",
        "null",
        " ",
        "<tool_",
        "call>",
        "[TOOL",
    ];
    prop_oneof![
        4 => prop::sample::select(fixed.to_vec()).prop_map(str::to_owned),
        1 => "[ -~]{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn calls_are_the_same_in_any_pieces(
        fragments in prop::collection::vec(fragment(), 0..14), cuts: u64,
    ) {
        let text = fragments.concat();
        for format in [ToolFormat::Hermes, ToolFormat::Llama3, LIST] {
            prop_assert_eq!(read(format, cut(&text, cuts)), read(format, [text.as_str()]));
        }
    }

    #[test]
    fn thoughts_are_the_same_in_any_pieces(
        fragments in prop::collection::vec(fragment(), 0..10), cuts: u64, begun: bool,
    ) {
        let text = fragments.concat();
        let split = |pieces: Vec<&str>| {
            let mut parser = ReasoningParser::after(if begun { "Hi<think>\n" } else { "Hi" });
            let mut all = Split::default();
            let mut add = |split: Split| {
                all.reasoning.push_str(&split.reasoning);
                all.answer.push_str(&split.answer);
            };
            pieces.into_iter().for_each(|piece| add(parser.push(piece)));
            add(parser.finish());
            all
        };
        prop_assert_eq!(split(cut(&text, cuts)), split(vec![&text]));
    }
}

#[test]
fn thoughts_are_told_from_answers() {
    for (prompt, text, reasoning, answer) in [
        ("Hi", "\n<think>\nHm.\n</think>\n\nHello", "\nHm.\n", "\n\nHello"),
        ("Hi <think>\n", "Hm.</think>Hello", "Hm.", "Hello"),
        ("Hi <think>\n", "<think>Hm.</think>Hello", "Hm.", "Hello"),
        ("Hi", "Hello </think> you", "", "Hello </think> you"),
        ("Hi", "<think>Hm. </thi", "Hm. </thi", ""),
        ("Hi", "  <thi", "", "  <thi"),
    ] {
        let mut parser = ReasoningParser::after(prompt);
        let (mut first, last) = (parser.push(text), parser.finish());
        first.reasoning.push_str(&last.reasoning);
        first.answer.push_str(&last.answer);
        assert_eq!(
            (first.reasoning.as_str(), first.answer.as_str()),
            (reasoning, answer),
            "{text}"
        );
    }
}

#[test]
fn the_format_is_found_in_the_template() {
    let hermes = "{{ '<tool_call>' }}";
    assert_eq!(ToolFormat::of_template(hermes), Some(ToolFormat::Hermes));
    assert_eq!(ToolFormat::of_template("<tool_call><function={{ name }}>"), None);
    assert_eq!(ToolFormat::of_template("[TOOL_CALLS][{{ calls }}]"), Some(LIST));
    let newer = ToolFormat::Mistral { writes: MistralStyle::Args };
    assert_eq!(ToolFormat::of_template("[TOOL_CALLS]{{ name }}[ARGS]"), Some(newer));
    let llama = r#"<|start_header_id|>ipython<|end_header_id|> {"name": f, "parameters": {}}"#;
    assert_eq!(ToolFormat::of_template(llama), Some(ToolFormat::Llama3));
    assert_eq!(ToolFormat::of_template("<|im_start|>"), None);
    assert_eq!(ToolFormat::named("pythonic", ""), None);
}
