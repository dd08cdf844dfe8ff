//! Finds keys and values through the block table. This is where paging is paid for.

use std::marker::PhantomData;

use super::unit::Unified;
use crate::kv_dtype::KvElement;
use crate::lanes::{LANES, Lanes};

/// Walks one head's keys or values from a position on, through the block table.
pub(super) struct Walk<'a, E> {
    /// The run of block 0.
    base: *const u8,
    table: &'a [u32],
    block_stride: usize,
    block_size: usize,
    row: usize,
    /// Entry of the table and slot of the next position.
    entry: usize,
    slot: usize,
    kind: PhantomData<E>,
}

impl<'a, E: KvElement> Walk<'a, E> {
    /// `value` is 0 for keys, 1 for values.
    #[inline(always)]
    pub(super) fn new(u: &Unified<'a>, value: usize, position: usize) -> Self {
        let shape = u.job.cache.shape();
        let run = shape.run(u.job.layer, 0, value, u.unit.kv_head);
        Self {
            base: u.job.cache.bytes()[run..].as_ptr(),
            table: u.table,
            block_stride: shape.layer_block_bytes().unwrap_or(0),
            block_size: shape.block_size,
            row: shape.row(),
            entry: position / shape.block_size,
            slot: position % shape.block_size,
            kind: PhantomData,
        }
    }

    /// Rows of the next positions, which must be in the table: where the first is, and how many (at least one, at most `most`)
    /// follow one another in its block.
    #[inline(always)]
    pub(super) fn run(&mut self, most: usize) -> (*const E, usize) {
        let block = self.table[self.entry] as usize;
        let at = self.base.wrapping_add(block * self.block_stride).cast::<E>();
        let at = at.wrapping_add(self.slot * self.row);
        let count = most.min(self.block_size - self.slot);
        self.slot += count;
        if self.slot == self.block_size {
            self.slot = 0;
            self.entry += 1;
        }
        (at, count)
    }

    /// Rows of the next `count` positions, which must be in the table; beyond them the last again.
    #[inline(always)]
    pub(super) fn rows(&mut self, count: usize) -> [*const E; LANES] {
        let mut at = [std::ptr::null(); LANES];
        if count == LANES && self.block_size - self.slot >= LANES {
            let (first, _) = self.run(LANES);
            return std::array::from_fn(|i| first.wrapping_add(i * self.row));
        }
        let mut done = 0;
        while done < count {
            let (first, run) = self.run(count - done);
            for (i, at) in at[done..done + run].iter_mut().enumerate() {
                *at = first.wrapping_add(i * self.row);
            }
            done += run;
        }
        let last = at[count - 1];
        at[count..].fill(last);
        at
    }

    /// Asks for the cache lines of the next `count` positions, which must be in the table.
    #[inline(always)]
    pub(super) fn prefetch<L: Lanes>(&mut self, l: L, mut count: usize) {
        while count > 0 {
            let (at, run) = self.run(count);
            for line in (0..run * self.row * size_of::<E>()).step_by(64) {
                l.prefetch(at.cast::<u8>().wrapping_add(line));
            }
            count -= run;
        }
    }
}

/// Copies the scales of keys or values of `out.len()` positions from `position` on, which must be in the table.
pub(super) fn scales(u: &Unified<'_>, value: usize, position: usize, out: &mut [f32]) {
    let shape = u.job.cache.shape();
    let (first, size) = (shape.scales(), shape.dtype.scale_bytes());
    let (mut entry, mut slot) = (position / shape.block_size, position % shape.block_size);
    let mut rest = out;
    while !rest.is_empty() {
        let count = rest.len().min(shape.block_size - slot);
        let run = shape.run(u.job.layer, u.table[entry] as usize, value, u.unit.kv_head);
        let (now, later) = rest.split_at_mut(count);
        let from = &u.job.cache.bytes()[run + first + slot * size..][..count * size];
        bytemuck::cast_slice_mut::<f32, u8>(now).copy_from_slice(from);
        (entry, slot, rest) = (entry + 1, 0, later);
    }
}
