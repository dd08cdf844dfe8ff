//! Attention of few rows: what generates one token, whose speed is that of reading keys and values once.
//!
//! Nothing is laid out in memory: sixteen keys become columns in registers, where the queries of the whole group meet them, and
//! values meet all weights while they are there. What comes later is asked for at the pace of the arithmetic: keys
//! of the partition, then its values, then keys of the next.

use std::ops::Range;

use super::PARTITION;
use super::unit::{Scratch, Unified};
use super::walk::Walk;
use crate::kv_dtype::{KvElement, with_kv_element};
use crate::lanes::{LANES, Lanes};

/// The most rows.
pub(super) const MOST: usize = 8;

/// How many positions ahead of the arithmetic keys and values are asked for.
const AHEAD: usize = 32;

/// Rows of the register tiles: the number of rows, rounded up to one that there is code for.
pub(super) fn padded(rows: usize) -> usize {
    match rows {
        1 => 1,
        2..=4 => 4,
        _ => MOST,
    }
}

macro_rules! by_rows {
    ($rows:expr, $f:ident::<$L:ident, $E:ident>($($arg:expr),*)) => {
        match padded($rows) {
            1 => $f::<$L, $E, 1>($($arg),*),
            4 => $f::<$L, $E, 4>($($arg),*),
            // Not for every instruction set: each number of rows costs a lot of code.
            _ if $L::ROWS >= MOST => $f::<$L, $E, MOST>($($arg),*),
            rows => unreachable!("there are no registers for {rows} rows"),
        }
    };
}

/// q·k of all rows and the positions `seen` of a partition (and maybe some more).
#[inline(always)]
pub(super) fn scores<L: Lanes>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    seen: Range<usize>,
    s: &mut Scratch<'_>,
) {
    with_kv_element!(u.job.cache.shape().dtype, E => {
        by_rows!(u.rows(), scores_of::<L, E>(l, u, partition, seen, s));
    });
}

/// Σ weight * value of all rows over the positions `seen` of a partition.
#[inline(always)]
pub(super) fn weigh<L: Lanes>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    seen: Range<usize>,
    s: &mut Scratch<'_>,
) {
    with_kv_element!(u.job.cache.shape().dtype, E => {
        by_rows!(u.rows(), weigh_of::<L, E>(l, u, partition, seen, s));
    });
}

/// Asks for what lies ahead of `position` in the order of reading: the rest of `value`s until `end`, then `count` positions of
/// what is read `after`.
#[inline(always)]
fn look_ahead<L: Lanes, E: KvElement>(
    l: L,
    u: &Unified<'_>,
    value: usize,
    position: usize,
    end: usize,
    after: &Range<usize>,
) {
    let wanted = position + AHEAD;
    if wanted < end {
        Walk::<E>::new(u, value, wanted).prefetch(l, LANES.min(end - wanted));
    } else {
        let wanted = after.start + (wanted - end);
        if wanted < after.end {
            Walk::<E>::new(u, 1 - value, wanted).prefetch(l, LANES.min(after.end - wanted));
        }
    }
}

#[inline(always)]
fn scores_of<L: Lanes, E: KvElement, const R: usize>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    seen: Range<usize>,
    s: &mut Scratch<'_>,
) {
    let origin = partition * PARTITION;
    let first = seen.start - (seen.start - origin) % LANES;
    let mut keys = Walk::<E>::new(u, 0, first);
    for position in (first..seen.end).step_by(LANES) {
        let at = keys.rows((seen.end - position).min(LANES));
        look_ahead::<L, E>(l, u, 0, position, seen.end, &seen);
        // SAFETY: the batch was checked, so positions that are seen have blocks inside the cache, and a row there has as many
        // elements as the panels have lanes; the queries were packed for R rows.
        let scores = unsafe { columns::<L, E, R>(l, u, &at, s.queries) };
        for (row, score) in scores.into_iter().enumerate().take(u.rows()) {
            let (scores, _) = s.scores[row * PARTITION..][..PARTITION].as_chunks_mut();
            l.store(score, &mut scores[(position - origin) / LANES]);
        }
    }
}

