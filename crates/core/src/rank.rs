//! What a request that ranks its choices keeps until it can tell them: what each sequence drew, and how good it was.

use std::cmp::Ordering;

use crate::event::FinishReason;
use crate::exec::{Drawn, Score};
use crate::ids::Token;

/// What a sequence has drawn so far. Empty where choices are told as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail {
    /// Each token, with as much of its score as the caller asked for.
    drawn: Vec<Drawn>,
    /// Sum of the tokens' log-probabilities.
    sum: f64,
}

impl Trail {
    /// Adds a token with its log-probability; of `score`, what is reported.
    pub(crate) fn push(&mut self, token: Token, logprob: f32, score: Option<Score>) {
        self.drawn.push(Drawn { token, score });
        self.sum += f64::from(logprob);
    }

    /// Log-probability of everything drawn.
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    /// Mean log-probability of the tokens.
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 tokens")]
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.drawn.len().max(1) as f64
    }
}

/// Of a token's score, what the caller asked for: `Some(k)` is its log-probability and the `k` best.
pub(crate) fn reported(logprob: f32, top: &[(Token, f32)], logprobs: Option<u32>) -> Option<Score> {
    logprobs.map(|k| Score { logprob, top: top.iter().take(k as usize).copied().collect() })
}

/// A sequence that has ended and waits to be ranked.
#[derive(Clone, Debug)]
pub(crate) struct Hypothesis {
    pub(crate) drawn: Vec<Drawn>,
    pub(crate) finish: FinishReason,
    pub(crate) score: f64,
}

impl Hypothesis {
    pub(crate) fn new(trail: Trail, finish: FinishReason, score: f64) -> Self {
        Self { drawn: trail.drawn, finish, score }
    }

    /// Best first. Sorting by it must be stable: of equals the one that was there first is better.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sample_is_not_worse_for_being_long() {
        let of = |logprobs: &[f32]| {
            let mut trail = Trail::default();
            logprobs.iter().for_each(|&logprob| trail.push(Token(0), logprob, None));
            let mean = trail.mean();
            Hypothesis::new(trail, FinishReason::Length, mean)
        };
        let (long, short) = (of(&[-0.5, -0.25, -0.75]), of(&[-1.0]));
        assert_eq!((long.score, short.score), (-0.5, -1.0));
        assert_eq!(long.order(&short), Ordering::Less);
    }

    #[test]
    fn a_score_is_reported_as_far_as_it_was_asked_for() {
        let top = [(Token(1), -0.5), (Token(2), -1.5)];
        assert_eq!(reported(-0.5, &top, None), None);
        assert_eq!(reported(-0.5, &top, Some(0)).map(|score| score.top), Some(Vec::new()));
        assert_eq!(reported(-0.5, &top, Some(1)).map(|score| score.top.len()), Some(1));
    }
}
