//! A step of a beam search as a pure function: which beams go on, with which token, and what has finished.
//!
//! The semantics are those of Hugging Face's `generate(num_beams=…)`. A step looks at the best continuations of all live beams
//! together, `keep` of them, best first:
//!
//! - those that end (an end token, a stop rule, the length) leave the beam; only the first `width` of them all may become
//!   *hypotheses*, with the score `sum of log-probabilities / generated length ^ length_penalty`, and only the `width` best
//!   hypotheses are kept;
//! - the first `width` that do not end are the next beams. `keep` is large enough that there are so many, whatever ends.
//!
//! Equal scores: the earlier beam, then the lower token. Nothing depends on how beams share blocks.

use crate::event::FinishReason;
use crate::ids::Token;
use crate::params::{Beams, EarlyStopping};
use crate::rank::{Hypothesis, Trail};

/// A live beam, as a step sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live<'a> {
    /// Sum of its log-probabilities.
    pub(crate) sum: f64,
    /// Its likeliest next tokens with their log-probabilities, best first; at least `keep`, or all there are.
    pub(crate) candidates: &'a [(Token, f32)],
}

/// One way to go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Continuation {
    /// Index of the live beam.
    pub(crate) parent: usize,
    /// The token it would get.
    pub(crate) token: Token,
    /// The token's log-probability.
    pub(crate) logprob: f32,
    /// Sum of the log-probabilities with it.
    pub(crate) sum: f64,
}

/// What a step makes of the live beams.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choice {
    /// The next beams, best first.
    pub(crate) go_on: Vec<Continuation>,
    /// What has finished and is good enough to be looked at, best first.
    pub(crate) finished: Vec<(Continuation, FinishReason)>,
}

