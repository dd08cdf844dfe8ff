//! A grammar as the engine wants it: [`folio_text`]'s matcher behind [`folio_engine`]'s trait.

use folio_core::ids::Token;
use folio_engine::{Canceller, Constraint};
use folio_text::Matcher;

use super::reading::Thinking;
use crate::error::ApiError;
use crate::request::structured::Wanted;
use crate::state::Served;

/// Keeps the thinking to a number of tokens, and what comes after it to a grammar.
#[derive(Debug)]
pub(crate) struct Follow {
    /// Without one, everything is allowed after the thinking.
    matcher: Option<Matcher>,
    /// The field that asked for it.
    field: Option<&'static str>,
    thinking: Thinking,
    /// How many more tokens may be thought; without a number, as many as the model likes.
    thoughts_left: Option<u32>,
    /// How many words a mask has.
    words: usize,
}

/// What an answer has to follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) wanted: Option<&'a Wanted>,
    pub(crate) thinking: Thinking,
    /// The most tokens of thoughts.
    pub(crate) thoughts: Option<u32>,
}

impl Follow {
    /// Compiles the rules; `None` where there are none. Takes a while: for text threads.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(crate) fn new(served: &Served, rules: Rules<'_>) -> Result<Option<Self>, ApiError> {
        let Rules { wanted, thinking, thoughts } = rules;
        let compiled = wanted.map(|wanted| {
            let matcher = served.grammars.matcher(&wanted.grammar);
            matcher.map_err(|error| ApiError::field(wanted.field, error.to_string()))
        });
        let matcher = compiled.transpose()?;
        let thoughts_left = thoughts.filter(|_| thinking != Thinking::No);
        if matcher.is_none() && thoughts_left.is_none() {
            return Ok(None);
        }
        let words = usize::try_from(served.param_limits.vocab.div_ceil(u32::BITS)).unwrap_or(0);
        let field = wanted.map(|wanted| wanted.field);
        Ok(Some(Self { matcher, field, thinking, thoughts_left, words }))
    }

    /// The same for another prompt or choice.
    pub(crate) fn again(&self) -> Self {
        let matcher = self.matcher.as_ref().map(Matcher::fork);
        Self { matcher, ..*self }
    }

    /// The field that asked for the grammar.
    pub(crate) fn field(&self) -> Option<&'static str> {
        self.field
    }
}

/// Sets the bit of one more token.
fn allow(mask: &mut [u32], token: u32) {
    let word = usize::try_from(token / u32::BITS).ok().and_then(|word| mask.get_mut(word));
    if let Some(word) = word {
        *word |= 1 << (token % u32::BITS);
    }
}

impl Constraint for Follow {
    fn advance(&mut self, token: Token) -> Result<(), String> {
        let before = self.thinking;
        self.thinking = before.after(token);
        if matches!(before, Thinking::Begun { .. }) || self.thinking != Thinking::No {
            self.thoughts_left = self.thoughts_left.map(|left| left.saturating_sub(1));
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else { return Ok(()) };
        matcher.advance(token.0).map_err(|error| error.to_string())
    }

    fn mask(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        if let Thinking::Begun { ends } = self.thinking {
            if self.thoughts_left == Some(0) {
                mask.resize(self.words, 0);
                allow(mask, ends);
            }
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else { return Ok(()) };
        matcher.mask(mask).map_err(|error| error.to_string())?;
        if let Thinking::May { begins, .. } = self.thinking {
            allow(mask, begins);
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.again())
    }

    fn canceller(&self) -> Canceller {
        let cancel = self.matcher.as_ref().map(Matcher::canceller);
        Canceller::new(move || {
            if let Some(cancel) = &cancel {
                cancel();
            }
        })
    }
}
