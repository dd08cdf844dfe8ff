//! Lays out keys and values for the register tiles: rows of any storage type, found through the block table, become panels of f32
//! that stay in the first-level cache.

use std::ops::Range;

use super::STAGE;
use super::unit::Unified;
use super::walk::Walk;
use crate::kv_dtype::KvElement;
use crate::lanes::{LANES, Lanes};

/// Lays out keys: panel `p` is positions `stage + 16 p ..`, `[row][16]`. Positions from `end` on are zero.
#[inline(always)]
pub(super) fn stage_keys<L: Lanes, E: KvElement>(
    l: L,
    u: &Unified<'_>,
    stage: usize,
    panels: Range<usize>,
    end: usize,
    staged: &mut [f32],
    gathered: &mut [f32],
) {
    let width = u.sizes.row;
    let first = stage + panels.start * LANES;
    let last = u.end();
    let mut keys = Walk::new(u, 0, first);
    // What is wanted soon: the values of these positions, and the keys of the next stage.
    let mut values = Walk::new(u, 1, first);
    let mut later = Walk::new(u, 0, first + STAGE);
    let (staged, _) = staged.as_chunks_mut::<LANES>();
    for panel in panels {
        let position = stage + panel * LANES;
        let count = (end - position).min(LANES);
        values.prefetch(l, count);
        later.prefetch(l, last.saturating_sub(position + STAGE).min(LANES));
        let staged = &mut staged[panel * width..][..width];
        // SAFETY: the batch was checked, so positions below `end` have blocks inside the cache, and a row there has `width`
        // elements.
        unsafe {
            let at = keys.group(count, gathered).cast::<E>();
            if count == LANES {
                lay_out::<L, E, true>(l, at, count, staged);
            } else {
                lay_out::<L, E, false>(l, at, count, staged);
            }
        }
    }
}

/// One panel of keys from the rows from `at` on. Those from `count` on are zero; `WHOLE` says that there are none.
///
/// # Safety
/// The first `count` rows must be valid for reading as many elements as `staged` has vectors, a multiple of 16.
#[inline(always)]
unsafe fn lay_out<L: Lanes, E: KvElement, const WHOLE: bool>(
    l: L,
    at: *const E,
    count: usize,
    staged: &mut [[f32; LANES]],
) {
    let width = staged.len();
    for (block, staged) in staged.chunks_exact_mut(LANES).enumerate() {
        let mut rows = [l.splat(0.0); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            if WHOLE || i < count {
                // SAFETY: as the caller promises.
                *row = E::load(l, unsafe { &*at.add(i * width + block * LANES).cast() });
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
pub(super) fn stage_values<L: Lanes, E: KvElement>(
    l: L,
    u: &Unified<'_>,
    stage: usize,
    positions: Range<usize>,
    staged: &mut [f32],
) {
    let width = u.sizes.row;
    let mut values = Walk::new(u, 1, positions.start);
    let (staged, _) = staged.as_chunks_mut::<LANES>();
    let mut position = positions.start;
    while position < positions.end {
        let (at, run) = values.run(positions.end - position);
        for panel in 0..width / LANES {
            let staged = &mut staged[panel * STAGE + position - stage..][..run];
            for (i, staged) in staged.iter_mut().enumerate() {
                // SAFETY: the batch was checked, so the positions have a block inside the cache, and a row there has as many
                // elements as the panels have lanes.
                let value =
                    E::load(l, unsafe { &*at.cast::<E>().add(i * width + panel * LANES).cast() });
                l.store(value, staged);
            }
        }
        position += run;
    }
}
