//! Groups that leave for the swap space and come back, as a whole.
//!
//! A swapped group stands in the line with those that wait, in the order of the policy. So it comes back before anybody who has
//! never run is admitted (the paper's rule), and nobody overtakes it. It goes on in the very step in which its blocks come back.
//!
//! **Nothing is trusted that an executor has not done.** The groups that a plan moves are remembered until it is committed. If
//! the step fails, neither the slots nor the blocks it was to fill can be relied upon; if single slots are lost, the groups
//! that got them back cannot. Those groups forget what was computed and are computed again; their rows in the step count for
//! nothing. So do those that came back behind them in the same step, for nobody overtakes; nobody else is behind them, since
//! in a step in which a group comes back nobody new is admitted.

use super::Scheduler;
use super::budget::Budget;
use crate::group::Group;
use crate::ids::{BlockId, GroupId, SwapSlot};
use crate::kv::KvMemory;
use crate::plan::{CacheOp, StepPlan};

impl Group {
    /// Plans what the step has tokens and blocks for. There are blocks for one token of each sequence at least.
    fn go_on<M: KvMemory>(&mut self, memory: &mut M, budget: &mut Budget, ops: &mut Vec<CacheOp>) {
        let phase = self.phase;
        for seq in &mut self.sequences {
            let todo = budget.take(phase.todo(seq));
            for tokens in [todo, todo.min(1), 0] {
                seq.plan(tokens);
                if seq.grow(memory, ops).is_ok() {
                    break;
                }
            }
        }
    }
}

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

    /// Brings the first group of the line back, if there is room for it and for what it needs next, and `room` beside that.
    pub(super) fn resume_head(
        &mut self,
        room: u32,
        budget: &mut Budget,
        ops: &mut Vec<CacheOp>,
    ) -> bool {
        let Some(head) = self.waiting.head() else { return false };
        let need = head.need_to_come_back(&self.memory).saturating_add(room);
        if self.memory.free_blocks() < need {
            return false;
        }
        let Some(mut group) = self.waiting.pop() else { return false };
        if !group.swap_in(&mut self.memory, ops) {
            self.waiting.push(group);
            return false;
        }
        group.go_on(&mut self.memory, budget, ops);
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
        let hit = |id: &GroupId| {
            self.running_group(*id).is_some_and(|at| self.running[at].holds_any(&damaged))
        };
        let Some(first) = moving.into_iter().filter(hit).min() else { return };
        let behind = self.running.partition_point(|group| group.id() < first);
        let ids: Vec<GroupId> = self.running.iter().skip(behind).map(Group::id).collect();
        for id in ids {
            self.start_again(id);
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
            Some(at) => Some(self.running.remove(at)),
            None => self.waiting.remove(id),
        };
        if let Some(mut group) = group {
            group.release(&mut self.memory);
            self.waiting.push(group);
        }
    }
}
