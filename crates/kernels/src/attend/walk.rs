//! Finds keys and values through the block table. This is where paging is paid for.

use std::ops::Range;

use super::unit::Unified;
use crate::lanes::{LANES, Lanes};

/// Walks one head's keys or values from a position on, through the block table.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    /// The run of block 0.
    base: *const u8,
    table: &'a [u32],
    block_stride: usize,
    /// From a head's run to the next one's.
    head_stride: usize,
    block_size: usize,
    pub(super) row_bytes: usize,
    /// Entry of the table and slot of the next position.
    entry: usize,
    slot: usize,
}

impl<'a> Walk<'a> {
    /// Of the first head. `value` is 0 for keys, 1 for values.
    #[inline(always)]
    pub(super) fn new(u: &Unified<'a>, value: usize, position: usize) -> Self {
        let shape = u.job.cache.shape();
        let run = shape.run(u.job.layer, 0, value, u.heads.start);
        Self {
            base: u.job.cache.bytes()[run..].as_ptr(),
            table: u.table,
            block_stride: shape.layer_block_bytes().unwrap_or(0),
            head_stride: shape.run_bytes().unwrap_or(0),
            block_size: shape.block_size,
            row_bytes: shape.row() * shape.dtype.bytes(),
            entry: position / shape.block_size,
            slot: position % shape.block_size,
        }
    }

    /// The same positions of a head that comes later.
    #[inline(always)]
    pub(super) fn later_head(self, by: usize) -> Self {
        Self { base: self.base.wrapping_add(by * self.head_stride), ..self }
    }

    /// Goes on over as many of the positions `left`, which are the next, as one block holds in whole groups of sixteen, or sixteen
    /// where blocks are smaller; takes them from `left` and returns where they begin. All heads' rows of them lie together.
    #[inline(always)]
    pub(super) fn stretch(&mut self, left: &mut Range<usize>) -> Option<(Self, Range<usize>)> {
        if left.start >= left.end {
            return None;
        }
        let whole = (self.block_size - self.slot) / LANES * LANES;
        let count = whole.max(LANES).min(left.len());
        let (from, positions) = (*self, left.start..left.start + count);
        left.start = positions.end;
        self.slot += count;
        while self.slot >= self.block_size {
            self.entry += 1;
            self.slot -= self.block_size;
        }
        Some((from, positions))
    }

    /// Rows of the next positions, which must be in the table: where the first is, and how many (at least one, at most `most`)
    /// follow one another in its block.
    #[inline(always)]
    pub(super) fn run(&mut self, most: usize) -> (*const u8, usize) {
        let block = self.table[self.entry] as usize;
        let at = self.base.wrapping_add(block * self.block_stride + self.slot * self.row_bytes);
        let count = most.min(self.block_size - self.slot);
        self.slot += count;
        if self.slot == self.block_size {
            self.slot = 0;
            self.entry += 1;
        }
        (at, count)
    }

    /// Rows of the next sixteen positions, if they are in one block.
    #[inline(always)]
    pub(super) fn whole(&mut self) -> Option<*const u8> {
        (self.block_size - self.slot >= LANES).then(|| self.run(LANES).0)
    }

    /// Rows of the next sixteen positions, one after the other, of which the first `count` must be in the table; what the others
    /// hold is of no meaning. Where blocks are too small for that, they are put together in `gathered`, a row for each position.
    ///
    /// # Safety
    /// The first `count` positions must have blocks inside the cache.
    #[inline(always)]
    pub(super) unsafe fn group(&mut self, count: usize, gathered: &mut [f32]) -> *const u8 {
        if let Some(at) = self.whole() {
            return at;
        }
        let gathered: &mut [u8] = bytemuck::cast_slice_mut(gathered);
        let mut rest = &mut gathered[..LANES * self.row_bytes];
        let mut left = count;
        while left > 0 {
            let (at, run) = self.run(left);
            let (now, later) = rest.split_at_mut(run * self.row_bytes);
            // SAFETY: the rows of a run follow one another inside a block.
            now.copy_from_slice(unsafe { std::slice::from_raw_parts(at, now.len()) });
            (rest, left) = (later, left - run);
        }
        gathered.as_ptr()
    }

    /// Asks for the cache lines of the next `count` positions, which must be in the table.
    #[inline(always)]
    pub(super) fn prefetch<L: Lanes>(&mut self, l: L, mut count: usize) {
        while count > 0 {
            let (at, run) = self.run(count);
            for line in (0..run * self.row_bytes).step_by(LINE) {
                l.prefetch(at.wrapping_add(line));
            }
            count -= run;
        }
    }
}

/// Bytes in a cache line.
pub(super) const LINE: usize = 64;

/// Copies the scales of a head's keys or values of `out.len()` positions from `position` on, which must be in the table.
pub(super) fn scales(
    u: &Unified<'_>,
    value: usize,
    kv_head: usize,
    position: usize,
    out: &mut [f32],
) {
    let shape = u.job.cache.shape();
    let (first, size) = (shape.scales(), shape.dtype.scale_bytes());
    let (mut entry, mut slot) = (position / shape.block_size, position % shape.block_size);
    let mut rest = out;
    while !rest.is_empty() {
        let count = rest.len().min(shape.block_size - slot);
        let run = shape.run(u.job.layer, u.table[entry] as usize, value, kv_head);
        let (now, later) = rest.split_at_mut(count);
        let from = &u.job.cache.bytes()[run + first + slot * size..][..count * size];
        bytemuck::cast_slice_mut::<f32, u8>(now).copy_from_slice(from);
        (entry, slot, rest) = (entry + 1, 0, later);
    }
}
