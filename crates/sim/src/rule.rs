//! Which token comes next when there is no model: a hash of everything that may decide it.
//!
//! [`TokenRule::continuation`] says what a request must produce, computed from its tokens alone. The executor computes
//! the same from a paged cache. Where the two differ, memory or schedule went wrong: this is the oracle.

use folio_core::ids::Token;
use folio_core::params::{Params, Sampling};
use folio_core::plan::allows;

use crate::random::scramble;

/// The hash of a context, one mark per position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context(u64);

impl Context {
    pub(crate) fn new() -> Self {
        Self(0x666f_6c69_6f21)
    }

    /// What the cache holds for `token` at the next position of this context.
    pub(crate) fn mark(self, token: Token) -> u64 {
        mix(self.0, u64::from(token.0))
    }

    /// Extends the context by a position whose mark is `mark`.
    pub(crate) fn push(&mut self, mark: u64) {
        self.0 = mix(self.0, !mark);
    }

    /// A number that follows from the context and `salt`.
    pub(crate) fn hash(self, salt: u64) -> u64 {
        mix(self.0, salt)
    }
}

/// Every bit of both inputs counts.
fn mix(a: u64, b: u64) -> u64 {
    scramble(a.rotate_left(23).wrapping_add(b))
}

/// Makes sequences end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// The token that is drawn; give it as the requests' end-of-sequence token.
    pub token: Token,
    /// It is drawn once in this many draws on average; 1 is always.
    pub one_in: u32,
}

/// The stand-in for a model's distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRule {
    /// Tokens are drawn from `0..vocab`; at least 1.
    pub vocab: u32,
    /// Whether sequences end by themselves.
    pub stopping: Option<Stopping>,
}

impl TokenRule {
    /// Tokens `0..vocab`; sequences never end by themselves, unless by chance.
    #[must_use]
    pub fn new(vocab: u32) -> Self {
        Self { vocab: vocab.max(1), stopping: None }
    }

    /// The token after `context`. Greedy sampling ignores the seed and the choice, as it should.
    pub(crate) fn next(
        &self,
        context: Context,
        sampling: &Sampling,
        choice: u32,
        position: u32,
        history: &[Token],
    ) -> Token {
        let mut z = context.hash(u64::from(position));
        if sampling.temperature > 0.0 {
            z = mix(mix(z, sampling.seed), u64::from(choice));
        }
        for token in history {
            z = mix(z, u64::from(token.0));
        }
        if let Some(stopping) = self.stopping
            && mix(z, 1).is_multiple_of(u64::from(stopping.one_in.max(1)))
        {
            return stopping.token;
        }
        self.fold(z)
    }

    /// The first token from `token` on that may be drawn, if any may.
    pub(crate) fn nearest(
        &self,
        token: Token,
        sampling: &Sampling,
        banned: &[Token],
        mask: &[u32],
    ) -> Option<Token> {
        let may = |token: &Token| {
            let allowed = sampling.allowed.as_ref();
            let fits = allows(mask, *token) && !banned.contains(token);
            fits && allowed.is_none_or(|list| list.binary_search(token).is_ok())
        };
        let mut round = (0..self.vocab).map(|step| self.fold(u64::from(token.0) + u64::from(step)));
        round.find(may)
    }

    /// A token that follows from `z`.
    pub(crate) fn fold(&self, z: u64) -> Token {
        Token(u32::try_from(z % u64::from(self.vocab)).unwrap_or(0))
    }

    /// What choice number `choice` of a request must produce, the token that ends it included, when at most
    /// `max_tokens` are generated.
    #[must_use]
    pub fn continuation(
        &self,
        prompt: &[Token],
        params: &Params,
        choice: u32,
        max_tokens: u32,
    ) -> Vec<Token> {
        let mut context = Context::new();
        for &token in prompt {
            context.push(context.mark(token));
        }
        let mut tokens = prompt.to_vec();
        for _ in 0..max_tokens {
            let position = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
            let history = if params.sampling.needs_history() {
                tokens.as_slice()
            } else {
                Default::default()
            };
            let token = self.next(context, &params.sampling, choice, position, history);
            context.push(context.mark(token));
            tokens.push(token);
            if params.eos.contains(&token) || params.stop_tokens.contains(&token) {
                break;
            }
        }
        tokens.split_off(prompt.len())
    }
}
