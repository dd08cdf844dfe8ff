//! Attention of few rows: what generates one token, whose speed is that of reading keys and values once.
//!
//! Nothing is laid out in memory: sixteen keys become columns in registers, where the queries of the whole group meet them, and
//! values meet all weights while they are there. What comes later is asked for at the pace of the arithmetic (see `ahead`).

use std::ops::Range;

use super::ahead::{Ahead, read};
use super::unit::{Scratch, Unified};
use super::walk::{LINE, Walk};
use super::{PARTITION, Sizes};
use crate::kv_dtype::{KvElement, with_kv_element};
use crate::lanes::{LANES, Lanes};

/// The most rows.
pub(super) const MOST: usize = 8;

/// Rows of the register tiles: the number of rows, rounded up to one that there is code for.
pub(super) fn padded(rows: usize) -> usize {
    match rows {
        1 => 1,
        2..=4 => 4,
        _ => MOST,
    }
}

macro_rules! by_rows {
    ($rows:expr, $f:ident::<$L:ident, $E:ident>($l:ident, $($arg:ident),*)) => {
        match padded($rows) {
            1 => $l.call(#[inline(always)] || $f::<$L, $E, 1>($l, $($arg),*)),
            4 => $l.call(#[inline(always)] || $f::<$L, $E, 4>($l, $($arg),*)),
            // Not for every instruction set: each number of rows costs a lot of code.
            _ if $L::ROWS >= MOST => {
                $l.call(#[inline(always)] || $f::<$L, $E, MOST>($l, $($arg),*))
            }
            rows => unreachable!("there are no registers for {rows} rows"),
        }
    };
}

/// q·k of all rows and all positions of a partition that they see (and maybe some more).
#[inline(always)]
pub(super) fn scores<L: Lanes>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    ahead: &mut Ahead<'_>,
    s: &mut Scratch<'_>,
) {
    with_kv_element!(u.job.cache.shape().dtype, E => {
        by_rows!(u.head_rows(), scores_of::<L, E>(l, u, partition, ahead, s));
    });
}

/// Σ weight * value of all rows over the positions of a partition.
#[inline(always)]
pub(super) fn weigh<L: Lanes>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    ahead: &mut Ahead<'_>,
    s: &mut Scratch<'_>,
) {
    with_kv_element!(u.job.cache.shape().dtype, E => {
        by_rows!(u.head_rows(), weigh_of::<L, E>(l, u, partition, ahead, s));
    });
}

#[inline(always)]
fn scores_of<L: Lanes, E: KvElement, const R: usize>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    ahead: &mut Ahead<'_>,
    s: &mut Scratch<'_>,
) {
    let origin = partition * PARTITION;
    let rows = u.head_rows();
    let mut left = read(u, partition);
    let end = left.end;
    let mut keys = Walk::new(u, 0, left.start);
    while let Some((keys, positions)) = keys.stretch(&mut left) {
        for head in 0..u.heads.len() {
            let mut keys = keys.later_head(head);
            let queries = &s.queries[head * R * u.sizes.head_dim..];
            for position in positions.clone().step_by(LANES) {
                let later = ahead.next(l);
                // SAFETY: the batch was checked, so positions that are seen have blocks inside the cache, and a row there has as
                // many elements as the panels have lanes; the queries were packed for R rows.
                let scores = unsafe {
                    let at = keys.group((end - position).min(LANES), s.gathered);
                    columns::<L, E, R>(l, u, at.cast(), later, queries)
                };
                let places = s.scores[head * rows * PARTITION..].chunks_exact_mut(PARTITION);
                for (place, score) in places.zip(scores).take(rows) {
                    let (place, _) = place.as_chunks_mut();
                    l.store(score, &mut place[(position - origin) / LANES]);
                }
            }
        }
    }
}

/// q·k of R rows and the sixteen keys from `at` on; the chain of a score runs over the head in order. Asks for as much from
/// `later` on.
///
/// # Safety
/// `at` must be valid for reading sixteen rows, and there must be `head_dim * R` queries, `[head_dim][R]`.
#[inline(always)]
unsafe fn columns<L: Lanes, E: KvElement, const R: usize>(
    l: L,
    u: &Unified<'_>,
    at: *const E,
    later: *const u8,
    queries: &[f32],
) -> [L::V; R] {
    let Sizes { head_dim: dim, row: width, .. } = u.sizes;
    let mut sums = [l.splat(0.0); R];
    let (queries, _) = queries.as_chunks::<R>();
    let packed = LANES * E::PACKED;
    let mut done = 0;
    // Whole lanes are moved, and widened when they are needed. Fixed bounds, so that all of it stays in registers.
    while L::ROWS >= MOST && E::PACKED > 0 && done + packed <= dim {
        let mut keys = [l.splat(0.0); LANES];
        for (i, key) in keys.iter_mut().enumerate() {
            l.prefetch(later.wrapping_add(LANES * done * size_of::<E>() + i * LINE));
            // SAFETY: as the caller promises; any bits are floats.
            *key = l
                .load(&unsafe { at.add(i * width + done).cast::<[f32; LANES]>().read_unaligned() });
        }
        l.transpose(&mut keys);
        let queries = &queries[done..done + packed];
        for i in 0..LANES {
            let numbers = E::unpack(l, keys[i]);
            for j in 0..E::PACKED {
                for r in 0..R {
                    sums[r] = l.fma(numbers[j], l.splat(queries[i * E::PACKED + j][r]), sums[r]);
                }
            }
        }
        done += packed;
    }
    while done < dim {
        let mut keys = [l.splat(0.0); LANES];
        for (i, key) in keys.iter_mut().enumerate() {
            if i < LANES * size_of::<E>() * LANES / LINE {
                l.prefetch(later.wrapping_add(LANES * done * size_of::<E>() + i * LINE));
            }
            // SAFETY: as the caller promises.
            *key = E::load(l, unsafe { &*at.add(i * width + done).cast() });
        }
        l.transpose(&mut keys);
        for (key, queries) in keys.iter().zip(&queries[done..dim]) {
            for (sum, query) in sums.iter_mut().zip(queries) {
                *sum = l.fma(*key, l.splat(*query), *sum);
            }
        }
        done += LANES;
    }
    sums
}

