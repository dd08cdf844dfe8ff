//! Groups that leave for the swap space and come back, as a whole.
//!
//! A swapped group stands in the line with those that wait, in the order of the policy. So it comes back before anybody who has
//! never run is admitted (the paper's rule), and nobody overtakes it. In the step in which its blocks come back it computes
//! nothing: whether they have all come is known only after the step.
//!
//! **Nothing is trusted that an executor has not done.** The groups that a plan moves are remembered until it is committed. If
//! the step fails, neither the slots nor the blocks it was to fill can be relied upon; if single slots are lost, the groups
//! that got them back cannot. Those groups forget what was computed and are computed again.

use super::Scheduler;
use crate::group::Group;
use crate::ids::{BlockId, GroupId, SwapSlot};
use crate::kv::KvMemory;
use crate::plan::{CacheOp, StepPlan};

impl<M: KvMemory> Scheduler<M> {
    /// Whether the group's blocks are on their way out; if not, nothing has changed.
    pub(super) fn swap_out(&mut self, group: &mut Group, ops: &mut Vec<CacheOp>) -> bool {
        let out = group.swap_out(&mut self.memory, ops);
        if out {
            group.swaps += 1;
            self.totals.swap_preemptions += 1;
            self.moving.push(group.id());
        } else {
            self.totals.swap_refusals += 1;
        }
        out
    }

    /// Brings the first group of the line back, if there is room for it and for what it needs next.
    pub(super) fn resume_head(&mut self, ops: &mut Vec<CacheOp>) -> bool {
        let Some(head) = self.waiting.head() else { return false };
        if self.memory.free_blocks() < head.need_to_come_back(&self.memory) {
            return false;
        }
        let Some(mut group) = self.waiting.pop() else { return false };
        if !group.swap_in(&mut self.memory, ops) {
            self.waiting.push(group);
            return false;
        }
        self.moving.push(group.id());
        self.running.push(group);
        true
    }

    /// After the step: whoever got a lost slot back is computed again.
    pub(super) fn settle_swaps(&mut self, plan: &StepPlan, lost: &[SwapSlot]) {
        let moving = std::mem::take(&mut self.moving);
        if lost.is_empty() {
            return;
        }
        self.totals.lost_slots += u64::try_from(lost.len()).unwrap_or(u64::MAX);
        let damaged: Vec<BlockId> = plan
            .ops
            .iter()
            .filter_map(|op| match op {
                CacheOp::SwapIn { slot, destination } if lost.contains(slot) => Some(*destination),
                _ => None,
            })
            .collect();
        for id in moving {
            if self.running_group(id).is_some_and(|at| self.running[at].holds_any(&damaged)) {
                self.start_again(id);
            }
        }
    }

    /// The step failed: nobody whom it moved can be relied upon.
    pub(super) fn undo_swaps(&mut self) {
        for id in std::mem::take(&mut self.moving) {
            self.start_again(id);
        }
    }

    pub(super) fn running_group(&self, id: GroupId) -> Option<usize> {
        self.running.binary_search_by_key(&id, Group::id).ok()
    }

    /// The group, if it still exists, waits with nothing computed.
    fn start_again(&mut self, id: GroupId) {
        let group = match self.running_group(id) {
            // A group that comes back runs behind all others, so the line stays in order.
            Some(at) => Some(self.running.remove(at)),
            None => self.waiting.remove(id),
        };
        if let Some(mut group) = group {
            group.release(&mut self.memory);
            self.waiting.push(group);
        }
    }
}
