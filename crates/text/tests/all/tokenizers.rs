//! Text to tokens and back, against what Hugging Face's tokenizers do, and against hostile files and texts.

use crate::common;
use folio_text::{Detokenizer, Tokenizer, TokenizerError};
use serde_json::{Value, json};

const MAX_BYTES: usize = 1 << 20;

fn load(fixture: &str) -> Tokenizer {
    Tokenizer::from_json(&common::fixture(fixture), MAX_BYTES).expect("a tokenizer")
}

fn stream(tokenizer: &Tokenizer, tokens: &[u32], skip_special: bool, context: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special, context);
    let pieces = tokens.iter().map(|token| detokenizer.push(*token).expect("text"));
    let mut text: String = pieces.collect();
    text.push_str(&detokenizer.finish());
    text
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).expect("a token");
    value.as_array().expect("a list").iter().map(id).collect()
}

#[test]
fn published_tokenizers_encode_and_decode_as_hugging_face_does() {
    let Some(shared) = common::shared() else { return };
    let golden = common::json(&shared.join("tokenizers/golden_encodings.json"));
    let mut cases = 0;
    for (name, set) in golden["sets"].as_object().unwrap() {
        let json =
            std::fs::read(shared.join("tokenizers").join(name).join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::from_json(&json, MAX_BYTES).unwrap();
        for case in set.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                tokenizer.encode(text, true).unwrap(),
                ids(&case["ids"]),
                "{name}: {text:?}"
            );
            let plain = tokenizer.encode(text, false).unwrap();
            assert_eq!(plain, ids(&case["ids_no_special"]), "{name}: {text:?}");
            assert_eq!(
                tokenizer.decode(&plain, false).unwrap(),
                case["decoded"].as_str().unwrap(),
                "{name}"
            );
            assert_eq!(
                stream(&tokenizer, &plain, false, &[]),
                case["decoded"].as_str().unwrap(),
                "{name}"
            );
            cases += 1;
        }
    }
    assert_eq!(cases, 240);
}

#[test]
fn tokenizers_of_the_test_models_encode_their_prompts() {
    let Some(shared) = common::shared() else { return };
    let mut cases = 0;
    for model in [
        "stories260K-llama",
        "babyllama105-llama",
        "stories260K-mistral-swa48",
        "arch-zoo/gpt2",
        "arch-zoo/qwen3",
    ] {
        let folder = shared.join("models").join(model);
        let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::from_json(&json, MAX_BYTES).unwrap();
        for case in common::json(&folder.join("golden.json"))["cases"].as_array().unwrap() {
            let prompt = ids(&case["prompt_ids"]);
            assert_eq!(
                tokenizer.encode(case["prompt"].as_str().unwrap(), true).unwrap(),
                prompt,
                "{model}"
            );
            let generated = ids(&case["greedy_ids"]);
            let text = tokenizer.decode(&generated, true).unwrap();
            // Random weights make bytes that are no characters, of which we keep more.
            if !text.contains('\u{fffd}') {
                assert_eq!(text, case["greedy_text"].as_str().unwrap(), "{model}");
            }
            // After the prompt, the first word keeps its space.
            let whole =
                tokenizer.decode(&[prompt.clone(), generated.clone()].concat(), true).unwrap();
            let before = tokenizer.decode(&prompt, true).unwrap();
            assert_eq!(
                format!("{before}{}", stream(&tokenizer, &generated, true, &prompt)),
                whole,
                "{model}"
            );
            cases += 1;
        }
    }
    assert!(cases >= 25, "{cases}");
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let tokenizer = load("byte_level.json");
    assert_eq!(tokenizer.encode("the", true).unwrap().len(), 1);
    assert_eq!(tokenizer.encode(&"x".repeat(100), true).unwrap().len(), 100);
}

#[test]
fn special_tokens_are_added_recognised_and_skipped() {
    let tokenizer = load("byte_fallback.json");
    let plain = tokenizer.encode("hello", false).unwrap();
    let with_bos = tokenizer.encode("hello", true).unwrap();
    assert_eq!(with_bos, [&[1], plain.as_slice()].concat());
    assert_eq!(tokenizer.decode(&with_bos, true).unwrap(), "hello");
    assert_eq!(tokenizer.decode(&with_bos, false).unwrap(), "<s> hello");
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(plain[0]));
    assert_eq!(tokenizer.token_id("</s>"), Some(2));
    assert_eq!(tokenizer.token_id("nothing like it"), None);
    assert!(tokenizer.encode("a</s>b", false).unwrap().contains(&2));

    // Added, but not special: part of the text.
    let tokenizer = load("byte_level.json");
    let tool = tokenizer.token_id("<tool>").unwrap();
    let end = tokenizer.token_id("<|end|>").unwrap();
    assert_eq!(tokenizer.decode(&[tool, end], true).unwrap(), "<tool>");
    assert_eq!(tokenizer.vocab_size(), tool + 1);
}

