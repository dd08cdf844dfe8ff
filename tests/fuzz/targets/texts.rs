//! Chat templates, tokenizers and grammars.

use folio_text::{
    ChatTemplate, DateTime, Grammar, Grammars, RenderInput, SpecialTokens, Tokenizer,
};
use serde_json::json;

const TOKENIZER: &[u8] = include_bytes!("../../../models/demo/tokenizer.json");
/// The longest text that is tokenised.
const MOST_BYTES: usize = 1 << 20;
/// The longest prompt.
const MOST_OUTPUT: usize = 1 << 16;

/// Compiles and renders a template.
pub(super) fn template(input: &[u8]) -> String {
    let source = String::from_utf8_lossy(input);
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, "x"]}}}]},
        {"role": "tool", "content": "<b>"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let tokens = SpecialTokens { bos: Some("<|bos|>".to_owned()), ..SpecialTokens::default() };
    let rendered = ChatTemplate::compile(&source, tokens).and_then(|template| {
        template.render(&RenderInput {
            messages: &messages,
            add_generation_prompt: true,
            tools: Some(&tools),
            extra: None,
            now: DateTime::from_unix_seconds(0),
            max_output: MOST_OUTPUT,
        })
    });
    match rendered {
        Ok(text) => {
            assert!(text.len() <= MOST_OUTPUT, "{} bytes", text.len());
            "fine".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Reads a `tokenizer.json` and, if it is one, encodes and decodes with it.
pub(super) fn tokenizer(input: &[u8]) -> String {
    let tokenizer = match Tokenizer::from_json(input, MOST_BYTES) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return error.to_string(),
    };
    match tokenizer.encode("Hello, wörld! 123\n", true) {
        Ok(tokens) => match tokenizer.decode(&tokens, true) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// The built-in model's tokenizer.
pub(super) fn demo() -> Tokenizer {
    Tokenizer::from_json(TOKENIZER, MOST_BYTES).unwrap()
}

pub(super) fn grammars() -> Grammars {
    Grammars::new(demo(), vec![1])
}

/// Compiles a grammar, whose kind the first byte chooses, and follows it for some tokens.
pub(super) fn grammar(grammars: &Grammars, input: &[u8]) -> String {
    let (kind, text) = input.split_first().unwrap_or((&b'r', &[]));
    let text = String::from_utf8_lossy(text).into_owned();
    let grammar = match kind {
        b'l' => Grammar::Lark(text),
        b's' => match serde_json::from_str(&text) {
            Ok(schema) => Grammar::schema(schema),
            Err(_) => return "not JSON".to_owned(),
        },
        b'c' => Grammar::Choice(text.lines().map(str::to_owned).collect()),
        _ => Grammar::Regex(text),
    };
    let mut matcher = match grammars.matcher(&grammar) {
        Ok(matcher) => matcher,
        Err(error) => return error.to_string(),
    };
    let mut mask = Vec::new();
    for step in 0..20_u32 {
        mask.clear();
        if let Err(error) = matcher.mask(&mut mask) {
            return error.to_string();
        }
        let allowed: Vec<u32> = (0..grammars_vocab(&mask)).filter(|id| bit(&mask, *id)).collect();
        let token = allowed[usize::try_from(step * 7919).unwrap() % allowed.len()];
        matcher.advance(token).expect("the mask allows it");
    }
    "fine".to_owned()
}

fn grammars_vocab(mask: &[u32]) -> u32 {
    u32::try_from(mask.len() * 32).unwrap()
}

fn bit(mask: &[u32], id: u32) -> bool {
    mask[usize::try_from(id / 32).unwrap()] >> (id % 32) & 1 == 1
}