/// Chooses among the `keep` best continuations; `ends` tells which of them end.
pub(crate) fn choose(
    live: &[Live<'_>],
    width: usize,
    keep: usize,
    mut ends: impl FnMut(&Continuation) -> Option<FinishReason>,
) -> Choice {
    let mut all: Vec<Continuation> = Vec::new();
    for (parent, beam) in live.iter().enumerate() {
        all.extend(beam.candidates.iter().take(keep).map(|&(token, logprob)| Continuation {
            parent,
            token,
            logprob,
            sum: beam.sum + f64::from(logprob),
        }));
    }
    let order = |a: &Continuation, b: &Continuation| {
        b.sum.total_cmp(&a.sum).then(a.parent.cmp(&b.parent)).then(a.token.cmp(&b.token))
    };
    // There may be as many times more than are looked at as there are beams.
    if keep < all.len() {
        all.select_nth_unstable_by(keep, order);
        all.truncate(keep);
    }
    all.sort_unstable_by(order);
    let mut choice = Choice::default();
    for (rank, continuation) in all.into_iter().enumerate() {
        match ends(&continuation) {
            Some(finish) if rank < width => choice.finished.push((continuation, finish)),
            Some(_) => {}
            None if choice.go_on.len() < width => choice.go_on.push(continuation),
            None => {}
        }
    }
    choice
}

/// The hypotheses of a search, and when it has found enough.
#[derive(Debug)]
pub(crate) struct Search {
    beams: Beams,
    /// Most tokens that may be generated.
    most_tokens: u32,
    /// Finished ones, best first; at most as many as beams.
    pub(crate) hypotheses: Vec<Hypothesis>,
}

impl Search {
    pub(crate) fn new(beams: Beams, most_tokens: u32) -> Self {
        Self { beams, most_tokens, hypotheses: Vec::new() }
    }

    pub(crate) fn width(&self) -> usize {
        self.beams.width as usize
    }

    fn is_full(&self) -> bool {
        self.hypotheses.len() >= self.width()
    }

    /// The score of a hypothesis of `tokens` generated tokens.
    pub(crate) fn score(&self, sum: f64, tokens: u32) -> f64 {
        sum / f64::from(tokens.max(1)).powf(f64::from(self.beams.length_penalty))
    }

    /// Takes a finished hypothesis of `tokens` tokens in, if it is among the best.
    pub(crate) fn add(&mut self, trail: Trail, finish: FinishReason, tokens: u32) {
        let score = self.score(trail.sum(), tokens);
        self.hypotheses.push(Hypothesis::new(trail, finish, score));
        self.hypotheses.sort_by(Hypothesis::order);
        self.hypotheses.truncate(self.width());
    }

    /// Whether the search is over, when the best live beam has `tokens` generated tokens and the sum `best`; `None`: no
    /// beam is alive.
    pub(crate) fn is_over(&self, best: Option<f64>, tokens: u32) -> bool {
        let Some(best) = best else { return true };
        let worst = match self.hypotheses.last() {
            Some(worst) if self.is_full() => worst.score,
            _ => return false,
        };
        let length = match self.beams.early_stopping {
            EarlyStopping::AtOnce => return true,
            EarlyStopping::Never if self.beams.length_penalty > 0.0 => self.most_tokens,
            EarlyStopping::Never | EarlyStopping::Heuristic => tokens,
        };
        self.score(best, length) <= worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: FinishReason = FinishReason::Stop(None);

    fn live<'a>(sum: f64, candidates: &'a [(Token, f32)]) -> Live<'a> {
        Live { sum, candidates }
    }

    fn ids(list: &[Continuation]) -> Vec<(usize, u32)> {
        list.iter().map(|c| (c.parent, c.token.0)).collect()
    }

    fn search(width: u32, length_penalty: f32, early_stopping: EarlyStopping) -> Search {
        Search::new(Beams { width, length_penalty, early_stopping }, 10)
    }

    fn finish(search: &mut Search, sum: f32, tokens: u32) {
        let mut trail = Trail::default();
        trail.push(Token(0), sum, None);
        search.add(trail, STOP, tokens);
    }

    #[test]
    fn the_best_of_all_beams_go_on_and_ties_go_to_the_earlier_beam_and_the_lower_token() {
        let one = [(Token(5), -1.0), (Token(2), -2.0), (Token(9), -2.0)];
        let two = [(Token(7), -0.5), (Token(1), -1.5)];
        let beams = [live(-1.0, &one), live(-1.5, &two)];
        let choice = choose(&beams, 3, 6, |_| None);
        assert_eq!(ids(&choice.go_on), [(0, 5), (1, 7), (0, 2)]);
        assert_eq!(choice.finished, []);
        assert_eq!(choice.go_on[2].sum, -3.0);
    }

    #[test]
    fn only_the_first_of_those_that_end_are_looked_at_and_others_take_their_places() {
        let one = [(Token(0), -0.1), (Token(3), -0.2), (Token(4), -0.3), (Token(5), -0.4)];
        let two = [(Token(6), -0.25), (Token(0), -0.35)];
        let beams = [live(0.0, &one), live(0.0, &two)];
        let ends = |c: &Continuation| (c.token == Token(0)).then_some(STOP);
        let choice = choose(&beams, 2, 4, ends);
        // In order: 0 of the first beam (ends), 3, 6, 4; the second 0 is not among the four.
        assert_eq!(ids(&choice.go_on), [(0, 3), (1, 6)]);
        assert_eq!(choice.finished.iter().map(|(c, _)| c.parent).collect::<Vec<_>>(), [0]);
        // With room for all, the second 0 ends, too, but behind the first two: it is dropped.
        let choice = choose(&beams, 2, 6, ends);
        assert_eq!(choice.finished.len(), 1);
    }

    #[test]
    fn the_length_penalty_divides_and_the_worst_hypothesis_gives_way() {
        let mut search = search(2, 2.0, EarlyStopping::Heuristic);
        finish(&mut search, -8.0, 2); // -2
        finish(&mut search, -9.0, 3); // -1
        finish(&mut search, -3.0, 2); // -0.75
        let scores: Vec<_> = search.hypotheses.iter().map(|h| h.score).collect();
        assert_eq!(scores, [-0.75, -1.0]);
    }

    #[test]
    fn a_search_ends_by_its_early_stopping() {
        use EarlyStopping::{AtOnce, Heuristic, Never};
        for (early_stopping, sum, over) in [
            (Heuristic, -3.9, false), // -3.9 / 4 beats -1
            (Heuristic, -4.0, true),
            (AtOnce, -0.1, true),
            (Never, -9.9, false), // -9.9 / 10 beats -1
            (Never, -10.0, true),
        ] {
            let mut search = search(2, 1.0, early_stopping);
            finish(&mut search, -1.0, 1);
            assert!(!search.is_over(Some(sum), 4), "one hypothesis of two: {early_stopping:?}");
            finish(&mut search, -0.5, 1);
            assert_eq!(search.is_over(Some(sum), 4), over, "{early_stopping:?} {sum}");
            assert!(search.is_over(None, 4));
        }
        // Where longer is not better, the present length is the best one.
        let mut search = search(1, 0.0, Never);
        finish(&mut search, -1.0, 1);
        assert!(search.is_over(Some(-1.0), 4) && !search.is_over(Some(-0.9), 4));
    }
}
