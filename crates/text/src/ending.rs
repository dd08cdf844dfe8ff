//! Whether a text ends, asked of its tokens alone.
//!
//! Where many continuations compete and few are ever read, as in a beam search, no [`Detokenizer`] runs along with each of
//! them. [`StopCheck`] decodes only the last tokens anew: as many as the longest stop string reaches back, and a few before
//! them, after which a decoder that starts in the middle says what one that read everything says: half a character is
//! overcome after three bytes, what is stripped from a text's start after as many bytes, and a decoder of the library's
//! after one window.

use crate::detok::{Detokenizer, WINDOW};
use crate::table::Strip;
use crate::tokenizer::Tokenizer;

/// The most bytes of a character after its first.
const HALF_CHARACTER: usize = 3;

/// Tells after which token a stop string stands in the text of a generation.
#[derive(Debug, Clone)]
pub struct StopCheck {
    tokenizer: Tokenizer,
    skip_special: bool,
    context: Vec<u32>,
    stops: Vec<Vec<u8>>,
    longest: usize,
    /// Tokens that a decoder in the middle of a text has to read before its text counts.
    warm_up: usize,
}

impl StopCheck {
    /// A check for generations that follow `context` and end with one of `stops`, with the same meaning as in
    /// [`Detokenizer::new`] and [`StopFinder::new`](crate::StopFinder::new).
    #[must_use]
    pub fn new(
        tokenizer: Tokenizer,
        skip_special: bool,
        context: &[u32],
        stops: &[String],
    ) -> Self {
        let stops: Vec<Vec<u8>> =
            stops.iter().filter(|s| !s.is_empty()).map(|s| s.clone().into_bytes()).collect();
        let warm_up = match tokenizer.table().strip() {
            Some(Strip::Upto(_, most)) => most,
            Some(Strip::FirstToken) => 1,
            None => WINDOW,
        };
        Self {
            longest: stops.iter().map(Vec::len).max().unwrap_or(0),
            context: context.to_vec(),
            tokenizer,
            skip_special,
            stops,
            warm_up,
        }
    }

    /// Whether the newest token completes a stop string, where none before it did. Takes the tokens of the generation, the
    /// newest first, and looks at no more of them than it needs. Tokens that cannot be decoded end nothing.
    #[must_use]
    pub fn ends(&self, newest_first: impl IntoIterator<Item = u32>) -> bool {
        let mut tokens = newest_first.into_iter();
        let Some(newest) = tokens.next() else { return false };
        if self.stops.is_empty() || self.is_silent(newest) {
            return false;
        }
        let mut tokens = tokens.filter(|token| !self.is_silent(*token));
        let mut read = vec![newest];
        let mut wanted = self.longest + HALF_CHARACTER;
        loop {
            while wanted > 0 {
                let Some(token) = tokens.next() else { return self.look_at_all(&read) };
                wanted = wanted.saturating_sub(self.weight(token));
                read.push(token);
            }
            let trusted = read.len() - 1;
            let mut more = self.warm_up;
            while more > 0 {
                let Some(token) = tokens.next() else { return self.look_at_all(&read) };
                more -= self.weight(token).min(1);
                read.push(token);
            }
            let part = Detokenizer::midway(self.tokenizer.clone(), self.skip_special);
            let (ends, bytes) = self.look(part, &read, trusted);
            if bytes + 1 >= self.longest {
                return ends;
            }
            // The names of the tokens are longer than their text: twice as many.
            wanted = read.iter().map(|token| self.weight(*token)).sum();
        }
    }

    /// About as many bytes as the token has; none only if the text does not go on with it.
    fn weight(&self, token: u32) -> usize {
        let bytes = self.tokenizer.token_bytes(token).map_or(0, <[u8]>::len);
        if self.tokenizer.table().has_fixed_texts() { bytes } else { bytes.max(1) }
    }

    /// Whether a decoder passes over the token.
    fn is_silent(&self, token: u32) -> bool {
        let table = self.tokenizer.table();
        (self.skip_special && table.is_special(token))
            || (table.has_fixed_texts() && table.bytes(token).is_none())
    }

    fn look_at_all(&self, newest_first: &[u32]) -> bool {
        let decoder = Detokenizer::new(self.tokenizer.clone(), self.skip_special, &self.context);
        self.look(decoder, newest_first, newest_first.len()).0
    }

    /// Whether the text of these tokens, the newest first, ends with the newest, as far as the `trusted` tokens before it
    /// tell; and how many bytes those have.
    fn look(
        &self,
        mut decoder: Detokenizer,
        newest_first: &[u32],
        trusted: usize,
    ) -> (bool, usize) {
        let mut text = Vec::new();
        let mut start = 0;
        for (behind, token) in newest_first.iter().enumerate().rev() {
            start = text.len();
            let Ok(piece) = decoder.push(*token) else { return (false, usize::MAX - 1) };
            if behind <= trusted {
                text.extend_from_slice(piece.as_bytes());
            }
        }
        let ends_at = |end: usize| self.stops.iter().any(|stop| text[..end].ends_with(stop));
        ((start + 1..=text.len()).any(ends_at), start)
    }
}
