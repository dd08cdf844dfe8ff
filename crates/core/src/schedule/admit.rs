//! Waiting groups start running, or come back from the swap space, in the order of the policy, while tokens, sequences and
//! blocks last.
//!
//! The blocks of all shared tokens are allocated at once: nothing is asked and then hoped for. Beyond them there must be
//! free blocks for whatever else the group needs soon, that is, for what its sequences hold apart from each other and one
//! token more each; they stay free, but a group that would be preempted in the next step is better not started. Nor is one
//! that takes the room in which those that run are about to grow, for it would be the first to be preempted: so
//! [`HEADROOM`](super::HEADROOM) more tokens of each running sequence must fit, too. Where nothing runs nothing is kept
//! free, so whatever fits alone starts. If the first in the queue does not fit, nobody behind it is tried: a large request
//! is not starved by small ones.

use super::Scheduler;
use super::budget::Budget;
use crate::group::Group;
use crate::ids::Tick;
use crate::kv::{BlockTable, KvMemory};
use crate::plan::CacheOp;

impl<M: KvMemory> Scheduler<M> {
    /// Not called in a step that preempted: what was taken from a group is not given to the next at once.
    pub(super) fn admit(&mut self, now: Tick, budget: &mut Budget, ops: &mut Vec<CacheOp>) {
        if self.waiting.is_empty() {
            return;
        }
        let mut resumed = false;
        let mut room = self.running.iter().map(|group| self.room_to_grow(group)).sum();
        while let Some(width) = self.waiting.head().map(Group::width) {
            if !budget.allows(width) {
                break;
            }
            if self.waiting.head().is_some_and(Group::is_swapped) {
                if !self.resume_head(room, budget, ops) {
                    break;
                }
                budget.seat(width);
                resumed = true;
                room += self.running.last().map_or(0, |group| self.room_to_grow(group));
                continue;
            }
            if resumed {
                break;
            }
            let Some(table) = self.table_for_head(room, ops) else { break };
            let Some(mut group) = self.waiting.pop() else { break };
            budget.seat(width);
            group.start(table);
            group.look_for_prefix(&mut self.memory);
            if let Some(first) = group.sequences.first_mut() {
                first.plan(budget.take(group.phase.todo(first)));
            }
            if group.preemptions == 0 {
                self.totals.prompt_tokens += u64::from(group.origin.prompt);
                self.totals.queue_time += now.0.saturating_sub(group.origin.arrived.0);
            }
            room += self.room_to_grow(&group);
            self.running.push(group);
        }
    }

    /// Blocks that a running group is about to take.
    fn room_to_grow(&self, group: &Group) -> u32 {
        match self.headroom {
            0 => 0,
            _ if self.memory.reserves() => 0,
            tokens => group.growth(tokens, self.memory.block_size()),
        }
    }

    /// A table for the shared tokens of the first waiting group, if what it needs beside them is free, and `room` beside that.
    fn table_for_head(&mut self, room: u32, ops: &mut Vec<CacheOp>) -> Option<BlockTable> {
        let claim = self.waiting.head()?.claim(&self.memory, room);
        self.memory.admit(&claim, ops).ok()
    }
}
