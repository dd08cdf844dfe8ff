//! Tokens become text one at a time, as a stream needs it.
//!
//! Two things make this more than a lookup. A character can be spread over tokens, and half of one must never leave; and a
//! word's leading space is stripped at the start of a text, which is not where a generation starts. With fixed texts (see
//! [`table`](crate::table)) both are a few bytes of state, and each token costs its own length. For other decoders the last
//! tokens are decoded again with each new one, in a window of bounded length.
//!
//! Invariant: what [`push`](Detokenizer::push) and [`finish`](Detokenizer::finish) return in total is what
//! [`Tokenizer::decode`] returns for all tokens at once (for decoders left to the library: as long as the window suffices).

use crate::table::Strip;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// The most tokens of a window that may wait for a character to be completed.
const MAX_WAITING: usize = 16;
/// The tokens before them that give the library its context.
const CONTEXT: usize = 6;
/// After so many tokens, nothing is left of what a window held.
pub(crate) const WINDOW: usize = MAX_WAITING + CONTEXT;

/// Turns a stream of tokens into a stream of text that never ends inside a character.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Bytes(ByteState),
    Window(Window),
}

/// The state where every token has fixed bytes.
#[derive(Debug)]
struct ByteState {
    /// The beginning of a character: 0 to 3 bytes.
    partial: Vec<u8>,
    /// What may still be stripped from the start.
    strip: Strip,
}

/// The state where the library decodes.
#[derive(Debug)]
struct Window {
    /// The last tokens; the text of the first `known` of them has been given out.
    tokens: Vec<u32>,
    known: usize,
}

impl Detokenizer {
    /// A detokenizer for what follows `context`: the last tokens of the prompt, or as many of them as there are at hand. Without
    /// a context, the text starts here and loses the space before its first word.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, skip_special: bool, context: &[u32]) -> Self {
        let state = match tokenizer.table().strip() {
            Some(strip) => State::Bytes(ByteState { partial: Vec::new(), strip }),
            None => {
                let tokens = context[context.len().saturating_sub(CONTEXT)..].to_vec();
                State::Window(Window { known: tokens.len(), tokens })
            }
        };
        let mut detokenizer = Self { tokenizer, skip_special, state };
        if let State::Bytes(_) = detokenizer.state {
            for &token in context {
                // With fixed bytes a push cannot fail; its text belongs to the prompt.
                let _ = detokenizer.push(token);
            }
        }
        detokenizer
    }

    /// A detokenizer that begins somewhere in a text. What it says of the first tokens may be wrong.
    pub(crate) fn midway(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let state = if tokenizer.table().has_fixed_texts() {
            State::Bytes(ByteState { partial: Vec::new(), strip: Strip::Upto(b' ', 0) })
        } else {
            State::Window(Window { tokens: Vec::new(), known: 0 })
        };
        Self { tokenizer, skip_special, state }
    }

    /// The text that `token` completes; often empty. A token that does not exist has no text.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`], only for decoders that are left to the library.
    pub fn push(&mut self, token: u32) -> Result<String, TokenizerError> {
        let table = self.tokenizer.table();
        if self.skip_special && table.is_special(token) {
            return Ok(String::new());
        }
        match &mut self.state {
            State::Bytes(state) => {
                Ok(table.bytes(token).map_or_else(String::new, |bytes| state.push(bytes)))
            }
            State::Window(window) => window.push(&self.tokenizer, self.skip_special, token),
        }
    }

    /// What is left at the end: bytes that no token completed, as U+FFFD.
    #[must_use]
    pub fn finish(&mut self) -> String {
        match &mut self.state {
            State::Bytes(state) => {
                String::from_utf8_lossy(&std::mem::take(&mut state.partial)).into_owned()
            }
            State::Window(window) => {
                let rest = window.rest(&self.tokenizer, self.skip_special).unwrap_or_default();
                window.known = window.tokens.len();
                rest
            }
        }
    }
}

impl ByteState {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.append(bytes);
        let mut text = String::new();
        let mut kept = 0;
        for chunk in self.partial.utf8_chunks() {
            text.push_str(chunk.valid());
            kept = chunk.invalid().len();
            // An invalid end may only be incomplete; anything else that is invalid stays so.
            if kept > 0 {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        let end = &self.partial[self.partial.len() - kept..];
        if kept > 0 && is_beginning(end) {
            text.pop();
            let end = end.to_vec();
            self.partial = end;
        } else {
            self.partial.clear();
        }
        text
    }

    fn append(&mut self, bytes: &[u8]) {
        match self.strip {
            Strip::Upto(byte, most) => {
                let here = bytes.iter().take(most).take_while(|b| **b == byte).count();
                let rest = &bytes[here..];
                self.strip = Strip::Upto(byte, if rest.is_empty() { most - here } else { 0 });
                self.partial.extend_from_slice(rest);
            }
            Strip::FirstToken => {
                self.strip = Strip::Upto(b' ', 0);
                self.partial.extend(bytes.iter().filter(|b| **b != b' '));
            }
        }
    }
}

/// Whether `bytes`, which are not UTF-8, could become a character with more bytes.
fn is_beginning(bytes: &[u8]) -> bool {
    // `error_len` is `None` exactly if the input ended too early.
    std::str::from_utf8(bytes)
        .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

impl Window {
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        skip_special: bool,
        token: u32,
    ) -> Result<String, TokenizerError> {
        self.tokens.push(token);
        let text = self.rest(tokenizer, skip_special)?;
        let waiting = self.tokens.len() - self.known;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && waiting < MAX_WAITING {
            return Ok(String::new());
        }
        self.known = self.tokens.len();
        // Only the tokens that were just given out are kept as context, at least a few.
        let excess = self.tokens.len().saturating_sub(waiting.max(CONTEXT));
        self.tokens.drain(..excess);
        self.known -= excess;
        Ok(text)
    }

    /// The text of the tokens that were not given out.
    fn rest(&self, tokenizer: &Tokenizer, skip_special: bool) -> Result<String, TokenizerError> {
        let before = tokenizer.decode_by_library(&self.tokens[..self.known], skip_special)?;
        let all = tokenizer.decode_by_library(&self.tokens, skip_special)?;
        // The text of the context can change at its end when more follows; the common part is what was given out.
        let mut common = before.bytes().zip(all.bytes()).take_while(|(a, b)| a == b).count();
        while !all.is_char_boundary(common) {
            common -= 1;
        }
        Ok(all[common..].to_owned())
    }
}
