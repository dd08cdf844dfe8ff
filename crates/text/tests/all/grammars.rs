//! Whatever follows its masks follows its grammar, and whatever a client sends is compiled or refused in words.

use std::fmt::Write;

use folio_text::{
    Blanks, Grammar, GrammarError, Grammars, MistralStyle, Tokenizer, Tool, ToolDelta, ToolFormat,
    ToolParser, enforce, guide,
};
use serde_json::{Value, json};

const END: u32 = 1;

fn tokenizer() -> Tokenizer {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/tokenizer.json");
    Tokenizer::from_json(&std::fs::read(file).unwrap(), 1 << 20).unwrap()
}

fn grammars() -> Grammars {
    Grammars::new(tokenizer(), vec![END])
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

fn bits(mask: &[u32]) -> Vec<u32> {
    let ids = 0..u32::try_from(mask.len() * 32).unwrap();
    ids.filter(|&id| mask[id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

/// Follows the masks at random, and ends when it may and likes to; `None` when it does not come to an end.
fn speak(grammars: &Grammars, grammar: &Grammar, seed: u64) -> Option<String> {
    go_on(grammars, &tokenizer(), grammar, "", seed)
}

/// The same after a beginning, which the grammar must allow.
fn go_on(
    grammars: &Grammars,
    tokenizer: &Tokenizer,
    grammar: &Grammar,
    begun: &str,
    seed: u64,
) -> Option<String> {
    let mut matcher = grammars.matcher(grammar).unwrap();
    let mut random = Random(seed);
    let mut tokens = tokenizer.encode(begun, false).unwrap();
    for &token in &tokens {
        let mut mask = Vec::new();
        matcher.mask(&mut mask).unwrap();
        assert!(bits(&mask).contains(&token), "{begun:?}");
        matcher.advance(token).unwrap();
    }
    for step in 0..300 {
        let mut mask = Vec::new();
        matcher.mask(&mut mask).unwrap();
        let allowed = bits(&mask);
        assert!(!allowed.is_empty());
        let token = allowed[random.below(allowed.len())];
        // What closes a string or a list is as likely as all the rest.
        let closing: Vec<u32> = allowed
            .iter()
            .copied()
            .filter(|&id| {
                matches!(tokenizer.token_bytes(id), Some(b"\"" | b"}" | b"]" | b"," | b":"))
            })
            .collect();
        let token = match closing[..] {
            [] => token,
            _ if step > 20 || random.below(2) == 0 => closing[random.below(closing.len())],
            _ => token,
        };
        let token = if allowed.contains(&END) { END } else { token };
        if token == END {
            return Some(tokenizer.decode(&tokens, false).unwrap());
        }
        matcher.advance(token).unwrap();
        tokens.push(token);
    }
    None
}

#[test]
fn texts_follow_their_grammars() {
    let grammars = grammars();
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b", 3, null]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    let mut ended = 0;
    for seed in 0..40 {
        let Some(text) = speak(&grammars, &Grammar::schema(person.clone()), seed) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value["name"].as_str().is_some_and(|name| name.chars().count() <= 12), "{text}");
        assert!(value["age"].as_u64().is_some_and(|age| age <= 150), "{text}");
        let tags = value["tags"].as_array().unwrap();
        let allowed = [json!("a"), json!("b"), json!(3), json!(null)];
        assert!(tags.len() <= 3 && tags.iter().all(|tag| allowed.contains(tag)), "{text}");
        assert_eq!(value.as_object().unwrap().len(), 3);
        ended += 1;
    }
    assert!(ended > 30, "only {ended} came to an end");

    let choices = vec!["yes".to_owned(), "no, \"never\"\n".to_owned(), "größer".to_owned()];
    for seed in 0..10 {
        let text = speak(&grammars, &Grammar::Choice(choices.clone()), seed).unwrap();
        assert!(choices.contains(&text), "{text}");
        let text =
            speak(&grammars, &Grammar::Regex("[a-c]{2}-([0-9]{3}|x/y)".to_owned()), seed).unwrap();
        let (head, tail) = text.split_once('-').unwrap();
        assert!(head.len() == 2 && head.bytes().all(|b| (b'a'..=b'c').contains(&b)), "{text}");
        assert!(
            tail == "x/y" || (tail.len() == 3 && tail.bytes().all(|b| b.is_ascii_digit())),
            "{text}"
        );
        let sum = "start: term (\"+\" term)~2\nterm: /[0-9]/ | \"(\" start \")\"".to_owned();
        if let Some(text) = speak(&grammars, &Grammar::Lark(sum), seed) {
            assert_eq!(text.matches('(').count(), text.matches(')').count(), "{text}");
        }
        if let Some(text) = speak(&grammars, &Grammar::json_object(), seed) {
            assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
        }
    }
    let tight =
        Grammar::Schema { schema: json!({"const": {"a": [1, 2]}}).into(), blanks: Blanks::None };
    assert_eq!(speak(&grammars, &tight, 1).as_deref(), Some(r#"{"a": [1, 2]}"#));
}

/// A mask is a function of the grammar and the tokens: whether other matchers were at work, or the same text was followed by
/// a fork, changes nothing.
#[test]
fn matchers_share_nothing_that_changes() {
    let grammar =
        Grammar::schema(json!({"type": "object", "properties": {"a": {"type": "string"}}}));
    let warm = grammars();
    for seed in 0..20 {
        let _ = speak(&warm, &grammar, seed);
    }
    for seed in 20..23 {
        assert_eq!(speak(&warm, &grammar, seed), speak(&grammars(), &grammar, seed));
    }
    let mut first = warm.matcher(&grammar).unwrap();
    first.advance(tokenizer().encode("{", false).unwrap()[0]).unwrap();
    let mut fork = first.fork();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    fork.advance(tokenizer().encode("}", false).unwrap()[0]).unwrap();
    first.mask(&mut one).unwrap();
    fork.mask(&mut other).unwrap();
    assert!(one != other && bits(&other).contains(&END) && !bits(&one).contains(&END));
}

#[test]
fn a_cancelled_matcher_fails() {
    let mut matcher = grammars().matcher(&Grammar::json_object()).unwrap();
    matcher.canceller()();
    assert!(matcher.mask(&mut Vec::new()).is_err());
}

#[test]
fn hostile_grammars_are_refused_or_compiled_within_bounds() {
    let grammars = grammars();
    let refused = |grammar: Grammar, words: &str| {
        let Err(error) = grammars.matcher(&grammar) else { panic!("{grammar:?} was compiled") };
        let error = error.to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
        assert!(error.len() < 500 && !error.contains(".rs") && !error.contains('\n'), "{error}");
    };
    let regex = |text: &str| Grammar::Regex(text.to_owned());
    let lark = |text: &str| Grammar::Lark(text.to_owned());
    refused(regex("("), "cannot be compiled");
    refused(regex(r"(?<=a)b"), "cannot be compiled");
    refused(regex(&"(".repeat(10_000)), "nests deeper than 64");
    refused(regex(&"a".repeat(300_000)), "has 300000 bytes");
    refused(lark(""), "cannot be compiled");
    refused(lark("root ::= \"a\""), "GBNF");
    refused(lark("start: a\na: b"), "cannot be compiled");
    refused(
        lark(&format!("start: {}\"a\"{}", "(".repeat(5_000), ")".repeat(5_000))),
        "nests deeper",
    );
    refused(Grammar::Choice(vec![]), "no choices");
    refused(Grammar::Choice(vec!["a".to_owned(); 10_000]), "10000 choices");
    let schema = |schema: Value| Grammar::schema(schema);
    refused(schema(json!(["no"])), "must be an object");
    refused(schema(json!({"type": "strange"})), "cannot be compiled");
    refused(schema(json!({"$ref": "http://169.254.169.254/"})), "cannot be compiled");
    refused(schema(json!({"$ref": "#/nowhere"})), "cannot be compiled");
    refused(schema(json!({"type": "integer", "minimum": 3, "maximum": 1})), "cannot be compiled");
    refused(schema(json!({"x-guidance": {"lenient": true}})), "x-guidance");
    let many: Vec<String> = (0..100_000).map(|i| format!("v{i}")).collect();
    refused(schema(json!({"enum": many})), "bytes");
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep});
    }
    refused(schema(deep), "nests deeper than 64");

    // Whatever becomes of these, it is said and not suffered.
    let mut chain = serde_json::Map::new();
    for i in 0..3_000 {
        chain.insert(format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}));
    }
    chain.insert("d3000".to_owned(), json!({"type": "null"}));
    for strange in [
        schema(json!({"$ref": "#/$defs/d0", "$defs": chain})),
        schema(json!({"$ref": "#"})),
        schema(json!({"type": "array", "minItems": 1_000_000_000_u64})),
        schema(json!({"type": "string", "pattern": "(a+)+b"})),
        schema(json!({"type": "string", "minLength": 100_000_000})),
        schema(json!({"items": [{"type": "string"}], "type": "array"})),
        schema(json!({})),
        regex("^(|.*)$"),
        regex("(a+)+b"),
        regex("(.{1,1000}){1,1000}x{1,100000}"),
        regex(".{1,100000}"),
        regex(""),
        lark("start: start \"a\" | \"b\""),
        lark("start: \"\""),
        lark("start: \"a\"\nnever: \"b\""),
        Grammar::Choice(vec![String::new()]),
    ] {
        if let Ok(mut matcher) = grammars.matcher(&strange) {
            let _ = matcher.mask(&mut Vec::new());
        }
    }
}

