//! Who goes first: first come, first served.
//!
//! All groups stand in one line by [`Rank`], cut once: those before the cut run, those behind it wait. Admission moves the
//! cut one group on, preemption one group back, and both only at the cut. So a group that is preempted stands in front of
//! all that wait, nobody overtakes, and what the oldest lacks can always be taken from somebody younger.

use crate::group::Group;
use crate::ids::GroupId;

/// A place in the line; a smaller one is served first. Unique, and the same as long as the group lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(pub(super) GroupId);

/// Ids are given in the order of arrival, and a preempted group keeps its own.
pub(super) fn rank(group: &Group) -> Rank {
    Rank(group.id())
}
