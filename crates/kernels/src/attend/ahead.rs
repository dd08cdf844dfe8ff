//! Asks for keys and values before the arithmetic needs them.

use std::ops::Range;

use super::PARTITION;
use super::unit::Unified;
use super::walk::{LINE, Walk};
use crate::lanes::{LANES, Lanes};

/// How far ahead of the arithmetic memory is asked for, in bytes: what arrives while it is asked for, with some to spare.
const DISTANCE: usize = 8 << 10;

/// Runs ahead of the arithmetic of a unit, in the order in which it reads: sixteen positions at a time, the keys of a
/// partition, then its values, then the next partition's; within these what one block holds of each head, head after head. The
/// hardware sees that order only inside a block; here it is followed through the block table.
pub(super) struct Ahead<'a> {
    u: &'a Unified<'a>,
    partition: usize,
    value: usize,
    /// Of these keys or values, after the stretch.
    walk: Walk<'a>,
    left: Range<usize>,
    /// The stretch that is asked for, from its first head on.
    stretch: Walk<'a>,
    positions: usize,
    /// Heads of it that come later.
    heads_left: usize,
    /// Where the head is, and the positions that are left of it.
    head: Walk<'a>,
    head_left: usize,
    at: *const u8,
}

impl<'a> Ahead<'a> {
    /// Has asked for the first [`DISTANCE`].
    #[inline(always)]
    pub(super) fn new<L: Lanes>(l: L, u: &'a Unified<'a>) -> Self {
        let partition = u.unit.partitions.start;
        let left = read(u, partition);
        let walk = Walk::new(u, 0, left.start);
        let mut ahead = Self {
            u,
            partition,
            value: 0,
            walk,
            left,
            stretch: walk,
            positions: 0,
            heads_left: 0,
            head: walk,
            head_left: 0,
            at: std::ptr::null(),
        };
        let bytes = LANES * u.places.row_bytes;
        for _ in 0..(DISTANCE / bytes).max(2) {
            let at = ahead.next(l);
            for line in (0..bytes).step_by(LINE) {
                l.prefetch(at.wrapping_add(line));
            }
        }
        ahead
    }

    /// Where the sixteen rows lie that are to be asked for while sixteen positions are worked on. At the end, and where they do
    /// not follow one another, it is rows that were asked for.
    #[inline(always)]
    pub(super) fn next<L: Lanes>(&mut self, l: L) -> *const u8 {
        if self.head_left == 0 {
            self.next_head();
        }
        let count = self.head_left.min(LANES);
        if count == 0 {
            return self.at;
        }
        self.head_left -= count;
        self.head.prefetch_scales(l);
        match self.head.whole() {
            Some(at) => self.at = at,
            None => self.head.prefetch(l, count),
        }
        self.at
    }

    /// Goes on to the next head of the stretch, or the next stretch.
    fn next_head(&mut self) {
        if self.heads_left > 0 {
            let done = self.u.heads.len() - self.heads_left;
            self.heads_left -= 1;
            (self.head, self.head_left) = (self.stretch.later_head(done), self.positions);
            return;
        }
        if self.left.is_empty() {
            self.turn();
        }
        if let Some((stretch, positions)) = self.walk.stretch(&mut self.left) {
            (self.stretch, self.positions) = (stretch, positions.len());
            (self.head, self.head_left) = (stretch, positions.len());
            self.heads_left = self.u.heads.len() - 1;
        }
    }

    /// Goes on to the next values or keys, if there are any.
    #[cold]
    fn turn(&mut self) {
        while self.left.is_empty() && self.partition < self.u.unit.partitions.end {
            self.partition += self.value;
            self.value = 1 - self.value;
            if self.partition < self.u.unit.partitions.end {
                self.left = read(self.u, self.partition);
                self.walk = Walk::new(self.u, self.value, self.left.start);
            }
        }
    }
}

/// Positions of a partition that are read: from a whole number of vectors on, so that scores lie where they belong and
/// sixteen positions are in one block, if blocks have so many.
#[inline(always)]
pub(super) fn read(u: &Unified<'_>, partition: usize) -> Range<usize> {
    let seen = u.seen_by_any(partition);
    seen.start - (seen.start - partition * PARTITION) % LANES..seen.end
}
