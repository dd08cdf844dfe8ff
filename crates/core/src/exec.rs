//! The one message that comes up, and the trait of whatever makes it.

use std::fmt;

use crate::ids::{SwapSlot, Token};
use crate::plan::StepPlan;

/// A token's natural log-probability and the likeliest tokens at its position, best first.
/// Taken from the model's own distribution, before bias, penalties and temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// ln p(token).
    pub logprob: f32,
    /// The best alternatives with their log-probabilities; as many as were asked for.
    pub top: Vec<(Token, f32)>,
}

/// A chosen token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: Token,
    /// Present when the sampling asked for log-probabilities.
    pub score: Option<Score>,
}

/// Why no token could be chosen for one draw. Ends that draw's group and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawFault {
    /// The model produced NaN or infinite logits.
    NotFinite,
    /// No token may be chosen.
    NothingAllowed,
}

/// What swapping cost in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapWork {
    /// Blocks that were moved, in either direction.
    pub blocks: u32,
    /// Microseconds for which they held up the step.
    pub micros: u64,
}

/// What a step produced.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// One per [`StepPlan::draws`], in order.
    pub draws: Vec<Result<Drawn, DrawFault>>,
    /// One per [`StepPlan::targets`], in order.
    pub scores: Vec<Score>,
    /// Slots whose contents could not be brought back. Their groups are computed again.
    pub lost: Vec<SwapSlot>,
    /// What swapping cost.
    pub swapping: SwapWork,
}

impl StepOutput {
    /// Empties the output and keeps its memory.
    pub fn clear(&mut self) {
        let Self { draws, scores, lost, swapping } = self;
        draws.clear();
        scores.clear();
        lost.clear();
        *swapping = SwapWork::default();
    }
}

/// A step that could not be executed at all; every group in the plan fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecError(pub String);

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ExecError {}

/// Turns plans into outputs: a model on some device, or a model of its cost.
pub trait Executor: Send {
    /// Runs the cache operations in order, then the rows; fills `out`, which arrives cleared.
    ///
    /// # Errors
    /// When the step as a whole failed; the cache's contents for the plan's rows are then undefined.
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError>;

    /// Uses a moment in which there is nothing to run for what steps to come would otherwise wait for. Takes a few
    /// milliseconds, since a request may arrive meanwhile; returns whether there is more of it to do.
    fn prepare(&mut self) -> bool {
        false
    }
}
