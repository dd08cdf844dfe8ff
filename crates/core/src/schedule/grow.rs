//! Room for what the running sequences are about to write.
//!
//! Groups grow in the order of the policy; when the blocks of one cannot be had, the last running group is preempted, again
//! and again until they can, or until the group itself was the last. The oldest always grows: with everybody else gone
//! there is at least what it was found to need when it was submitted.
//!
//! **Nothing of a victim survives in the plan.** Rows are laid out after this pass, so there are none yet. Copies are
//! pushed here, and victims are taken from the end of the very order in which groups grow: a victim has not grown yet and
//! has pushed nothing, unless it is the group that is growing, whose copies are the last ones and are cut off (not so what moved
//! other victims to the swap space meanwhile); but if it is swapped out they stay, before the operations that save what they
//! copied.

use super::Scheduler;
use crate::group::Group;
use crate::kv::{KvMemory, Short};
use crate::plan::{CacheOp, StepPlan};

impl<M: KvMemory> Scheduler<M> {
    /// Whether anybody was preempted.
    pub(super) fn grow(&mut self, plan: &mut StepPlan) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while at < self.running.len() {
            let own_copies = plan.ops.len();
            while let Err(short) =
                grow_group(&mut self.running[at], &mut self.memory, &mut plan.ops)
            {
                let swapped = self.preempt_last(short, &mut plan.ops);
                preempted = true;
                if self.running.len() == at {
                    if !swapped {
                        take_copies_back(&mut plan.ops, own_copies);
                    }
                    return true;
                }
            }
            at += 1;
        }
        preempted
    }
}

/// Cuts the copies off that stand at `from` and later. What stands between them moves others to the swap space, and stays.
fn take_copies_back(ops: &mut Vec<CacheOp>, from: usize) {
    let own = ops.split_off(from);
    ops.extend(own.into_iter().filter(|op| !matches!(op, CacheOp::Copy { .. })));
}

/// Changes nothing for sequences that have room already, so after [`Short`] it can go on where it stopped.
fn grow_group<M: KvMemory>(
    group: &mut Group,
    memory: &mut M,
    ops: &mut Vec<CacheOp>,
) -> Result<(), Short> {
    group.sequences.iter_mut().try_for_each(|seq| seq.grow(memory, ops))
}
