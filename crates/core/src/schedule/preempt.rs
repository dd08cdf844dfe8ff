//! Preemption: the youngest running group gives all its memory back and waits again.
//!
//! All or nothing (the paper's §4.5): the sequences of a group share blocks and are scheduled together, so taking some of
//! its memory would stop it as surely and free less. What it generated is kept; what it computed is computed again, in one
//! go, and often found in the prefix cache, since blocks that are freed stay findable until they are needed.

use super::Scheduler;
use crate::kv::{KvMemory, Short};

impl<M: KvMemory> Scheduler<M> {
    /// Moves the last running group to the front of the queue, because `short` of blocks.
    pub(super) fn preempt_last(&mut self, short: Short) {
        debug_assert!(self.running.len() > 1, "the oldest group alone cannot grow: {short}");
        let Some(mut group) = self.running.pop() else { return };
        group.release(&mut self.memory);
        group.preemptions += 1;
        self.totals.preemptions += 1;
        self.waiting.push(group);
    }
}
