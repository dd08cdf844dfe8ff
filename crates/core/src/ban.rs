//! Tokens that must not be drawn: which of them a request never wants, which not yet, and which not after others.
//!
//! **Invariant:** whatever has been generated, at least one token may follow. It is checked once, when the request comes
//! in, by taking everything that could ever be banned to be banned at the same time.

use std::sync::Arc;

use crate::ids::Token;
use crate::params::{BadParam, ParamLimits, Requested};

/// Most words of `bad_words`; the bounds are vLLM's. A word may have two spellings.
const MOST_WORDS: usize = 2 * 128;
/// Most tokens of all of them together.
const MOST_WORD_TOKENS: usize = 1024;

/// What a request bans. The default bans nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bans {
    /// Nothing that ends a sequence is drawn before so many tokens have been.
    pub min_tokens: u32,
    /// Token strings whose last token is not drawn when the others stand before it. None is empty.
    bad_words: Arc<[Vec<Token>]>,
}

impl Bans {
    /// Checks what was asked for. `ends` are the tokens that end a sequence, `allowed` those that may be drawn at all.
    ///
    /// # Errors
    /// Names the field that asks for too much.
    pub(crate) fn parse(
        asked: &Requested,
        limits: &ParamLimits,
        ends: &[Token],
        allowed: Option<&[Token]>,
    ) -> Result<Self, BadParam> {
        let min_tokens = least(asked)?;
        let bad_words = words(asked, limits)?;
        let mut banned: Vec<Token> = bad_words.iter().filter_map(|w| w.last().copied()).collect();
        if min_tokens > 0 {
            banned.extend_from_slice(ends);
        }
        banned.sort_unstable();
        banned.dedup();
        let left = |token: &Token| banned.binary_search(token).is_err();
        let some_left = match allowed {
            Some(allowed) => allowed.iter().any(left),
            None => banned.len() < limits.vocab as usize,
        };
        if some_left {
            return Ok(Self { min_tokens, bad_words: bad_words.into() });
        }
        let field = if allowed.is_some() { "allowed_token_ids" } else { "bad_words" };
        let problem = "leaves no token that may be drawn, together with bad_words and with min_tokens, which \
                       forbids the tokens that end a text";
        Err(BadParam { field, problem: problem.to_owned() })
    }

    /// Appends the tokens that must not follow `generated` to `banned`.
    pub(crate) fn after(&self, generated: &[Token], ends: &[&[Token]], banned: &mut Vec<Token>) {
        if generated.len() < self.min_tokens as usize {
            banned.extend(ends.iter().copied().flatten());
        }
        for word in self.bad_words.iter() {
            if let Some((last, before)) = word.split_last()
                && generated.ends_with(before)
            {
                banned.push(*last);
            }
        }
    }
}

fn least(asked: &Requested) -> Result<u32, BadParam> {
    let given = asked.min_tokens.unwrap_or(0);
    let most = asked.max_tokens.unwrap_or(i64::from(u32::MAX)).max(0);
    match u32::try_from(given) {
        Ok(least) if given <= most => Ok(least),
        Ok(_) => Err(BadParam {
            field: "min_tokens",
            problem: format!("must be at most max_tokens, which is {most}, not {given}"),
        }),
        Err(_) => Err(BadParam {
            field: "min_tokens",
            problem: format!("must be from 0 to {}, not {given}", u32::MAX),
        }),
    }
}

fn words(asked: &Requested, limits: &ParamLimits) -> Result<Vec<Vec<Token>>, BadParam> {
    let bad = |problem: String| Err(BadParam { field: "bad_words", problem });
    let words = &asked.bad_words;
    let tokens: usize = words.iter().map(Vec::len).sum();
    if words.len() > MOST_WORDS || tokens > MOST_WORD_TOKENS {
        return bad(format!(
            "may have at most {} words of {MOST_WORD_TOKENS} tokens together, not {tokens} tokens",
            MOST_WORDS / 2
        ));
    }
    if words.iter().any(Vec::is_empty) {
        return bad("has a word without tokens; leave it out".to_owned());
    }
    if words.iter().flatten().any(|token| token.0 >= limits.vocab) {
        return bad("has a token that the model does not know".to_owned());
    }
    Ok(words.clone())
}

