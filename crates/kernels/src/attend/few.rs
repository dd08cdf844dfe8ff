//! Attention of few rows: what generates one token, whose speed is that of reading keys and values once.
//!
//! Nothing is laid out in memory: sixteen keys become columns in registers, where the queries of the whole group meet them, and
//! values meet all weights while they are there. What comes later is asked for at the pace of the arithmetic (see `ahead`).

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
        by_rows!(u.rows(), scores_of::<L, E>(l, u, partition, ahead, s));
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
        by_rows!(u.rows(), weigh_of::<L, E>(l, u, partition, ahead, s));
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
    let positions = read(u, partition);
    let mut walk = Walk::new(u, 0, positions.start);
    for position in positions.clone().step_by(LANES) {
        let later = ahead.next(l);
        // SAFETY: the batch was checked, so positions that are seen have blocks inside the cache, and a row there has as many
        // elements as the panels have lanes; the queries were packed for R rows.
        let scores = unsafe {
            let at = walk.group((positions.end - position).min(LANES), s.room);
            columns::<L, E, R>(l, u, at.cast(), later, s.queries)
        };
        for (row, score) in scores.into_iter().enumerate().take(u.rows()) {
            let (scores, _) = s.scores[row * PARTITION..][..PARTITION].as_chunks_mut();
            l.store(score, &mut scores[(position - origin) / LANES]);
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
    let mut done = 0;
    let panels = u.sizes.row / LANES;
    // As many sums as there are registers for; not every number of panels, each costs code.
    if R == MOST {
        while done + 2 <= panels {
            weigh_panels::<L, E, R, 2>(l, u, partition, done, ahead, s);
            done += 2;
        }
    } else {
        while done + 4 <= panels {
            weigh_panels::<L, E, R, 4>(l, u, partition, done, ahead, s);
            done += 4;
        }
    }
    while done < panels {
        weigh_panels::<L, E, R, 1>(l, u, partition, done, ahead, s);
        done += 1;
    }
}

/// P vectors of the sums. Those of the first panels bring the values near, and ask for what comes later.
#[inline(always)]
fn weigh_panels<L: Lanes, E: KvElement, const R: usize, const P: usize>(
    l: L,
    u: &Unified<'_>,
    partition: usize,
    first: usize,
    ahead: &mut Ahead<'_>,
    s: &mut Scratch<'_>,
) {
    let width = u.sizes.row;
    let origin = partition * PARTITION;
    let seen = u.seen_by_any(partition);
    let positions = read(u, partition);
    let bytes = width * size_of::<E>();
    let mut values = Walk::new(u, 1, positions.start);
    let mut sums = [[l.splat(0.0); P]; R];
    for position in positions.clone().step_by(LANES) {
        let count = (seen.end - position).min(LANES);
        // SAFETY: the batch was checked, so positions that are seen have blocks inside the cache.
        let at = unsafe { values.group(count, s.room) }.cast::<E>();
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
                // SAFETY: there are scores for R rows, and the position is in the partition.
                let weight =
                    unsafe { *s.scores.get_unchecked(r * PARTITION + position + i - origin) };
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = l.fma(value, l.splat(weight), *sum);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate().take(u.rows()) {
        let (to, _) = s.partition.sums[row * width..][..width].as_chunks_mut();
        for (to, sum) in to[first..].iter_mut().zip(sums) {
            l.store(sum, to);
        }
    }
}
