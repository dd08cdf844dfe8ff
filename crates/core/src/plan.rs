//! The one message that goes down: everything an executor needs for one step, and nothing else.
//!
//! A plan is ragged: rows of any length, prefill chunks and decode steps together. There are no phases. All lists are
//! flat and owned by the plan, which is reused from step to step, so planning allocates nothing once warm.
//!
//! **Hazard rule.** [`StepPlan::ops`] is ordered and happens before the forward pass. An executor may run neighbouring
//! operations together only when no destination is also a source or a destination of another one of them.

use std::ops::Range;

use crate::ids::{BlockId, SeqId, SwapSlot, Token};
use crate::params::Sampling;

/// Something done to the cache before the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOp {
    /// Copy the whole block `source` over `destination`, in every layer, keys and values.
    Copy {
        /// The shared block.
        source: BlockId,
        /// The private copy.
        destination: BlockId,
    },
    /// Keep the contents of `source` in the swap space. What the slot held before is forgotten. Cannot fail here: what could
    /// not be kept is reported when it is wanted back.
    SwapOut {
        /// The block, which may be overwritten by later operations.
        source: BlockId,
        /// Where its contents go.
        slot: SwapSlot,
    },
    /// Bring the contents of `slot` back. If they are lost, the executor says so in
    /// [`StepOutput::lost`](crate::exec::StepOutput::lost) and goes on; what it computes from them is thrown away.
    SwapIn {
        /// What was swapped out before.
        slot: SwapSlot,
        /// The block that is overwritten.
        destination: BlockId,
    },
}

/// Consecutive tokens of one sequence that are computed in this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose tokens these are.
    pub seq: SeqId,
    /// Position of the first token in the sequence; the KV of all earlier positions is in the cache.
    pub start: u32,
    /// The tokens, a range of [`StepPlan::tokens`]; never empty. Token `i` of the row has position `start + i`.
    pub tokens: Range<usize>,
    /// The block table, a range of [`StepPlan::blocks`]. Position `p` lives in entry `p / block_size`, slot
    /// `p % block_size`. Covers at least `start + tokens.len()` positions.
    pub blocks: Range<usize>,
    /// Draws made from the logits of the row's last token, a range of [`StepPlan::draws`]; usually one or none,
    /// `n` when the prompt that `n` samples share is complete.
    pub draws: Range<usize>,
    /// Known next tokens whose log-probability is asked for, a range of [`StepPlan::targets`]: target `i` follows the
    /// row's token `first_target + i`. Empty when prompt scores are not wanted.
    pub targets: Range<usize>,
    /// Index within the row of the token that the first target follows.
    pub first_target: usize,
    /// How many best alternatives are reported with each target.
    pub target_alternatives: u32,
}

/// One token to be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// The sequence that receives the token.
    pub seq: SeqId,
    /// Which of the request's `n` choices this is; part of the random draw.
    pub choice: u32,
    /// Position the new token will have in its sequence; part of the random draw.
    pub position: u32,
    /// How it is chosen: an index into [`StepPlan::samplings`].
    pub sampling: usize,
    /// Prompt and output so far, a range of [`StepPlan::history`]; empty unless penalties need it.
    pub history: Range<usize>,
    /// How many tokens at the start of `history` are prompt.
    pub history_prompt: usize,
    /// Which tokens may be chosen, a range of [`StepPlan::masks`] that is read by [`allows`]; empty allows all. The
    /// scheduler leaves it empty.
    pub mask: Range<usize>,
    /// Tokens that must not be chosen, a range of [`StepPlan::banned`]. At least one other may be.
    pub banned: Range<usize>,
}

/// Whether a mask allows `token`: bit `token % 32` of word `token / 32`. An empty mask allows all; a shorter one than the
/// vocabulary allows none of the tokens beyond it.
#[must_use]
pub fn allows(mask: &[u32], token: Token) -> bool {
    let word = mask.get(token.index() / 32).copied().unwrap_or(0);
    mask.is_empty() || word >> (token.0 % 32) & 1 == 1
}

/// One step of the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepPlan {
    /// Cache operations, in order, before the forward pass.
    pub ops: Vec<CacheOp>,
    /// What is computed.
    pub rows: Vec<Row>,
    /// Input tokens of all rows.
    pub tokens: Vec<Token>,
    /// Block tables of all rows.
    pub blocks: Vec<BlockId>,
    /// Tokens to choose.
    pub draws: Vec<Draw>,
    /// How to choose them; shared by the draws of a group.
    pub samplings: Vec<Sampling>,
    /// Known tokens to score.
    pub targets: Vec<Token>,
    /// Tokens so far, for penalties.
    pub history: Vec<Token>,
    /// Tokens that some draws must not choose.
    pub banned: Vec<Token>,
    /// Bit sets of tokens that draws may choose.
    pub masks: Vec<u32>,
}

impl StepPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.ops.is_empty()
    }

    /// Empties the plan and keeps its memory.
    pub fn clear(&mut self) {
        let Self { ops, rows, tokens, blocks, draws, samplings, targets, history, banned, masks } =
            self;
        ops.clear();
        rows.clear();
        tokens.clear();
        blocks.clear();
        draws.clear();
        samplings.clear();
        targets.clear();
        history.clear();
        banned.clear();
        masks.clear();
    }
}