#[inline(always)]
fn weigh_of<L: Lanes, E: KvElement, const R: usize>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    ahead: &mut Ahead<'_>,
    s: &mut Scratch<'_>,
) {
    let panels = u.sizes.row / LANES;
    let (rows, seen) = (u.head_rows(), u.seen_by_any(partition));
    let mut left = read(u, partition);
    let mut values = Walk::new(u, 1, left.start);
    while let Some((values, positions)) = values.stretch(&mut left) {
        for head in 0..u.heads.len() {
            let part = Values {
                values: values.later_head(head),
                positions: positions.clone(),
                seen: seen.clone(),
                rows: head * rows..(head + 1) * rows,
                origin: partition * PARTITION,
            };
            let mut done = 0;
            // As many sums as there are registers for; not every number of panels, each costs code.
            if R == MOST {
                while done + 2 <= panels {
                    weigh_panels::<L, E, R, 2>(l, u, &part, done, ahead, s);
                    done += 2;
                }
            } else {
                while done + 4 <= panels {
                    weigh_panels::<L, E, R, 4>(l, u, &part, done, ahead, s);
                    done += 4;
                }
            }
            while done < panels {
                weigh_panels::<L, E, R, 1>(l, u, &part, done, ahead, s);
                done += 1;
            }
        }
    }
}

/// Values of one head that are in one block.
struct Values<'a> {
    values: Walk<'a>,
    positions: Range<usize>,
    /// Positions of the partition that are seen.
    seen: Range<usize>,
    /// The head's, of the unit's.
    rows: Range<usize>,
    /// Where the partition begins.
    origin: usize,
}

/// P vectors of the sums, which go on where the block before left them. Those of the first panels bring the values near, and ask for
/// what comes later.
#[inline(always)]
fn weigh_panels<L: Lanes, E: KvElement, const R: usize, const P: usize>(
    l: L,
    u: &Unified<'_>,
    part: &Values<'_>,
    first: usize,
    ahead: &mut Ahead<'_>,
    s: &mut Scratch<'_>,
) {
    let width = u.sizes.row;
    let Values { seen, rows, origin, .. } = part;
    let bytes = width * size_of::<E>();
    let mut values = part.values;
    let weights = &s.scores[rows.start * PARTITION..];
    let mut sums = [[l.splat(0.0); P]; R];
    if part.positions.start > seen.start {
        let held = s.partition.sums[rows.start * width..rows.end * width].chunks_exact(width);
        for (sums, held) in sums.iter_mut().zip(held) {
            let (held, _) = held.as_chunks();
            for (sum, held) in sums.iter_mut().zip(&held[first..]) {
                *sum = l.load(held);
            }
        }
    }
    for position in part.positions.clone().step_by(LANES) {
        let count = (seen.end - position).min(LANES);
        // SAFETY: the batch was checked, so positions that are seen have blocks inside the cache.
        let at = unsafe { values.group(count, s.gathered) }.cast::<E>();
        let later = if first == 0 { ahead.next(l) } else { std::ptr::null() };
        for i in seen.start.saturating_sub(position)..count {
            if first == 0 {
                for line in (0..bytes).step_by(LINE) {
                    l.prefetch(later.wrapping_add(i * bytes + line));
                }
            }
            let mut value = [l.splat(0.0); P];
            for (p, value) in value.iter_mut().enumerate() {
                // SAFETY: a row of the group has as many elements as the panels have lanes.
                *value = E::load(l, unsafe { &*at.add(i * width + (first + p) * LANES).cast() });
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: there are scores for R rows from each head's first on, and the position is in the partition.
                let weight =
                    unsafe { *weights.get_unchecked(r * PARTITION + position + i - origin) };
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = l.fma(value, l.splat(weight), *sum);
                }
            }
        }
    }
    let held = s.partition.sums[rows.start * width..rows.end * width].chunks_exact_mut(width);
    for (sums, held) in sums.into_iter().zip(held) {
        let (held, _) = held.as_chunks_mut();
        for (sum, held) in sums.into_iter().zip(&mut held[first..]) {
            l.store(sum, held);
        }
    }
}
