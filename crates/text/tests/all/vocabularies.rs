//! Vocabularies of GGUF files: the same tokens as the tokenizer they were made from, and refusals of what is no vocabulary.

use std::collections::BTreeMap;

use crate::common;
use folio_text::{Tokenizer, TokenizerError, Vocabulary};
use serde_json::Value;

const MAX_BYTES: usize = 1 << 20;

/// The lists of a GGUF file, made from a `tokenizer.json` as llama.cpp's converter makes them.
#[derive(Default)]
struct Lists {
    tokens: Vec<String>,
    kinds: Vec<i128>,
    scores: Vec<f64>,
    merges: Vec<String>,
}

impl Lists {
    fn of(json: &Value) -> Self {
        let mut by_id: BTreeMap<u64, (String, i128)> = BTreeMap::new();
        for (text, id) in json["model"]["vocab"].as_object().unwrap() {
            let byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            by_id.insert(id.as_u64().unwrap(), (text.clone(), if byte { 6 } else { 1 }));
        }
        for token in json["added_tokens"].as_array().unwrap() {
            let kind = if token["special"].as_bool().unwrap() { 3 } else { 4 };
            let text = token["content"].as_str().unwrap().to_owned();
            by_id.insert(token["id"].as_u64().unwrap(), (text, kind));
        }
        let mut lists = Self::default();
        for (place, (id, (text, kind))) in (0..).zip(by_id) {
            assert_eq!(place, id, "vocabularies have no gaps");
            // What SentencePiece's BPE writes: pieces are numbered in the order in which they were made, runs of spaces last.
            let spaces = text.chars().count() > 1 && text.chars().all(|c| c == '▁');
            let score = if spaces { -1e9 } else { -(id as f64) };
            lists.scores.push(if kind == 1 { score } else { 0.0 });
            lists.tokens.push(text);
            lists.kinds.push(kind);
        }
        let merges = json["model"]["merges"].as_array().unwrap().iter();
        lists.merges = merges
            .map(|merge| match merge {
                Value::String(merge) => merge.clone(),
                pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            })
            .collect();
        lists
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.tokens.iter().position(|t| t == text).map(|id| u32::try_from(id).unwrap())
    }

    fn sentence_piece(&self) -> Vocabulary<'_> {
        Vocabulary {
            model: "llama",
            tokens: &self.tokens,
            kinds: Some(&self.kinds),
            scores: Some(&self.scores),
            bos: self.id("<s>"),
            eos: self.id("</s>"),
            unknown: self.id("<unk>"),
            ..Vocabulary::default()
        }
    }

    fn byte_level<'a>(&'a self, pre: &'a str) -> Vocabulary<'a> {
        Vocabulary {
            model: "gpt2",
            pre: Some(pre),
            tokens: &self.tokens,
            kinds: Some(&self.kinds),
            merges: Some(&self.merges),
            ..Vocabulary::default()
        }
    }
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}

#[test]
fn published_vocabularies_encode_and_decode_as_hugging_face_does() {
    let Some(shared) = common::shared() else { return };
    let golden = common::json(&shared.join("tokenizers/golden_encodings.json"));
    for (name, adds_bos) in [("phi-3-mini", true), ("mistral-7b-v0.3", true), ("qwen2.5", false)] {
        let json = common::json(&shared.join("tokenizers").join(name).join("tokenizer.json"));
        let lists = Lists::of(&json);
        let vocabulary = if adds_bos { lists.sentence_piece() } else { lists.byte_level("qwen2") };
        let add_bos = (name == "phi-3-mini").then_some(false);
        let (tokenizer, warning) =
            Vocabulary { add_bos, ..vocabulary }.tokenizer(MAX_BYTES).unwrap();
        assert_eq!(warning, None);
        let cases = golden["sets"][name].as_array().unwrap();
        for case in cases {
            let text = case["text"].as_str().unwrap();
            // Rules of single models that GGUF has no words for: no second space at the start, none after special tokens.
            if name != "qwen2.5"
                && (text.starts_with(' ') || text.contains("<|") || text.contains("[INST]"))
            {
                continue;
            }
            let plain = tokenizer.encode(text, false).unwrap();
            assert_eq!(plain, ids(&case["ids_no_special"]), "{name}: {text:?}");
            let decoded = tokenizer.decode(&plain, false).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}");
            if name != "phi-3-mini" {
                let whole = tokenizer.encode(text, true).unwrap();
                assert_eq!(whole, ids(&case["ids"]), "{name}: {text:?}");
            }
        }
        assert!(!cases.is_empty());
    }
}

/// A few pieces, all of whose merges matter.
fn small() -> Lists {
    let pieces = [
        ("<unk>", 2, 0.0),
        ("<s>", 3, 0.0),
        ("</s>", 3, 0.0),
        ("<0x0A>", 6, 0.0),
        ("▁", 1, -1.0),
        ("a", 1, -2.0),
        ("b", 1, -3.0),
        ("ab", 1, -4.0),
        ("▁a", 1, -5.0),
        ("▁ab", 1, -6.0),
        ("bb", 1, -0.5),
        ("<tool>", 4, 0.0),
    ];
    Lists {
        tokens: pieces.iter().map(|(text, ..)| (*text).to_owned()).collect(),
        kinds: pieces.iter().map(|(_, kind, _)| *kind).collect(),
        scores: pieces.iter().map(|(.., score)| *score).collect(),
        merges: Vec::new(),
    }
}

