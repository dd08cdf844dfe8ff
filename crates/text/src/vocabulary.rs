//! A tokenizer from the vocabulary of a GGUF file, which has the tokens but says little about how texts are cut.
//!
//! Two kinds are in use. `llama` is SentencePiece: pieces with scores, of which neighbours merge in the order of their scores,
//! and single bytes for what has no piece. `gpt2` is byte-level BPE: merges in order, within words that a regular expression
//! finds, which the file only names. Both become what Hugging Face would have written as `tokenizer.json`, so that there is
//! one tokenizer.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use crate::tokenizer::{Tokenizer, TokenizerError};

/// What a token is for. The numbers are those of the file.
const NORMAL: i128 = 1;
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;
const UNUSED: i128 = 5;

/// Longest piece that is looked at for merges, in bytes; the time goes with the square of it.
const MOST_PIECE_BYTES: usize = 256;

/// A vocabulary as GGUF files hold it. Lists are by token.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary<'a> {
    /// `tokenizer.ggml.model`
    pub model: &'a str,
    /// `tokenizer.ggml.pre`
    pub pre: Option<&'a str>,
    /// The texts.
    pub tokens: &'a [String],
    /// What each is for; may be absent.
    pub kinds: Option<&'a [i128]>,
    /// The scores; `llama` only.
    pub scores: Option<&'a [f64]>,
    /// The merges, two tokens with a space between; `gpt2` only.
    pub merges: Option<&'a [String]>,
    /// The beginning of a text.
    pub bos: Option<u32>,
    /// The end of a text.
    pub eos: Option<u32>,
    /// What stands for what has no token.
    pub unknown: Option<u32>,
    /// Whether texts begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts end with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space is put before texts; `llama` only.
    pub add_space_prefix: Option<bool>,
}

/// How texts are cut into words.
struct Words {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a word that is a token is never cut.
    ignore_merges: bool,
    /// Whether characters are composed first (Unicode's NFC).
    composed: bool,
    add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEFAULT: Words = Words {
    names: &["default"],
    patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    ignore_merges: false,
    composed: false,
    add_bos: false,
};

const WORDS: &[Words] = &[
    DEFAULT,
    Words {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "gigachat"],
        patterns: &[GPT2],
        ..DEFAULT
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..DEFAULT
    },
    Words { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], ..DEFAULT },
    Words {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"],
        patterns: &[QWEN2],
        composed: true,
        ..DEFAULT
    },
    Words {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ..DEFAULT
    },
    Words {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ..DEFAULT
    },
    Words {
        names: &["tekken"],
        patterns: &[TEKKEN],
        ignore_merges: true,
        add_bos: true,
        ..DEFAULT
    },
    Words { names: &["gpt-4o", "llama4"], patterns: &[GPT4O], ..DEFAULT },
];

