//! What a run leaves behind: one record per request and one per step, in virtual time.

use std::time::Duration;

use folio_core::event::Failure;
use folio_core::exec::ExecError;
use folio_core::ids::{Tick, Token};
use folio_core::schedule::Reject;

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All its choices finished.
    Finished {
        /// How often it was preempted.
        preemptions: u32,
    },
    /// It was refused when it arrived.
    Rejected(Reject),
    /// The trace took it back.
    Aborted,
    /// It failed.
    Failed(Failure),
}

/// One request's life.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRecord {
    /// When it arrived.
    pub arrival: Tick,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// When the step ended that first computed a part of it.
    pub admitted: Option<Tick>,
    /// Prompt tokens that came from the prefix cache at that time.
    pub cached_tokens: u32,
    /// When its first token was there.
    pub first_token: Option<Tick>,
    /// When each token of the first choice was there.
    pub times: Vec<Tick>,
    /// The tokens of each choice.
    pub choices: Vec<Vec<Token>>,
    /// Prompt tokens that were scored.
    pub scores: usize,
    /// When it ended.
    pub ended: Tick,
    /// How it ended.
    pub outcome: Outcome,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// When it began.
    pub began: Tick,
    /// How long it took, by the cost model.
    pub took: Duration,
    /// Requests of which it computed something, or that waited in it for others to do so.
    pub groups: u32,
    /// Rows of its plan.
    pub rows: usize,
    /// Tokens it computed.
    pub tokens: usize,
    /// Why it failed, if it did.
    pub error: Option<ExecError>,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// One per arrival, in the order of the trace.
    pub requests: Vec<RequestRecord>,
    /// One per step.
    pub steps: Vec<StepRecord>,
}

impl Report {
    /// Lets every request end with the last of those that were admitted with it, and not before: the answers of a batch
    /// that runs as a whole come together.
    pub(crate) fn hold_back_batches(&mut self) {
        let mut ends = std::collections::BTreeMap::new();
        for request in &self.requests {
            if let Some(admitted) = request.admitted {
                let end = ends.entry(admitted).or_insert(request.ended);
                *end = request.ended.max(*end);
            }
        }
        for request in &mut self.requests {
            if let Some(&end) = request.admitted.and_then(|admitted| ends.get(&admitted)) {
                request.ended = end;
                request.first_token = Some(end);
                request.times.fill(end);
            }
        }
    }
}