fn encode(vocabulary: &Vocabulary<'_>, text: &str) -> Vec<u32> {
    vocabulary.tokenizer(MAX_BYTES).unwrap().0.encode(text, true).unwrap()
}

#[test]
fn pieces_merge_by_their_scores() {
    let lists = small();
    let vocabulary = lists.sentence_piece();
    // `ab` comes before `▁a`; `bb` before both.
    assert_eq!(encode(&vocabulary, "ab"), [1, 9]);
    assert_eq!(encode(&vocabulary, "abb"), [1, 8, 10]);
    assert_eq!(encode(&vocabulary, "a\nb"), [1, 8, 3, 6]);
    assert_eq!(encode(&vocabulary, "a<tool>a</s>"), [1, 8, 11, 8, 2]);
    let bare = Vocabulary { add_space_prefix: Some(false), ..vocabulary.clone() };
    assert_eq!(encode(&bare, "ab"), [1, 7]);
    let plain = Vocabulary { add_bos: Some(false), add_eos: Some(true), ..vocabulary };
    assert_eq!(encode(&plain, "ab"), [9, 2]);
    let (tokenizer, _) = plain.tokenizer(MAX_BYTES).unwrap();
    assert_eq!(tokenizer.decode(&[9, 3, 9, 2], true).unwrap(), "ab\n ab");
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(11));
}

#[test]
fn words_are_cut_as_the_file_says() {
    let mut tokens: Vec<String> = "0123456789ab".chars().map(String::from).collect();
    tokens.extend(["12", "123", "ab"].map(str::to_owned));
    let merges = ["1 2", "12 3", "a b"].map(str::to_owned).to_vec();
    let lists = Lists { tokens, merges, ..Lists::default() };
    let encode = |pre: Option<&str>| {
        let vocabulary = Vocabulary {
            model: "gpt2",
            pre,
            tokens: &lists.tokens,
            merges: Some(&lists.merges),
            ..Vocabulary::default()
        };
        let (tokenizer, warning) = vocabulary.tokenizer(MAX_BYTES).unwrap();
        (tokenizer.encode("ab12312", true).unwrap(), warning.is_some())
    };
    assert_eq!(encode(Some("llama-bpe")), (vec![14, 13, 12], false));
    assert_eq!(encode(Some("qwen2")), (vec![14, 1, 2, 3, 1, 2], false));
    assert_eq!(encode(Some("smollm")), (vec![14, 1, 2, 3, 1, 2], false));
    assert_eq!(encode(Some("gpt-2")), (vec![14, 13, 12], false));
    assert_eq!(encode(None), (vec![14, 13, 12], true));
}

fn refusal(vocabulary: &Vocabulary<'_>) -> String {
    match vocabulary.tokenizer(MAX_BYTES) {
        Err(error @ TokenizerError::Vocabulary { .. }) => error.to_string(),
        other => panic!("{:?}", other.map(|(tokenizer, _)| Tokenizer::vocab_size(&tokenizer))),
    }
}

#[test]
fn what_is_no_vocabulary_is_refused() {
    let lists = small();
    let base = lists.sentence_piece();
    let short = [1.0, 2.0];
    let mut scores = lists.scores.clone();
    scores[5] = f64::NAN;
    let bytes = lists.byte_level("llama-bpe");
    let no_pair = ["ab".to_owned()];
    let absent = ["a zz".to_owned()];
    let cases = [
        (Vocabulary { model: "bert", ..base.clone() }, "`bert`"),
        (Vocabulary { tokens: &[], ..base.clone() }, "missing or empty"),
        (Vocabulary { scores: None, ..base.clone() }, "scores` is missing"),
        (Vocabulary { scores: Some(&short), ..base.clone() }, "2 entries for 12 tokens"),
        (Vocabulary { scores: Some(&scores), ..base.clone() }, "no number"),
        (Vocabulary { kinds: Some(&[]), ..base.clone() }, "0 entries for 12 tokens"),
        (Vocabulary { bos: Some(12), ..base.clone() }, "no token 12"),
        (Vocabulary { pre: Some("klingon"), ..bytes.clone() }, "`klingon`"),
        (Vocabulary { merges: None, ..bytes.clone() }, "merges` is missing"),
        (Vocabulary { merges: Some(&no_pair), ..bytes.clone() }, "not two tokens"),
        (Vocabulary { merges: Some(&absent), ..bytes.clone() }, "zz"),
    ];
    for (vocabulary, part) in cases {
        let sentence = refusal(&vocabulary);
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}

#[test]
fn long_pieces_cost_little() {
    let mut lists = small();
    for (i, text) in ["a".repeat(1 << 20), "ab".repeat(1 << 19)].into_iter().enumerate() {
        lists.tokens.push(text);
        lists.kinds.push(1);
        lists.scores.push(-(i as f64));
    }
    assert_eq!(encode(&lists.sentence_piece(), "ab"), [1, 9]);
}
