//! Preemption: the youngest running group gives all its memory back and waits again.
//!
//! All or nothing (the paper's §4.5): the sequences of a group share blocks and are scheduled together, so taking some of
//! its memory would stop it as surely and free less. What it generated is kept. What it computed is either computed again,
//! in one go, and often found in the prefix cache, since blocks that are freed stay findable until they are needed; or its
//! blocks move to the swap space and come back later.

use super::Scheduler;
use crate::group::Group;
use crate::kv::{KvMemory, Short};
use crate::plan::CacheOp;
use crate::sequence::Sequence;

/// How preempted groups recover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PreemptionMode {
    /// By whichever is cheaper, as far as [`RecoveryCosts`] are known; else a group with several sequences swaps, since it would
    /// have to compute what they do not share one by one.
    #[default]
    Auto,
    /// Always computed again.
    Recompute,
    /// Swapped whenever there is room in the swap space.
    Swap,
}

/// What recovery costs on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecoveryCosts {
    /// Microseconds to compute one token again.
    pub compute_token: f64,
    /// Microseconds to move one block to the swap space or back.
    pub move_block: f64,
}

/// Decides how a group recovers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Recovery {
    pub(super) mode: PreemptionMode,
    pub(super) costs: Option<RecoveryCosts>,
}

impl Recovery {
    fn swaps(&self, group: &Group) -> bool {
        let computed: u32 = group.sequences.iter().map(Sequence::computed).sum();
        match (self.mode, self.costs) {
            _ if computed == 0 => false,
            (PreemptionMode::Recompute, _) => false,
            (PreemptionMode::Swap, _) => true,
            (PreemptionMode::Auto, None) => group.sequences.len() > 1,
            (PreemptionMode::Auto, Some(costs)) => {
                let (tokens, blocks) = (group.tokens_to_recompute(), group.distinct_blocks());
                let swap = 2.0 * f64::from(blocks) * costs.move_block;
                swap < f64::from(tokens) * costs.compute_token
            }
        }
    }
}

impl<M: KvMemory> Scheduler<M> {
    /// Moves the last running group to the front of the queue, because `short` of blocks. Whether it was swapped out; its
    /// copies in `ops` are needed then, for they make what is swapped.
    pub(super) fn preempt_last(&mut self, short: Short, ops: &mut Vec<CacheOp>) -> bool {
        debug_assert!(self.running.len() > 1, "the oldest group alone cannot grow: {short}");
        let Some(mut group) = self.running.pop() else { return false };
        let swapped = self.recovery.swaps(&group) && self.swap_out(&mut group, ops);
        if !swapped {
            group.release(&mut self.memory);
        }
        debug_assert_eq!(swapped, group.is_swapped());
        group.preemptions += 1;
        self.totals.preemptions += 1;
        self.waiting.push(group);
        swapped
    }
}
