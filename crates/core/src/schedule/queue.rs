//! The groups that wait, in the order of the policy.
//!
//! **Invariants.** No group in it holds memory, though those that are swapped out hold slots. Groups that have never run are
//! bounded by the caller's limit; preempted ones are exempt, since they were let in before, and there are never more of them
//! than could run.
//!
//! A balanced tree rather than a list: a client may give up anywhere in a long queue, and leaving from the middle must
//! cost no more than joining at the end.

use std::collections::BTreeMap;

use super::policy::{Rank, rank};
use crate::group::{Group, Phase};
use crate::ids::GroupId;
use crate::stats::Load;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Queue {
    line: BTreeMap<Rank, Group>,
    /// Groups that have never run.
    fresh: u32,
    load: Load,
    swapped: Load,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Groups that have never run.
    pub(super) fn fresh(&self) -> u32 {
        self.fresh
    }

    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// Those that are swapped out; not part of [`Self::load`].
    pub(super) fn swapped(&self) -> Load {
        self.swapped
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.line.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.line.values_mut()
    }

    /// The group that is next.
    pub(super) fn head(&self) -> Option<&Group> {
        self.line.first_key_value().map(|(_, group)| group)
    }

    pub(super) fn push(&mut self, group: Group) {
        self.fresh += u32::from(group.preemptions == 0);
        let load = self.load_of(&group);
        load.groups += 1;
        load.sequences += group.width();
        load.tokens += group.tokens();
        let before = self.line.insert(rank(&group), group);
        debug_assert!(before.is_none(), "two groups have one rank");
    }

    pub(super) fn pop(&mut self) -> Option<Group> {
        let (_, group) = self.line.pop_first()?;
        Some(self.left(group))
    }

    pub(super) fn remove(&mut self, id: GroupId) -> Option<Group> {
        let group = self.line.remove(&Rank(id))?;
        Some(self.left(group))
    }

    fn left(&mut self, group: Group) -> Group {
        self.fresh -= u32::from(group.preemptions == 0);
        let load = self.load_of(&group);
        load.groups -= 1;
        load.sequences -= group.width();
        load.tokens -= group.tokens();
        group
    }

    fn load_of(&mut self, group: &Group) -> &mut Load {
        if group.is_swapped() { &mut self.swapped } else { &mut self.load }
    }

    /// # Errors
    /// A sentence on the first invariant that does not hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut counted = Self::default();
        for (&at, group) in &self.line {
            group.check()?;
            if at != rank(group) || !(group.phase == Phase::Waiting || group.is_swapped()) {
                return Err(format!("group {} waits as {at:?}, {:?}", group.id(), group.phase));
            }
            counted.fresh += u32::from(group.preemptions == 0);
            let load = counted.load_of(group);
            load.groups += 1;
            load.sequences += group.width();
            load.tokens += group.tokens();
        }
        let facts = |queue: &Self| (queue.fresh, queue.load, queue.swapped);
        if facts(&counted) != facts(self) {
            return Err(format!(
                "the queue counts {:?}; there are {:?}",
                facts(self),
                facts(&counted)
            ));
        }
        Ok(())
    }
}
