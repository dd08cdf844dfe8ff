//! The bytes of every token, for the decoders that give each token a fixed text.
//!
//! Those are byte-level BPE (`Ġthe` stands for ` the`) and SentencePiece models (`▁the`, `<0xE2>`), also without any decoder.
//! A sequence's text is then the bytes of its tokens in a row, less the spaces that are stripped from its start.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

/// The largest token. A file that names a larger one is refused: the engine's vocabulary is bounded, too.
const MAX_TOKEN: u32 = 1 << 24;

/// How a decoder turns the names of tokens into text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    steps: Vec<Step>,
    strip: Strip,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Every character stands for a byte, which is at the place of its code.
    ByteLevel(Vec<Option<u8>>),
    /// `<0x0A>` stands for one byte.
    ByteFallback,
    Replace(String, String),
}

/// What is taken from the start of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strip {
    /// Up to so many of these bytes.
    Upto(u8, usize),
    /// All spaces of the first token.
    FirstToken,
}

impl Rule {
    /// The rule of the `decoder` of a `tokenizer.json`; `None` if it gives tokens no fixed texts, or is unknown.
    pub(crate) fn of(decoder: Option<&Json>) -> Option<Self> {
        let mut rule = Self { steps: Vec::new(), strip: Strip::Upto(b' ', 0) };
        let decoder = decoder.filter(|decoder| !decoder.is_null())?;
        let mut parts = Vec::new();
        flatten(decoder, 0, &mut parts)?;
        let mut fused = false;
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let text = |name: &str| part.get(name).and_then(Json::as_str);
            match part.get("type").and_then(Json::as_str)? {
                "Fuse" => fused = true,
                "ByteLevel" if parts.len() == 1 => rule.steps.push(Step::ByteLevel(byte_level())),
                "ByteFallback" if !fused => rule.steps.push(Step::ByteFallback),
                "Replace" if !fused => {
                    let pattern = part.get("pattern")?.get("String")?.as_str()?;
                    rule.steps.push(Step::Replace(pattern.to_owned(), text("content")?.to_owned()));
                }
                "Strip" if fused && last && part.get("stop")?.as_u64()? == 0 => {
                    let &[byte] = text("content")?.as_bytes() else { return None };
                    rule.strip =
                        Strip::Upto(byte, usize::try_from(part.get("start")?.as_u64()?).ok()?);
                }
                "Metaspace" if parts.len() == 1 => {
                    rule.steps.push(Step::Replace(text("replacement")?.to_owned(), " ".to_owned()));
                    let never = text("prepend_scheme") == Some("never");
                    rule.strip = if never { Strip::Upto(b' ', 0) } else { Strip::FirstToken };
                }
                _ => return None,
            }
        }
        Some(rule)
    }

    fn apply(&self, name: &str) -> Vec<u8> {
        let mut text = name.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace(from, to) => text = text.replace(from, to),
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel(byte_of) => {
                    let byte =
                        |c| byte_of.get(usize::try_from(u32::from(c)).ok()?).copied().flatten();
                    let bytes: Option<Vec<u8>> = text.chars().map(byte).collect();
                    return bytes.unwrap_or_else(|| text.into_bytes());
                }
            }
        }
        text.into_bytes()
    }
}

/// The decoders of a sequence of sequences in a row.
fn flatten<'j>(decoder: &'j Json, depth: usize, parts: &mut Vec<&'j Json>) -> Option<()> {
    if decoder.get("type").and_then(Json::as_str) != Some("Sequence") {
        parts.push(decoder);
        return Some(());
    }
    let inner = decoder.get("decoders")?.as_array().filter(|_| depth < 8)?;
    inner.iter().try_for_each(|part| flatten(part, depth + 1, parts))
}

/// The byte of a token like `<0x0A>`.
fn fallback_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// The bytes that characters stand for in a byte-level vocabulary, by their codes: printable bytes are themselves, the others
/// are counted up from U+0100 (the table of GPT-2).
fn byte_level() -> Vec<Option<u8>> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=u8::MAX).map(|byte| Some(byte).filter(printable));
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).map(Some);
    themselves.chain(others).collect()
}

/// All tokens and their bytes.
pub(crate) struct TokenTable {
    /// The bytes of all tokens in a row.
    bytes: Vec<u8>,
    /// Where a token's bytes are.
    places: HashMap<u32, (u32, u32)>,
    special: HashSet<u32>,
    vocab_size: u32,
    strip: Option<Strip>,
}

impl TokenTable {
    /// The table of a tokenizer. Without a rule, the bytes are only for showing.
    pub(crate) fn build(
        library: &tokenizers::Tokenizer,
        rule: Option<Rule>,
    ) -> Result<Self, String> {
        let strip = rule.as_ref().map(|rule| rule.strip);
        let shown = Rule { steps: Vec::new(), strip: Strip::FirstToken };
        let rule = rule.unwrap_or(shown);
        let added = library.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let mut tokens: Vec<u32> =
            library.get_vocab(true).into_values().chain(added.keys().copied()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        let vocab_size = tokens.last().map_or(0, |last| last.saturating_add(1));
        if vocab_size > MAX_TOKEN {
            return Err(format!(
                "it has a token {}, the largest can be {}",
                vocab_size - 1,
                MAX_TOKEN - 1
            ));
        }
        if tokens.is_empty() {
            return Err("its vocabulary is empty".to_owned());
        }
        let mut table = Self {
            bytes: Vec::new(),
            places: HashMap::with_capacity(tokens.len()),
            special,
            vocab_size,
            strip,
        };
        for token in tokens {
            let Some(name) = library.id_to_token(token) else { continue };
            let start = table.bytes.len();
            table.bytes.extend(rule.apply(&name));
            let place = u32::try_from(start).ok().zip(u32::try_from(table.bytes.len()).ok());
            table.places.insert(token, place.ok_or("its vocabulary has more than 4 GiB of text")?);
        }
        Ok(table)
    }

    /// Whether a text is the bytes of its tokens in a row.
    pub(crate) fn has_fixed_texts(&self) -> bool {
        self.strip.is_some()
    }

    /// What is taken from the start of a text.
    pub(crate) fn strip(&self) -> Option<Strip> {
        self.strip
    }

    pub(crate) fn bytes(&self, token: u32) -> Option<&[u8]> {
        let (start, end) = *self.places.get(&token)?;
        self.bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    pub(crate) fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    pub(crate) fn vocab_size(&self) -> u32 {
        self.vocab_size
    }
}
