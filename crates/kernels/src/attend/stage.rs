//! Lays out keys and values, found through the block table, for the register tiles.
//!
//! This is where paging is paid for: runs of contiguous positions are found, what is wanted soon is asked for ahead of time, and
//! rows of any storage type become panels of f32 that stay in the first-level cache.

use std::ops::Range;

use super::STAGE;
use super::unit::Unified;
use crate::dtype::Element;
use crate::lanes::{LANES, Lanes};

/// Walks one head's keys or values from a position on, through the block table.
struct Walk<'a, E> {
    /// The run of block 0.
    base: *const E,
    table: &'a [u32],
    block_stride: usize,
    block_size: usize,
    row: usize,
    /// Entry of the table and slot of the next position.
    entry: usize,
    slot: usize,
}

impl<'a, E: Element> Walk<'a, E> {
    #[inline(always)]
    fn new(u: &Unified<'a>, value: usize, position: usize) -> Self {
        let shape = u.job.cache.shape();
        let run = shape.run(u.job.layer, 0, value, u.unit.kv_head);
        Self {
            base: u.job.cache.elements::<E>()[run..].as_ptr(),
            table: u.table,
            block_stride: shape.layer_block().unwrap_or(0),
            block_size: shape.block_size,
            row: shape.row(),
            entry: position / shape.block_size,
            slot: position % shape.block_size,
        }
    }

    /// Rows of the next positions, which must be in the table: where the first is, and how many (at least one, at most `most`)
    /// follow one another in its block.
    #[inline(always)]
    fn run(&mut self, most: usize) -> (*const E, usize) {
        let block = self.table[self.entry] as usize;
        let at = self.base.wrapping_add(block * self.block_stride + self.slot * self.row);
        let count = most.min(self.block_size - self.slot);
        self.slot += count;
        if self.slot == self.block_size {
            self.slot = 0;
            self.entry += 1;
        }
        (at, count)
    }

    /// Asks for the cache lines of the next `count` positions.
    #[inline(always)]
    fn prefetch<L: Lanes>(&mut self, l: L, mut count: usize) {
        while count > 0 {
            let (at, run) = self.run(count);
            for line in (0..run * self.row * size_of::<E>()).step_by(64) {
                l.prefetch(at.cast::<u8>().wrapping_add(line));
            }
            count -= run;
        }
    }
}

/// Lays out keys: panel `p` is positions `stage + 16 p ..`, `[row][16]`. Positions from `end` on are zero.
#[inline(always)]
pub(super) fn stage_keys<L: Lanes, E: Element>(
    l: L,
    u: &Unified<'_>,
    stage: usize,
    panels: Range<usize>,
    end: usize,
    staged: &mut [f32],
) {
    let width = u.sizes.row;
    let first = stage + panels.start * LANES;
    let last = u.start + u.tokens();
    let mut keys = Walk::<E>::new(u, 0, first);
    // What is wanted soon: the values of these positions, and the keys of the next stage.
    let mut values = Walk::<E>::new(u, 1, first);
    let mut later = Walk::<E>::new(u, 0, first + STAGE);
    let (staged, _) = staged.as_chunks_mut::<LANES>();
    for panel in panels {
        let position = stage + panel * LANES;
        let count = (end - position).min(LANES);
        let mut at = [std::ptr::null(); LANES];
        let mut done = 0;
        while done < count {
            let (first, run) = keys.run(count - done);
            for (i, at) in at[done..done + run].iter_mut().enumerate() {
                *at = first.wrapping_add(i * width);
            }
            done += run;
        }
        values.prefetch(l, count);
        later.prefetch(l, last.saturating_sub(position + STAGE).min(LANES));
        let staged = &mut staged[panel * width..][..width];
        // SAFETY: the batch was checked, so positions below `end` have blocks inside the cache, and a row there has `width`
        // elements.
        unsafe {
            if count == LANES {
                lay_out::<L, E, true>(l, &at, count, staged);
            } else {
                lay_out::<L, E, false>(l, &at, count, staged);
            }
        }
    }
}

/// One panel of keys from the rows at `at`. Those from `count` on are zero; `WHOLE` says that there are none.
///
/// # Safety
/// The first `count` rows must be valid for reading as many elements as `staged` has vectors, a multiple of 16.
#[inline(always)]
unsafe fn lay_out<L: Lanes, E: Element, const WHOLE: bool>(
    l: L,
    at: &[*const E; LANES],
    count: usize,
    staged: &mut [[f32; LANES]],
) {
    for (block, staged) in staged.chunks_exact_mut(LANES).enumerate() {
        let mut rows = [l.splat(0.0); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            if WHOLE || i < count {
                // SAFETY: as the caller promises.
                *row = E::load(l, unsafe { &*at[i].add(block * LANES).cast() });
            }
        }
        l.transpose(&mut rows);
        for (to, row) in staged.iter_mut().zip(rows) {
            l.store(row, to);
        }
    }
}

/// Lays out the values of `positions`: panel `p` is numbers `16 p ..` of the head, `[STAGE][16]`.
#[inline(always)]
pub(super) fn stage_values<L: Lanes, E: Element>(
    l: L,
    u: &Unified<'_>,
    stage: usize,
    positions: Range<usize>,
    staged: &mut [f32],
) {
    let width = u.sizes.row;
    let mut values = Walk::<E>::new(u, 1, positions.start);
    let (staged, _) = staged.as_chunks_mut::<LANES>();
    let mut position = positions.start;
    while position < positions.end {
        let (at, run) = values.run(positions.end - position);
        for panel in 0..width / LANES {
            let staged = &mut staged[panel * STAGE + position - stage..][..run];
            for (i, staged) in staged.iter_mut().enumerate() {
                // SAFETY: the batch was checked, so the positions have a block inside the cache, and a row there has as many
                // elements as the panels have lanes.
                let value = E::load(l, unsafe { &*at.add(i * width + panel * LANES).cast() });
                l.store(value, staged);
            }
        }
        position += run;
    }
}
