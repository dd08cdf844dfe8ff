//! From scores to weights, and the merging of partitions.

use std::ops::Range;

use super::unit::{Scratch, Unified};
use super::walk::scales;
use super::{PARTITION, Sizes};
use crate::lanes::{LANES, Lanes};
use crate::math::{exp, tanh};

/// Unfinished softmax-weighted sums of some (token, head) pairs.
pub(super) struct Softmax<'a> {
    /// `[rows][row]`
    pub(super) sums: &'a mut [f32],
    /// The largest score.
    max: &'a mut [f32],
    /// Σ exp(score - max)
    pub(super) weight: &'a mut [f32],
}

impl<'a> Softmax<'a> {
    pub(super) fn new(floats: &'a mut [f32], rows: usize, sizes: Sizes) -> Self {
        let (sums, rest) = floats.split_at_mut(rows * sizes.row);
        let (max, weight) = rest.split_at_mut(rows);
        Self { sums, max, weight: &mut weight[..rows] }
    }

    pub(super) fn clear(&mut self) {
        self.sums.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
    }

    /// Takes over a row of `from`.
    pub(super) fn copy(&mut self, row: usize, from: &Softmax<'_>, from_row: usize, width: usize) {
        self.max[row] = from.max[from_row];
        self.weight[row] = from.weight[from_row];
        self.sums[row * width..][..width].copy_from_slice(&from.sums[from_row * width..][..width]);
    }

    /// Adds the next partition of a row.
    #[inline(always)]
    pub(super) fn merge<L: Lanes>(
        &mut self,
        l: L,
        row: usize,
        part: &Softmax<'_>,
        part_row: usize,
        width: usize,
    ) {
        let (old, new) = (self.max[row], part.max[part_row]);
        let max = if old > new { old } else { new };
        // Not a closure: it would not be compiled for the instruction set.
        let (a, b) = (exp_of(l, old - max), exp_of(l, new - max));
        self.max[row] = max;
        self.weight[row] = self.weight[row].mul_add(a, part.weight[part_row] * b);
        let (a, b) = (l.splat(a), l.splat(b));
        let (sums, _) = self.sums[row * width..][..width].as_chunks_mut::<LANES>();
        let (parts, _) = part.sums[part_row * width..][..width].as_chunks::<LANES>();
        for (sum, part) in sums.iter_mut().zip(parts) {
            l.store(l.fma(l.load(sum), a, l.mul(l.load(part), b)), sum);
        }
    }
}

/// Turns scores into weights exp(score - max), times the scales of values; notes the maximum and the sum.
#[inline(always)]
pub(super) fn softmax<L: Lanes>(l: L, u: &Unified<'_>, partition: usize, s: &mut Scratch<'_>) {
    let origin = partition * PARTITION;
    let any = u.seen_by_any(partition);
    let scaled = u.job.cache.shape().dtype.scale_bytes() > 0;
    let (key_scales, value_scales) = s.scales.split_at_mut(PARTITION);
    for row in 0..u.rows() {
        if scaled && row % u.head_rows() == 0 {
            for (value, to) in [&mut *key_scales, &mut *value_scales].into_iter().enumerate() {
                let to = &mut to[any.start - origin..any.end - origin];
                scales(u, value, u.kv_head(row), any.start, to);
            }
        }
        let (key_scales, _) = key_scales.as_chunks::<LANES>();
        let (value_scales, _) = value_scales.as_chunks::<LANES>();
        let seen = u.seen(u.token(row), partition);
        if seen.is_empty() {
            continue;
        }
        let vectors = (seen.start - origin) / LANES..(seen.end - origin).div_ceil(LANES);
        let (scores, _) = s.scores[row * PARTITION..][..PARTITION].as_chunks_mut::<LANES>();
        let scores = &mut scores[vectors.clone()];
        if scaled {
            for (score, scale) in scores.iter_mut().zip(&key_scales[vectors.clone()]) {
                l.store(l.mul(l.load(score), l.load(scale)), score);
            }
        }
        let max = shape_scores(l, u, row, &seen, origin + vectors.start * LANES, scores);
        let mut sum = l.splat(0.0);
        for score in scores.iter_mut() {
            let weight = exp(l, l.sub(l.load(score), l.splat(max)));
            l.store(weight, score);
            sum = l.add(sum, weight);
        }
        if scaled {
            for (weight, scale) in scores.iter_mut().zip(&value_scales[vectors]) {
                l.store(l.mul(l.load(weight), l.load(scale)), weight);
            }
        }
        s.partition.max[row] = max;
        s.partition.weight[row] = l.fold_add(sum);
    }
}

/// Scales, caps and masks a row's scores, the first of which is of position `first`; returns the largest.
#[inline(always)]
fn shape_scores<L: Lanes>(
    l: L,
    u: &Unified<'_>,
    row: usize,
    seen: &Range<usize>,
    first: usize,
    scores: &mut [[f32; LANES]],
) -> f32 {
    let spec = u.job.spec;
    // Positions relative to the row's own, exact in f32.
    #[expect(clippy::cast_precision_loss, reason = "a context is below 2^24 positions")]
    let relative = |position: usize| position as f32 - u.position(u.token(row)) as f32;
    let lanes = l.load(&std::array::from_fn(|i| {
        #[expect(clippy::cast_precision_loss, reason = "16 is exact")]
        let lane = i as f32;
        lane
    }));
    let (low, high) = (l.splat(relative(seen.start) - 0.5), l.splat(relative(seen.end) - 0.5));
    let never = l.splat(f32::NEG_INFINITY);
    let mut max = never;
    for (i, score) in scores.iter_mut().enumerate() {
        let position = first + i * LANES;
        if spec.softcap.is_none() && position >= seen.start && position + LANES <= seen.end {
            let x = l.mul(l.load(score), l.splat(spec.scale));
            l.store(x, score);
            max = l.max(x, max);
            continue;
        }
        let at = l.add(l.splat(relative(position)), lanes);
        let mut x = l.mul(l.load(score), l.splat(spec.scale));
        if let Some(cap) = spec.softcap {
            x = l.mul(l.splat(cap), tanh(l, l.div(x, l.splat(cap))));
        }
        x = l.select_gt(at, low, l.select_gt(high, at, x, never), never);
        l.store(x, score);
        max = l.max(x, max);
    }
    l.fold_max(max)
}

#[inline(always)]
fn exp_of<L: Lanes>(l: L, x: f32) -> f32 {
    l.fold_max(exp(l, l.splat(x)))
}
