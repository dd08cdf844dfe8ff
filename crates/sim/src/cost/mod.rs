//! How long a step takes.
//!
//! | file | its one idea |
//! |---|---|
//! | `linear` | round coefficients, for tests |
//! | `shape` | what of a model decides how long a step takes |
//! | `device` | what of a machine does: published figures |
//! | `roofline` | both together: each part of a step is bound by bandwidth or by arithmetic |
//! | `fitted` | coefficients of measured steps, and the file they are kept in |

mod device;
mod fitted;
mod linear;
mod roofline;
mod shape;

use std::fmt;
use std::time::Duration;

pub use device::{DEVICES, Device, device};
pub use fitted::{BadFit, Fitted, Sample};
use folio_core::plan::{CacheOp, StepPlan};
pub use linear::CostModel;
pub use roofline::Roofline;
use serde::{Deserialize, Serialize};
pub use shape::Shape;

/// What of a plan decides how long it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Tokens computed.
    pub tokens: u64,
    /// Sequences that compute something.
    pub rows: u64,
    /// Tokens chosen.
    pub draws: u64,
    /// Positions whose KV is read, each row's own tokens included.
    pub context: u64,
    /// Pairs of a computed token and a position it attends to.
    pub pairs: u64,
    /// Blocks copied within the device.
    pub copies: u64,
    /// Blocks moved to or from the swap space.
    pub swaps: u64,
}

impl Step {
    /// Of a plan.
    #[must_use]
    pub fn of(plan: &StepPlan) -> Self {
        let mut step = Self {
            tokens: count(plan.tokens.len()),
            rows: count(plan.rows.len()),
            draws: count(plan.draws.len()),
            ..Self::default()
        };
        for row in &plan.rows {
            let (start, tokens) = (u64::from(row.start), count(row.tokens.len()));
            step.context += start + tokens;
            step.pairs += tokens * start + tokens * (tokens + 1) / 2;
        }
        for op in &plan.ops {
            match op {
                CacheOp::Copy { .. } => step.copies += 1,
                CacheOp::SwapOut { .. } | CacheOp::SwapIn { .. } => step.swaps += 1,
            }
        }
        step
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A model of the time that steps take.
pub trait StepCost: fmt::Debug + Send {
    /// Seconds for a step that is not empty.
    fn seconds(&self, step: &Step) -> f64;

    /// The modelled duration of `plan`; nothing for an empty one.
    fn cost(&self, plan: &StepPlan) -> Duration {
        if plan.is_empty() {
            return Duration::ZERO;
        }
        // A year for a step is a mistake in the model, but not a reason to panic.
        Duration::from_secs_f64(self.seconds(&Step::of(plan)).clamp(0.0, 3e7))
    }
}
