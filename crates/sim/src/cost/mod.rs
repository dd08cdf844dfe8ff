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

pub use device::{BadDevice, DEVICES, Device, device};
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
    /// Requests that they belong to.
    #[serde(default)]
    pub requests: u64,
    /// Tokens chosen.
    pub draws: u64,
    /// Positions whose KV is read, each row's own tokens included. What several rows share is read once for all of them.
    pub context: u64,
    /// Pairs of a computed token and a position it attends to.
    pub pairs: u64,
    /// Blocks copied within the device.
    pub copies: u64,
    /// Blocks moved to or from the swap space.
    pub swaps: u64,
}

impl Step {
    /// Of a plan for so many requests.
    #[must_use]
    pub fn of(plan: &StepPlan, requests: u64) -> Self {
        let mut step = Self {
            tokens: count(plan.tokens.len()),
            rows: count(plan.rows.len()),
            requests,
            draws: count(plan.draws.len()),
            ..Self::default()
        };
        for row in &plan.rows {
            let (start, tokens) = (u64::from(row.start), count(row.tokens.len()));
            step.context += start + tokens;
            step.pairs += tokens * start + tokens * (tokens + 1) / 2;
        }
        step.context -= repeated(plan, step.context);
        for op in &plan.ops {
            match op {
                CacheOp::Copy { .. } => step.copies += 1,
                CacheOp::SwapOut { .. } | CacheOp::SwapIn { .. } => step.swaps += 1,
            }
        }
        step
    }
}

/// How many of `context` positions lie in blocks that an earlier row reads, too; a block counts as full as the others.
fn repeated(plan: &StepPlan, context: u64) -> u64 {
    let most = plan.blocks.iter().map(|block| block.index()).max().unwrap_or(0);
    let mut seen = vec![0u64; most / 64 + 1];
    let mut again = 0;
    for block in &plan.blocks {
        let (word, bit) = (block.index() / 64, 1 << (block.index() % 64));
        if let Some(word) = seen.get_mut(word) {
            again += u64::from(*word & bit != 0);
            *word |= bit;
        }
    }
    (context * again).checked_div(count(plan.blocks.len())).unwrap_or(0)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A model of the time that steps take.
pub trait StepCost: fmt::Debug + Send {
    /// Seconds for a step that is not empty.
    fn seconds(&self, step: &Step) -> f64;

    /// The modelled duration of `plan` for so many requests; nothing for an empty one.
    fn cost(&self, plan: &StepPlan, requests: u64) -> Duration {
        if plan.is_empty() {
            return Duration::ZERO;
        }
        // A year for a step is a mistake in the model, but not a reason to panic.
        Duration::from_secs_f64(self.seconds(&Step::of(plan, requests)).clamp(0.0, 3e7))
    }
}

#[cfg(test)]
mod tests {
    use folio_core::ids::{BlockId, SeqId, Token};
    use folio_core::plan::Row;

    use super::*;

    #[test]
    fn what_rows_share_is_read_once() {
        let plan = |blocks: &[[u32; 3]]| {
            let mut plan = StepPlan::default();
            for (table, first) in blocks.iter().zip((0..).step_by(3)) {
                plan.blocks.extend(table.map(BlockId));
                plan.tokens.push(Token(1));
                plan.rows.push(Row {
                    seq: SeqId(1),
                    start: 47,
                    tokens: first / 3..first / 3 + 1,
                    blocks: first..first + 3,
                    draws: 0..0,
                    targets: 0..0,
                    first_target: 0,
                    target_alternatives: 0,
                });
            }
            plan
        };
        let context = |blocks: &[[u32; 3]]| Step::of(&plan(blocks), 1).context;
        assert_eq!(context(&[[0, 1, 2]]), 48);
        assert_eq!(context(&[[0, 1, 2], [3, 4, 5]]), 96);
        assert_eq!(context(&[[0, 1, 2], [0, 1, 70], [0, 1, 71]]), 48 + 16 + 16);
    }
}
