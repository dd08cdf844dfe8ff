//! What the scheduler tells the world after a step, request by request.

use crate::exec::{Drawn, Score};
use crate::ids::{GroupId, Token};

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end-of-sequence token, or (`Some`) one of the caller's stop tokens.
    Stop(Option<Token>),
    /// `max_tokens`, the context or the memory's capacity was reached.
    Length,
}

/// Why a whole group ended without finishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The model's logits were not finite.
    NotFinite,
    /// What the request allows left no token to choose.
    NothingAllowed,
    /// The step that contained the group failed.
    Step,
}

/// Something that happened to a group. A group's events end with `Ended` or `Failed`; an aborted group gets no more.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The group left the queue for the first time; this many prompt tokens came from the prefix cache.
    Admitted {
        /// Prompt tokens that need no computation.
        cached_tokens: u32,
    },
    /// Scores of prompt tokens, in order; the first prompt token has none. May come in several parts.
    PromptScored(Vec<Score>),
    /// All sequences of a request that ranks its choices have ended. The tokens of the `n` best follow, choice by choice.
    Ranked {
        /// Score of each choice, best first: the mean log-probability of its tokens, or what the beam search made of it.
        scores: Vec<f64>,
    },
    /// A choice got a token, its last one if `finish` is set.
    Sampled {
        /// Which of the `n` choices.
        choice: u32,
        /// The token.
        drawn: Drawn,
        /// Set on the sequence's last token.
        finish: Option<FinishReason>,
    },
    /// All sequences have finished.
    Ended {
        /// How often the group was preempted.
        preemptions: u32,
        /// How many of the preemptions swapped its blocks out.
        swaps: u32,
    },
    /// The group is gone.
    Failed(Failure),
}

/// An event and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The group.
    pub group: GroupId,
    /// What happened.
    pub kind: EventKind,
}
