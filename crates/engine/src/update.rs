//! What one request hears from the engine: core's events without the group, and the ways an engine can end a request.

use std::time::Instant;

use folio_core::event::{EventKind, Failure, FinishReason};
use folio_core::exec::{Drawn, Score};
use folio_core::schedule::Reject;

/// Something that happened to a request. The last one is `Ended` or `Failed`, and there is always a last one.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The request left the queue for the first time.
    Admitted {
        /// Prompt tokens that came from the prefix cache.
        cached_tokens: u32,
    },
    /// Scores of prompt tokens, in order; the first prompt token has none. May come in several parts.
    PromptScored(Vec<Score>),
    /// A choice got a token.
    Sampled {
        /// Which of the `n` choices.
        choice: u32,
        /// The token.
        drawn: Drawn,
        /// Set on the choice's last token.
        finish: Option<FinishReason>,
        /// When the step that made the token was committed.
        at: Instant,
    },
    /// All sequences of a request that ranks its choices have ended; the choices' tokens follow.
    Ranked {
        /// Score of each choice, best first.
        scores: Vec<f64>,
    },
    /// All choices have finished.
    Ended {
        /// How often the request was preempted.
        preemptions: u32,
        /// How many of the preemptions swapped its blocks out.
        swaps: u32,
    },
    /// The request is gone.
    Failed(Cause),
}

/// Why a request ended without finishing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Cause {
    /// The model's logits were not finite.
    #[error(
        "the model produced logits that are not finite; other requests are not affected. Check the \
         model's weights, or serve it with a wider --dtype"
    )]
    NotFinite,
    /// No token was left to choose.
    #[error(
        "what the request allows left no token to choose; its grammar may contradict its other \
         parameters"
    )]
    NothingAllowed,
    /// What restricts the request's tokens could not say which may come next.
    #[error("the request's output could not be kept to its grammar: {0}")]
    Constraint(String),
    /// The step that contained the request failed.
    #[error("the step that computed this request failed; the server's log says why. Try again")]
    Step,
    /// The engine was told to end everything.
    #[error("the server is shutting down")]
    Shutdown,
    /// The engine ended by an error of its own.
    #[error("the engine has ended by an error; the server's log says which")]
    Died,
    /// The scheduler refused the request after the handle had let it through.
    #[error(transparent)]
    Rejected(Reject),
}

impl Update {
    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Failed(_))
    }

    pub(crate) fn from_event(kind: EventKind, at: Instant) -> Self {
        match kind {
            EventKind::Admitted { cached_tokens } => Self::Admitted { cached_tokens },
            EventKind::PromptScored(scores) => Self::PromptScored(scores),
            EventKind::Sampled { choice, drawn, finish } => {
                Self::Sampled { choice, drawn, finish, at }
            }
            EventKind::Ranked { scores } => Self::Ranked { scores },
            EventKind::Ended { preemptions, swaps } => Self::Ended { preemptions, swaps },
            EventKind::Failed(Failure::NotFinite) => Self::Failed(Cause::NotFinite),
            EventKind::Failed(Failure::NothingAllowed) => Self::Failed(Cause::NothingAllowed),
            EventKind::Failed(Failure::Step) => Self::Failed(Cause::Step),
        }
    }
}