#[test]
fn a_model_without_an_end_has_no_grammars() {
    let error = Grammars::new(tokenizer(), vec![]).matcher(&Grammar::json_object()).unwrap_err();
    assert!(matches!(error, GrammarError::Unsupported { .. }), "{error}");
}

/// What a model may write when it must call is read as calls of its tools with arguments that fit.
#[test]
fn enforced_calls_are_read_as_calls() {
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let tool =
        |name: &str, parameters: Value| Tool { name: name.to_owned(), parameters, strict: false };
    let tools = [
        tool(
            "get_weather",
            json!({
                "type": "object", "properties": {"days": {"type": "integer"}, "city": {"enum": ["Rome", "Oslo"]}},
                "required": ["days", "city"], "additionalProperties": false,
            }),
        ),
        tool("now", json!({})),
    ];
    let list = ToolFormat::Mistral { writes: MistralStyle::List };
    let newer = ToolFormat::Mistral { writes: MistralStyle::Args };
    for format in [ToolFormat::Hermes, ToolFormat::Llama3, list, newer] {
        let mut ended = 0;
        for seed in 0..20 {
            let parallel = seed % 2 == 0;
            let grammar = enforce(format, &tools, parallel, &tokenizer).unwrap();
            let Some(text) = speak(&grammars, &grammar, seed) else { continue };
            ended += 1;
            let mut parser = ToolParser::new(format);
            let (mut names, mut arguments) = (Vec::new(), Vec::<String>::new());
            for delta in parser.push(&text).into_iter().chain(parser.finish()) {
                match delta {
                    ToolDelta::Text(beside) => panic!("{beside:?} in {text}"),
                    ToolDelta::Call { name } => {
                        names.push(name);
                        arguments.push(String::new());
                    }
                    ToolDelta::Arguments(more) => {
                        write!(arguments.last_mut().unwrap(), "{more}").unwrap();
                    }
                }
            }
            assert!(!names.is_empty() && (parallel || names.len() == 1), "{text}");
            for (name, arguments) in names.iter().zip(&arguments) {
                let value: Value = serde_json::from_str(arguments).unwrap();
                match name.as_str() {
                    "get_weather" => {
                        // -0 is an integer too, though none of Rust's.
                        let days = value["days"].as_f64().expect("a number");
                        assert!(days.fract() == 0.0 && value["city"].is_string(), "{text}");
                    }
                    "now" => assert!(value.is_object(), "{text}"),
                    other => panic!("{other} is no tool"),
                }
            }
        }
        assert!(ended > 10, "{format:?}: only {ended} came to an end");
    }
}

