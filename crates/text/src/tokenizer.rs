//! `tokenizer.json`: text to tokens through the `tokenizers` library, tokens to text through a table of our own.
//!
//! Encoding is the library's. It panics on some files and inputs, so every call of it is fenced: what is a bug there must cost
//! one request and not the server. Its work is close to linear (0.1–1.2 s for a megabyte of one repeated character), so a
//! bound on the bytes of a text is a bound on time.
//!
//! Decoding is needed token by token, so that text can be streamed and the bytes of a token be reported, and the library only
//! decodes whole sequences. Nearly all decoders in use give every token a fixed text of bytes, which [`TokenTable`] computes
//! once. The few others (`WordPiece`, `CTC`, …) go through the library.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::detok::Detokenizer;
use crate::table::{Rule, TokenTable};

/// Why a tokenizer was not loaded or a text not encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// The file is not a tokenizer.
    #[error("tokenizer.json cannot be read: {detail}")]
    Load {
        /// What is wrong.
        detail: String,
    },
    /// The vocabulary of a GGUF file is not one.
    #[error("the vocabulary in the GGUF file cannot be used: {detail}")]
    Vocabulary {
        /// What is wrong.
        detail: String,
    },
    /// The text is too long to be encoded.
    #[error("the text has {length} bytes, the limit is {limit}; shorten it")]
    TooLong {
        /// The length of the text, in bytes.
        length: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// The library could not encode the text.
    #[error("the text cannot be tokenized: {detail}")]
    Encode {
        /// What is wrong.
        detail: String,
    },
    /// The library could not decode the tokens.
    #[error("the tokens cannot be turned into text: {detail}")]
    Decode {
        /// What is wrong.
        detail: String,
    },
}

/// A tokenizer. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    library: tokenizers::Tokenizer,
    table: TokenTable,
    max_bytes: usize,
}

/// What is looked at before the library reads the file.
#[derive(Deserialize)]
struct File {
    model: Option<IgnoredAny>,
    decoder: Option<serde_json::Value>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`. Texts longer than `max_bytes` will be refused by [`encode`](Self::encode).
    /// Truncation and padding that the file asks for are switched off: a prompt is served as it is or refused.
    ///
    /// # Errors
    /// [`TokenizerError::Load`] if the file is not a tokenizer that works.
    pub fn from_json(json: &[u8], max_bytes: usize) -> Result<Self, TokenizerError> {
        let load = |detail: String| TokenizerError::Load { detail };
        if json.iter().all(u8::is_ascii_whitespace) {
            return Err(load("it is empty".to_owned()));
        }
        let parsed: File = serde_json::from_slice(json).map_err(|error| load(error.to_string()))?;
        if parsed.model.is_none() {
            return Err(load("it has no `model`; is it really a tokenizer.json?".to_owned()));
        }
        let mut library =
            fence(|| tokenizers::Tokenizer::from_bytes(json).map_err(|error| error.to_string()))
                .map_err(|detail| load(clip(&detail)))?;
        library.with_padding(None);
        fence(|| library.with_truncation(None).map(|_| ()).map_err(|error| error.to_string()))
            .map_err(load)?;
        let rule = Rule::of(parsed.decoder.as_ref());
        let table = fence(|| TokenTable::build(&library, rule)).map_err(load)?;
        Ok(Self { inner: Arc::new(Inner { library, table, max_bytes }) })
    }

    /// One more than the highest token. Not every token below it need exist.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.inner.table.vocab_size()
    }

    /// The longest text that [`encode`](Self::encode) takes, in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.inner.max_bytes
    }

    /// The tokens of `text`. Special tokens that occur in `text` are recognised; with `add_special`, those that the model
    /// expects around a text (such as a BOS) are added.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] before anything is done, [`TokenizerError::Encode`] if the library fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > self.inner.max_bytes {
            return Err(TokenizerError::TooLong {
                length: text.len(),
                limit: self.inner.max_bytes,
            });
        }
        let encoding = fence(|| {
            self.inner.library.encode_fast(text, add_special).map_err(|error| error.to_string())
        })
        .map_err(|detail| TokenizerError::Encode { detail: clip(&detail) })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`; tokens that do not exist have none. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// It is the library's text, except in one case: where single bytes (`<0xE2>`) follow each other and are not UTF-8 as a
    /// whole, the library gives up all of them, and this keeps the characters that are whole. So a text is the same whether it
    /// is streamed or not.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`], only for decoders that are left to the library.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        if self.inner.table.has_fixed_texts() {
            let mut detokenizer = Detokenizer::new(self.clone(), skip_special, &[]);
            let mut text = String::new();
            for &token in tokens {
                text.push_str(&detokenizer.push(token)?);
            }
            text.push_str(&detokenizer.finish());
            return Ok(text);
        }
        self.decode_by_library(tokens, skip_special)
    }

    /// The text of `tokens` by the library.
    pub(crate) fn decode_by_library(
        &self,
        tokens: &[u32],
        skip_special: bool,
    ) -> Result<String, TokenizerError> {
        if tokens.is_empty() {
            // Some decoders subtract one from the number of tokens.
            return Ok(String::new());
        }
        fence(|| self.inner.library.decode(tokens, skip_special).map_err(|error| error.to_string()))
            .map_err(|detail| TokenizerError::Decode { detail: clip(&detail) })
    }

    /// One token as a text, for showing: with its leading space, and U+FFFD for half a character.
    #[must_use]
    pub fn token_text(&self, token: u32) -> Option<String> {
        self.token_bytes(token).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The bytes that a token stands for; half a character is half a character.
    #[must_use]
    pub fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        self.inner.table.bytes(token)
    }

    /// Whether the token is a control token such as BOS, which is left out of texts with `skip_special`.
    #[must_use]
    pub fn is_special(&self, token: u32) -> bool {
        self.inner.table.is_special(token)
    }

    /// The token that is written `text` in the vocabulary, such as `</s>`.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.library.token_to_id(text)
    }

    pub(crate) fn table(&self) -> &TokenTable {
        &self.inner.table
    }
}

/// Calls the library. It is written for trusted files: some of them make it panic, and so may texts it does not expect.
fn fence<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the tokenizer library panicked".to_owned()))
}

/// Errors of the library can repeat whole files.
fn clip(detail: &str) -> String {
    detail.chars().take(300).collect()
}
