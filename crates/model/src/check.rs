//! Whether a plan can be executed: the executor's own door.
//!
//! The scheduler never makes a plan that fails here. The check costs a few comparisons per token and turns a mistake
//! above into an error of the step instead of another sequence's keys overwritten.

use std::fmt::Display;

use folio_core::exec::ExecError;
use folio_core::ids::BlockId;
use folio_core::plan::{CacheOp, Row, StepPlan};

/// What the executor can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) vocab: usize,
    pub(crate) max_model_len: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) blocks: usize,
    pub(crate) block_size: usize,
    /// Slots of the swap space.
    pub(crate) slots: usize,
}

impl Capacity {
    pub(crate) fn check(&self, plan: &StepPlan) -> Result<(), ExecError> {
        if plan.tokens.len() > self.max_num_batched_tokens {
            return Err(bad(format!(
                "{} tokens; at most {} were planned for",
                plan.tokens.len(),
                self.max_num_batched_tokens
            )));
        }
        if plan.tokens.iter().chain(&plan.targets).any(|t| t.index() >= self.vocab) {
            return Err(bad(format!("a token beyond the vocabulary of {}", self.vocab)));
        }
        plan.ops.iter().try_for_each(|op| self.check_op(op))?;
        let (mut tokens, mut draws, mut targets) = (0, 0, 0);
        for row in &plan.rows {
            self.check_row(plan, row)?;
            follows("tokens", &row.tokens, &mut tokens, plan.tokens.len())?;
            follows("draws", &row.draws, &mut draws, plan.draws.len())?;
            follows("targets", &row.targets, &mut targets, plan.targets.len())?;
        }
        if (tokens, draws, targets) != (plan.tokens.len(), plan.draws.len(), plan.targets.len()) {
            return Err(bad("tokens, draws or targets that belong to no row"));
        }
        for draw in &plan.draws {
            let history = plan.history.get(draw.history.clone());
            let known = plan.samplings.get(draw.sampling).is_some();
            let banned = plan.banned.get(draw.banned.clone()).is_some();
            if !known || !banned || history.is_none_or(|h| h.len() < draw.history_prompt) {
                return Err(bad("a draw without sampling, history or bans"));
            }
            if plan.masks.get(draw.mask.clone()).is_none() {
                return Err(bad("a draw without its mask"));
            }
        }
        Ok(())
    }

    fn check_op(&self, op: &CacheOp) -> Result<(), ExecError> {
        match *op {
            CacheOp::Copy { source, destination } => {
                self.check_block(source)?;
                self.check_block(destination)
            }
            CacheOp::SwapOut { source: block, slot }
            | CacheOp::SwapIn { slot, destination: block } => {
                self.check_block(block)?;
                if slot.index() < self.slots {
                    return Ok(());
                }
                Err(bad(format!("swap slot {slot}; there are {}", self.slots)))
            }
        }
    }

    fn check_row(&self, plan: &StepPlan, row: &Row) -> Result<(), ExecError> {
        let length = row.tokens.len();
        let end = usize::try_from(row.start).ok().and_then(|start| start.checked_add(length));
        let end = end.filter(|&end| length > 0 && end <= self.max_model_len).ok_or_else(|| {
            bad(format!(
                "a row of {length} tokens from {}; the limit is {}",
                row.start, self.max_model_len
            ))
        })?;
        let Some(blocks) = plan.blocks.get(row.blocks.clone()) else {
            return Err(bad("a row without its block table"));
        };
        if blocks.len() < end.div_ceil(self.block_size) {
            return Err(bad(format!("{} blocks for {end} positions", blocks.len())));
        }
        if row.first_target.checked_add(row.targets.len()).is_none_or(|last| last > length) {
            return Err(bad("a target that follows no token of its row"));
        }
        blocks.iter().try_for_each(|&block| self.check_block(block))
    }

    fn check_block(&self, block: BlockId) -> Result<(), ExecError> {
        if block.index() < self.blocks {
            return Ok(());
        }
        Err(bad(format!("block {block}; there are {}", self.blocks)))
    }
}

/// Ranges of rows must tile their list, so that each answer has one place.
fn follows(
    what: &str,
    range: &std::ops::Range<usize>,
    next: &mut usize,
    length: usize,
) -> Result<(), ExecError> {
    if range.is_empty() {
        return Ok(());
    }
    if range.start != *next || range.end > length {
        return Err(bad(format!("{what} of a row that do not follow those of the row before")));
    }
    *next = range.end;
    Ok(())
}

fn bad(problem: impl Display) -> ExecError {
    ExecError(format!("the plan cannot be executed: it has {problem}"))
}