/// q·k of R rows and the sixteen keys at `at`; the chain of a score runs over the head in order.
///
/// # Safety
/// `at` must be valid for reading a row each, and there must be `head_dim * R` queries, `[head_dim][R]`.
#[inline(always)]
unsafe fn columns<L: Lanes, E: KvElement, const R: usize>(
    l: L,
    u: &Unified<'_>,
    at: &[*const E; LANES],
    queries: &[f32],
) -> [L::V; R] {
    let dim = u.sizes.head_dim;
    let mut sums = [l.splat(0.0); R];
    let (queries, _) = queries.as_chunks::<R>();
    let packed = LANES * E::PACKED;
    let mut done = 0;
    // Whole lanes are moved, and widened when they are needed. Fixed bounds, so that all of it stays in registers.
    while L::ROWS >= MOST && E::PACKED > 0 && done + packed <= dim {
        let mut keys = [l.splat(0.0); LANES];
        for (key, at) in keys.iter_mut().zip(at) {
            // SAFETY: as the caller promises; any bits are floats.
            *key = l.load(&unsafe { at.add(done).cast::<[f32; LANES]>().read_unaligned() });
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
        for (key, at) in keys.iter_mut().zip(at) {
            // SAFETY: as the caller promises.
            *key = E::load(l, unsafe { &*at.add(done).cast() });
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
    seen: Range<usize>,
    s: &mut Scratch<'_>,
) {
    let mut done = 0;
    let panels = u.sizes.row / LANES;
    // As many sums as there are registers for; not every number of panels, each costs code.
    if R == MOST {
        while done + 2 <= panels {
            weigh_panels::<L, E, R, 2>(l, u, partition, &seen, done, s);
            done += 2;
        }
    } else {
        while done + 4 <= panels {
            weigh_panels::<L, E, R, 4>(l, u, partition, &seen, done, s);
            done += 4;
        }
    }
    while done < panels {
        weigh_panels::<L, E, R, 1>(l, u, partition, &seen, done, s);
        done += 1;
    }
}

/// P vectors of the sums.
#[inline(always)]
fn weigh_panels<L: Lanes, E: KvElement, const R: usize, const P: usize>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    seen: &Range<usize>,
    first: usize,
    s: &mut Scratch<'_>,
) {
    let width = u.sizes.row;
    let origin = partition * PARTITION;
    let next = u.seen_after(partition);
    let mut values = Walk::<E>::new(u, 1, seen.start);
    let mut sums = [[l.splat(0.0); P]; R];
    let mut position = seen.start;
    let mut asked = seen.start;
    while position < seen.end {
        let (at, run) = values.run((seen.end - position).min(LANES));
        if first == 0 && position >= asked {
            look_ahead::<L, E>(l, u, 1, position, seen.end, &next);
            asked += LANES;
        }
        for i in 0..run {
            let mut value = [l.splat(0.0); P];
            for (p, value) in value.iter_mut().enumerate() {
                // SAFETY: the batch was checked, so positions that are seen have blocks inside the cache, and a row there has as
                // many elements as the panels have lanes.
                *value = E::load(l, unsafe { &*at.add(i * width + (first + p) * LANES).cast() });
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: there are scores for R rows, and the position is in the partition.
                let weight =
                    unsafe { *s.scores.get_unchecked(r * PARTITION + position + i - origin) };
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = l.fma(value, l.splat(weight), *sum);
                }
            }
        }
        position += run;
    }
    for (row, sums) in sums.into_iter().enumerate().take(u.rows()) {
        let (to, _) = s.partition.sums[row * width..][..width].as_chunks_mut();
        for (to, sum) in to[first..].iter_mut().zip(sums) {
            l.store(sum, to);
        }
    }
}