#[test]
fn tokens_have_texts_and_bytes() {
    let tokenizer = load("byte_fallback.json");
    let newline = tokenizer.token_id("<0x0A>").unwrap();
    assert_eq!(tokenizer.token_bytes(newline), Some(b"\n".as_slice()));
    assert_eq!(tokenizer.token_text(tokenizer.token_id("<0xE2>").unwrap()).unwrap(), "\u{fffd}");
    let hello = tokenizer.token_id("▁hello").unwrap();
    assert_eq!(tokenizer.token_text(hello).unwrap(), " hello");
    assert_eq!(tokenizer.token_text(1).unwrap(), "<s>");
    assert_eq!((tokenizer.token_text(1_000_000), tokenizer.token_bytes(1_000_000)), (None, None));

    let tokenizer = load("byte_level.json");
    let hello = tokenizer.token_id("Ġhello").unwrap();
    assert_eq!(tokenizer.token_bytes(hello), Some(b" hello".as_slice()));
    // Every byte is the byte of one token.
    let singles: Vec<u8> =
        (0..256).filter_map(|id| tokenizer.token_bytes(id)).flatten().copied().collect();
    assert_eq!(singles, (0..=255).collect::<Vec<u8>>());
    // Ids beyond the vocabulary have no text, and no effect.
    let beyond = tokenizer.vocab_size();
    assert_eq!(tokenizer.token_text(beyond), None);
    assert_eq!(tokenizer.decode(&[beyond, hello, u32::MAX], false).unwrap(), " hello");
}

#[test]
fn long_texts_are_refused_before_any_work() {
    let tokenizer = Tokenizer::from_json(&common::fixture("byte_level.json"), 10).unwrap();
    assert!(tokenizer.encode("0123456789", false).is_ok());
    assert_eq!(
        tokenizer.encode("0123456789a", false),
        Err(TokenizerError::TooLong { length: 11, limit: 10 })
    );
}

/// Texts that are hard for tokenizers: one word, marks without letters, no spaces, controls.
#[test]
fn hostile_texts_are_encoded() {
    for name in ["byte_level.json", "byte_fallback.json", "metaspace.json"] {
        let tokenizer = load(name);
        for part in ["a", " ", "\n", "\u{301}", "\0", "🙂", "\u{200d}", "日", "' ", "<s>"] {
            let text = part.repeat(100_000 / part.len());
            let tokens = tokenizer.encode(&text, true).unwrap();
            assert!(!tokens.is_empty(), "{name}: {part:?}");
            if name == "byte_level.json" {
                assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text, "{part:?}");
            }
        }
    }
}

#[test]
fn files_that_are_no_tokenizers_are_refused_with_a_sentence() {
    let mut good: Value = serde_json::from_slice(&common::fixture("byte_level.json")).unwrap();
    let refused = |json: &[u8], part: &str| {
        let error = Tokenizer::from_json(json, MAX_BYTES).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json cannot be read: "), "{error}");
        assert!(error.contains(part), "{error}");
        assert!(error.len() < 500, "{error}");
    };
    refused(b"", "it is empty");
    refused(b" \n", "it is empty");
    refused(b"not json", "expected");
    refused(b"\xff\xfe\x00", "expected");
    refused(b"{}", "no `model`");
    refused(br#"{"architectures": ["LlamaForCausalLM"]}"#, "no `model`");
    refused(br#"{"model": null}"#, "");
    refused("[".repeat(100_000).as_bytes(), "EOF");
    refused(format!("{{\"model\":{}", "[".repeat(100_000)).as_bytes(), "");
    refused(br#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#, "");
    for (field, value) in [
        ("decoder", json!(7)),
        ("decoder", json!({"type": "NoSuchDecoder"})),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": false}),
        ),
        ("normalizer", json!("x")),
        ("added_tokens", json!([{"id": -1}])),
    ] {
        let before = std::mem::replace(&mut good[field], value);
        refused(good.to_string().as_bytes(), "");
        good[field] = before;
    }
    good["model"]["merges"][0] = json!(["no", "such"]);
    refused(good.to_string().as_bytes(), "");
    good["model"]["merges"] = json!([]);
    good["model"]["vocab"] = json!({"a": 4_000_000_000_u32});
    refused(good.to_string().as_bytes(), "the largest can be 16777215");
}

/// Each byte of a valid file is changed once; whatever comes out, it is a tokenizer that works or a refusal.
#[test]
fn mangled_files_never_panic() {
    let json = common::fixture("word_piece.json");
    for position in 0..json.len() {
        let mut mangled = json.clone();
        mangled[position] ^= 0x15;
        if let Ok(tokenizer) = Tokenizer::from_json(&mangled, MAX_BYTES) {
            // Errors are fine here, too.
            if let Ok(tokens) = tokenizer.encode("hello friends, don't!", true) {
                let _ = tokenizer.decode(&tokens, true);
            }
        }
    }
}