/// The built-in model's tokenizer with marks of calls as control tokens.
fn with_marks() -> Tokenizer {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let first = tokenizer().vocab_size();
    for (id, mark) in (first..).zip(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"]) {
        let token = json!({
            "id": id, "content": mark, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        });
        json["added_tokens"].as_array_mut().unwrap().push(token);
    }
    Tokenizer::from_json(json.to_string().as_bytes(), 1 << 20).unwrap()
}

/// A model that may call and does is held to the schemas of strict tools from the moment on in which a call has begun; what
/// it says beside its calls is its own.
#[test]
fn calls_of_strict_tools_fit_even_where_none_is_demanded() {
    let parameters = json!({
        "type": "object", "properties": {"days": {"enum": [1, 2]}}, "required": ["days"], "additionalProperties": false,
    });
    let tool = |name: &str, strict: bool| Tool {
        name: name.to_owned(),
        parameters: parameters.clone(),
        strict,
    };
    let tools = [tool("strict", true), tool("loose", false)];
    let list = ToolFormat::Mistral { writes: MistralStyle::List };
    let newer = ToolFormat::Mistral { writes: MistralStyle::Args };
    let (mut strict, mut loose) = (0, 0);
    for tokenizer in [tokenizer(), with_marks()] {
        let grammars = Grammars::new(tokenizer.clone(), vec![END]);
        for (format, mark) in
            [(ToolFormat::Hermes, "<tool_call>"), (list, "[TOOL_CALLS]"), (newer, "[TOOL_CALLS]")]
        {
            let grammar = guide(format, &tools, &tokenizer).unwrap().expect("it has marks");
            let begun = format!("I look <it> up [now]{{\"days\": 9}}.\n{mark}");
            for seed in 0..20 {
                let text = go_on(&grammars, &tokenizer, &grammar, &begun, seed);
                let Some((name, arguments)) = text.map(|text| first_call(format, &text)) else {
                    continue;
                };
                let fits = [1, 2].iter().any(|days| arguments == json!({ "days": days }));
                match name.as_str() {
                    "strict" => assert!(fits, "{arguments}"),
                    "loose" => assert!(arguments.is_object()),
                    other => panic!("{other} is no tool"),
                }
                *(if name == "strict" { &mut strict } else { &mut loose }) += 1;
            }
            for free in ["", "Hi", "<tool_cal", "[TOOL_CALLS", "a < b\n\n{} [] \u{1F600}"] {
                let said = go_on(&grammars, &tokenizer, &grammar, free, 1);
                assert_eq!(said.as_deref(), Some(free));
            }
        }
    }
    assert!(strict > 20 && loose > 20, "{strict} and {loose}");
    assert_eq!(guide(ToolFormat::Llama3, &tools, &tokenizer()).unwrap(), None);
}

/// The first call in a text that begins with something else.
fn first_call(format: ToolFormat, text: &str) -> (String, Value) {
    let mut parser = ToolParser::new(format);
    let deltas: Vec<ToolDelta> = parser.push(text).into_iter().chain(parser.finish()).collect();
    let [ToolDelta::Text(_), ToolDelta::Call { name }, ToolDelta::Arguments(arguments), ..] =
        &deltas[..]
    else {
        panic!("no call in {text}");
    };
    (name.clone(), serde_json::from_str(arguments).unwrap())
}