/// The tokens of `allowed_token_ids`, each once, in order; `None` where all are allowed.
///
/// # Errors
/// When a token does not exist, or none is left.
pub(crate) fn allowed(
    asked: &Requested,
    limits: &ParamLimits,
) -> Result<Option<Arc<[Token]>>, BadParam> {
    let Some(ids) = &asked.allowed_token_ids else { return Ok(None) };
    let bad = |problem: String| Err(BadParam { field: "allowed_token_ids", problem });
    if ids.is_empty() {
        return bad(
            "is empty: nothing could be drawn; leave it out to allow every token".to_owned()
        );
    }
    if let Some(id) = ids.iter().find(|id| **id >= limits.vocab) {
        let last = limits.vocab.saturating_sub(1);
        return bad(format!("token id {id} does not exist; ids go from 0 to {last}"));
    }
    let mut tokens: Vec<Token> = ids.iter().map(|&id| Token(id)).collect();
    tokens.sort_unstable();
    tokens.dedup();
    Ok(Some(tokens.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Params;

    fn parse(asked: &Requested) -> Result<Params, BadParam> {
        let limits = ParamLimits::plain(8, vec![Token(7)]);
        Params::parse(asked, &limits, 0)
    }

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn a_ban_holds_only_where_it_was_asked_for() {
        let asked = Requested {
            min_tokens: Some(2),
            bad_words: vec![tokens(&[1]), tokens(&[2, 3])],
            ..Requested::default()
        };
        let bans = parse(&asked).unwrap().bans;
        let after = |generated: &[u32]| {
            let mut banned = Vec::new();
            bans.after(&tokens(generated), &[&tokens(&[7])], &mut banned);
            banned
        };
        assert_eq!(after(&[]), tokens(&[7, 1]));
        assert_eq!(after(&[2]), tokens(&[7, 1, 3]));
        assert_eq!(after(&[2, 2]), tokens(&[1, 3]));
        assert_eq!(after(&[3, 3, 0]), tokens(&[1]));
    }

    /// Whatever is accepted leaves a token at every step: tried with everything that can be generated.
    #[test]
    fn what_leaves_nothing_to_draw_is_refused_by_name() {
        let field = |asked: Requested| parse(&asked).unwrap_err().field;
        let words = |list: &[&[u32]]| list.iter().map(|word| tokens(word)).collect();
        let all: Vec<Vec<Token>> = (0..8).map(|id| tokens(&[id])).collect();
        assert_eq!(field(Requested { bad_words: all, ..Requested::default() }), "bad_words");
        let only = |allowed: &[u32], bad_words, min_tokens| Requested {
            allowed_token_ids: Some(allowed.to_vec()),
            bad_words,
            min_tokens,
            ..Requested::default()
        };
        assert_eq!(field(only(&[7], Vec::new(), Some(1))), "allowed_token_ids");
        assert_eq!(field(only(&[], Vec::new(), None)), "allowed_token_ids");
        assert_eq!(field(only(&[8], Vec::new(), None)), "allowed_token_ids");
        assert_eq!(field(only(&[3], words(&[&[3, 3]]), None)), "allowed_token_ids");
        assert!(parse(&only(&[7, 3], words(&[&[3, 3]]), None)).is_ok());
        let asked = Requested { bad_words: words(&[&[]]), ..Requested::default() };
        assert_eq!(field(asked), "bad_words");
        for (min_tokens, max_tokens) in [(-1, None), (i64::MAX, None), (5, Some(4))] {
            let min_tokens = Some(min_tokens);
            let asked = Requested { min_tokens, max_tokens, ..Requested::default() };
            assert_eq!(field(asked), "min_tokens");
        }
    }
}
