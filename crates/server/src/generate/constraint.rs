//! A grammar as the engine wants it: [`folio_text`]'s matcher behind [`folio_engine`]'s trait.

use folio_core::ids::Token;
use folio_engine::{Canceller, Constraint};
use folio_text::Matcher;

use crate::error::ApiError;
use crate::request::structured::Wanted;
use crate::state::Served;

/// Follows a grammar, from the start or from the end of the thinking on.
#[derive(Debug)]
pub(crate) struct Follow {
    matcher: Matcher,
    /// The field that asked for it.
    field: &'static str,
    /// The token that ends the thinking; until it comes, everything is allowed.
    after: Option<u32>,
}

impl Follow {
    /// Compiles what is wanted, behind the token `after` if there is one. Takes a while: for text threads.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(crate) fn new(
        served: &Served,
        wanted: &Wanted,
        after: Option<u32>,
    ) -> Result<Self, ApiError> {
        let matcher = served.grammars.matcher(&wanted.grammar);
        let matcher = matcher.map_err(|error| ApiError::field(wanted.field, error.to_string()))?;
        Ok(Self { matcher, field: wanted.field, after })
    }

    /// The same for another prompt or choice.
    pub(crate) fn again(&self) -> Self {
        Self { matcher: self.matcher.fork(), field: self.field, after: self.after }
    }

    /// The field that asked for it.
    pub(crate) fn field(&self) -> &'static str {
        self.field
    }
}

impl Constraint for Follow {
    fn advance(&mut self, token: Token) -> Result<(), String> {
        match self.after {
            Some(end) => {
                if token.0 == end {
                    self.after = None;
                }
                Ok(())
            }
            None => self.matcher.advance(token.0).map_err(|error| error.to_string()),
        }
    }

    fn mask(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        match self.after {
            Some(_) => Ok(()),
            None => self.matcher.mask(mask).map_err(|error| error.to_string()),
        }
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.again())
    }

    fn canceller(&self) -> Canceller {
        Canceller::new(self.matcher.canceller())
    }
}
