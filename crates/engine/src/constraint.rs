//! What restricts the tokens of one sequence. The engine knows no grammars: whoever sends a request brings the object.

use std::fmt;

use folio_core::ids::Token;

/// Says which tokens may come next. Follows one sequence, token by token; what it says depends on those tokens alone.
///
/// All but [`fork`](Self::fork) is called on threads of the engine's own, one call at a time for each object. An error or a
/// panic ends the request it belongs to and no other.
pub trait Constraint: Send {
    /// Takes in a token that the sequence got.
    ///
    /// # Errors
    /// A sentence for the client on why the sequence cannot go on.
    fn advance(&mut self, token: Token) -> Result<(), String>;

    /// Fills `mask`, which arrives empty: bit `t % 32` of word `t / 32` allows token `t`. A mask that stays empty allows
    /// every token.
    ///
    /// # Errors
    /// A sentence for the client on why there is none.
    fn mask(&mut self, mask: &mut Vec<u32>) -> Result<(), String>;

    /// The same for another sequence that begins alike.
    fn fork(&self) -> Box<dyn Constraint>;

    /// Something that makes a call on another thread fail soon.
    fn canceller(&self) -> Canceller;
}

/// Ends work on a [`Constraint`] that takes too long.
pub struct Canceller(Box<dyn Fn() + Send>);

impl Canceller {
    /// `cancel` is called at most once, from another thread than the work.
    #[must_use]
    pub fn new(cancel: impl Fn() + Send + 'static) -> Self {
        Self(Box::new(cancel))
    }

    pub(crate) fn cancel(self) {
        (self.0)();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

impl fmt::Debug for dyn Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}