impl Vocabulary<'_> {
    /// The tokenizer, and a warning where the file leaves open how texts are cut. See [`Tokenizer::from_json`].
    ///
    /// # Errors
    /// [`TokenizerError::Vocabulary`] when the lists do not go together, or the kind is not supported.
    pub fn tokenizer(
        &self,
        max_bytes: usize,
    ) -> Result<(Tokenizer, Option<String>), TokenizerError> {
        self.check()?;
        let (json, warning) = match self.model {
            "llama" => (self.pieces()?, None),
            "gpt2" => {
                let (words, warning) = self.words()?;
                (self.byte_level(words)?, warning)
            }
            other => {
                return Err(bad(format!(
                    "`tokenizer.ggml.model` is `{other}`, which is not supported; llama and gpt2 are"
                )));
            }
        };
        let json = serde_json::to_vec(&json).map_err(|error| bad(error.to_string()))?;
        let tokenizer = Tokenizer::from_json(&json, max_bytes).map_err(|error| match error {
            TokenizerError::Load { detail } => bad(detail),
            other => other,
        })?;
        Ok((tokenizer, warning))
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(bad("`tokenizer.ggml.tokens` is missing or empty".to_owned()));
        }
        let lengths = [
            ("token_type", self.kinds.map(<[i128]>::len)),
            ("scores", self.scores.map(<[f64]>::len)),
        ];
        for (name, length) in lengths {
            if length.is_some_and(|length| length != tokens) {
                return Err(bad(format!(
                    "`tokenizer.ggml.{name}` has {} entries for {tokens} tokens",
                    length.unwrap_or_default()
                )));
            }
        }
        for id in [self.bos, self.eos, self.unknown].into_iter().flatten() {
            self.text(id).ok_or_else(|| bad(format!("there is no token {id}")))?;
        }
        if self.scores.unwrap_or_default().iter().any(|score| score.is_nan()) {
            return Err(bad("`tokenizer.ggml.scores` has one that is no number".to_owned()));
        }
        Ok(())
    }

    fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// Tokens with their ids and kinds.
    fn tokens(&self) -> impl Iterator<Item = (u32, &str, i128)> {
        let kinds = self.kinds.unwrap_or_default().iter().copied();
        let kinds = kinds.chain(std::iter::repeat(NORMAL));
        (0..).zip(self.tokens).zip(kinds).map(|((id, text), kind)| (id, text.as_str(), kind))
    }

    fn ids(&self) -> Map<String, Json> {
        self.tokens().map(|(id, text, _)| (text.to_owned(), Json::from(id))).collect()
    }

    /// Tokens that are found in texts before these are cut.
    fn added(&self) -> Vec<Json> {
        let added = self.tokens().filter(|(_, text, kind)| {
            matches!(*kind, UNKNOWN | CONTROL | USER_DEFINED) && !text.is_empty()
        });
        added
            .map(|(id, text, kind)| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": kind != USER_DEFINED,
                })
            })
            .collect()
    }

    /// What is put around texts.
    fn around(&self, add_bos: bool) -> Json {
        let (mut single, mut pair) = (Vec::new(), Vec::new());
        let mut special = Map::new();
        let mut add = |id: Option<u32>, wanted: bool, single: &mut Vec<Json>| {
            let Some((id, text)) = id.filter(|_| wanted).and_then(|id| Some((id, self.text(id)?)))
            else {
                return;
            };
            single.push(json!({"SpecialToken": {"id": text, "type_id": 0}}));
            special.insert(text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
        };
        add(self.bos, self.add_bos.unwrap_or(add_bos), &mut single);
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        add(self.eos, self.add_eos.unwrap_or(false), &mut single);
        pair.extend(single.iter().cloned());
        pair.push(json!({"Sequence": {"id": "B", "type_id": 0}}));
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
    }

    /// SentencePiece.
    fn pieces(&self) -> Result<Json, TokenizerError> {
        let scores =
            self.scores.ok_or_else(|| bad("`tokenizer.ggml.scores` is missing".to_owned()))?;
        let prefix = self.add_space_prefix.unwrap_or(true);
        let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut normalizers = vec![escape];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self
            .unknown
            .or_else(|| self.tokens().find(|(_, _, kind)| *kind == UNKNOWN).map(|(id, _, _)| id));
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.around(true),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "unk_token": unknown.and_then(|id| self.text(id)), "fuse_unk": true,
                "byte_fallback": true, "vocab": self.ids(), "merges": self.merges_by_score(scores),
            },
        }))
    }

    /// Every way to make a piece of two others, the best piece first. SentencePiece merges whatever makes the piece of the
    /// highest score.
    fn merges_by_score(&self, scores: &[f64]) -> Vec<Json> {
        let ids: HashMap<&str, u32> = self.tokens().map(|(id, text, _)| (text, id)).collect();
        let mut merges = Vec::new();
        for ((id, text, kind), score) in self.tokens().zip(scores) {
            if !matches!(kind, NORMAL | UNUSED) || text.len() > MOST_PIECE_BYTES {
                continue;
            }
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                    merges.push((*score, id, left, right, (l, r)));
                }
            }
        }
        merges.sort_by(|a, b| {
            let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
            let order = b.0.total_cmp(&a.0).then(lengths(b.2, b.3).cmp(&lengths(a.2, a.3)));
            order.then((a.1, a.4).cmp(&(b.1, b.4)))
        });
        merges.into_iter().map(|(_, _, left, right, _)| json!([left, right])).collect()
    }

    /// The words of the name that the file gives.
    fn words(&self) -> Result<(&'static Words, Option<String>), TokenizerError> {
        let Some(name) = self.pre else {
            let warning = "the file does not say how texts are cut into words (`tokenizer.ggml.pre`), so the oldest way is \
                           used; a newer conversion of the model may give better answers";
            return Ok((&DEFAULT, Some(warning.to_owned())));
        };
        let found = WORDS.iter().find(|words| words.names.contains(&name));
        found.map(|words| (words, None)).ok_or_else(|| {
            let known: Vec<_> = WORDS.iter().flat_map(|words| words.names).copied().collect();
            bad(format!(
                "`tokenizer.ggml.pre` is `{name}`, which is not supported; {} are",
                known.join(", ")
            ))
        })
    }

    /// Byte-level BPE.
    fn byte_level(&self, words: &Words) -> Result<Json, TokenizerError> {
        let merges =
            self.merges.ok_or_else(|| bad("`tokenizer.ggml.merges` is missing".to_owned()))?;
        let merges = merges.iter().map(|merge| {
            // A space stands for itself in no byte-level token.
            let parts = merge.split_once(' ').filter(|(l, r)| !l.is_empty() && !r.is_empty());
            parts.map(|(left, right)| json!([left, right])).ok_or_else(|| {
                bad(format!("`tokenizer.ggml.merges` has `{merge}`, which is not two tokens"))
            })
        });
        let mut cuts: Vec<Json> = words
            .patterns
            .iter()
            .map(|pattern| {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            })
            .collect();
        cuts.push(json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
        }));
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added(),
            "normalizer": words.composed.then(|| json!({"type": "NFC"})),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
            "post_processor": self.around(words.add_bos),
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {
                "type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": words.ignore_merges, "vocab": self.ids(),
                "merges": merges.collect::<Result<Vec<_>, _>>()?,
            },
        }))
    }
}

fn bad(detail: String) -> TokenizerError {
    TokenizerError::Vocabulary { detail }
}
