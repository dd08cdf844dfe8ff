//! The arithmetic of attention for one unit of work.
//!
//! Keys of 64 positions at a time are widened and transposed into panels of 16 positions, values into panels of 16 numbers of the
//! head; then both products are those of linear layers and use the same register tiles. The work of laying out is shared by
//! all tokens of the unit and all query heads of the group.
//!
//! Bits: a score is one chain of fused multiply-adds over the head in order; the sum of weights runs in sixteen lanes over
//! positions modulo 16; an output is one chain over positions in order, begun anew in each partition.

use std::ops::Range;

use super::stage::{stage_keys, stage_values};
use super::{Job, PARTITION, SLACK, STAGE, STAGED_SLACK, Sizes, Unit, visible};
use crate::dtype::with_element;
use crate::lanes::{LANES, Lanes};
use crate::math::{exp, tanh};
use crate::tile::{Deal, Dealt, RowMajor, StepMajor, Tile, size_within, tiles};

/// Scratch of one unit, cut up.
struct Scratch<'a> {
    /// Register tiles of queries, `[head_dim][rows of the tile]` each.
    queries: &'a mut [f32],
    /// `[rows][PARTITION]`
    scores: &'a mut [f32],
    /// Keys as `[STAGE / 16][row][16]`, values as `[row / 16][STAGE][16]`.
    staged: &'a mut [f32],
    /// Of the current partition.
    partition: Softmax<'a>,
    /// Of all partitions so far.
    total: Softmax<'a>,
}

/// Unfinished softmax-weighted sums of some (token, head) pairs.
struct Softmax<'a> {
    /// `[rows][row]`
    sums: &'a mut [f32],
    /// The largest score.
    max: &'a mut [f32],
    /// Σ exp(score - max)
    weight: &'a mut [f32],
}

impl<'a> Softmax<'a> {
    fn new(floats: &'a mut [f32], rows: usize, sizes: Sizes) -> Self {
        let (sums, rest) = floats.split_at_mut(rows * sizes.row);
        let (max, weight) = rest.split_at_mut(rows);
        Self { sums, max, weight: &mut weight[..rows] }
    }

    fn clear(&mut self) {
        self.sums.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
    }
}

impl<'a> Scratch<'a> {
    fn new(floats: &'a mut [f32], rows: usize, sizes: Sizes) -> Self {
        let (queries, rest) = floats.split_at_mut((rows + SLACK) * sizes.head_dim);
        let (scores, rest) = rest.split_at_mut((rows + SLACK) * PARTITION);
        let (staged, rest) = rest.split_at_mut(STAGE * sizes.row + STAGED_SLACK);
        let (partition, total) = rest.split_at_mut(sizes.partial(rows));
        let partition = Softmax::new(partition, rows, sizes);
        Self { queries, scores, staged, partition, total: Softmax::new(total, rows, sizes) }
    }
}

/// What the steps of a unit have in common.
pub(super) struct Unified<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) unit: &'a Unit,
    pub(super) sizes: Sizes,
    /// Position of the unit's first token.
    pub(super) start: usize,
    pub(super) table: &'a [u32],
}

impl<'a> Unified<'a> {
    fn new(job: &'a Job<'a>, unit: &'a Unit) -> Self {
        let row = &job.batch.rows[unit.row];
        Self {
            job,
            unit,
            sizes: job.sizes,
            start: row.start + unit.tokens.start,
            table: job.batch.table(row),
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.unit.tokens.len()
    }

    fn rows(&self) -> usize {
        self.tokens() * self.sizes.group
    }

    /// Positions that token `token` of the unit sees in a partition; maybe none.
    fn seen(&self, token: usize, partition: usize) -> Range<usize> {
        intersect(visible(self.job.spec, self.start + token), partition * PARTITION, PARTITION)
    }

    /// Positions of a partition that any token of the unit sees.
    fn seen_by_any(&self, partition: usize) -> Range<usize> {
        let (first, last) = (self.seen(0, partition), self.seen(self.tokens() - 1, partition));
        first.start.min(last.start)..last.end.max(first.end)
    }

    /// Rows of q and out.
    fn token(&self, token: usize) -> usize {
        self.job.batch.rows[self.unit.row].tokens.start + self.unit.tokens.start + token
    }
}

/// What of `range` lies in `start .. start + length`; empty ranges begin and end at the nearer border.
fn intersect(range: Range<usize>, start: usize, length: usize) -> Range<usize> {
    let end = start + length;
    range.start.clamp(start, end)..range.end.clamp(start, end)
}

/// Attends for one unit: writes its output, or the results of its partitions.
#[inline(always)]
pub(crate) fn unit<L: Lanes>(l: L, job: &Job<'_>, unit: &Unit, scratch: &mut [f32]) {
    let u = Unified::new(job, unit);
    let rows = u.rows();
    let mut s = Scratch::new(scratch, rows, u.sizes);
    pack_queries(l, &u, s.queries);
    s.total.clear();
    for partition in unit.partitions.clone() {
        scores(l, &u, partition, &mut s);
        softmax(l, &u, partition, &mut s);
        weigh_values(l, &u, partition, &mut s);
        match unit.partial {
            Some(at) => {
                let size = u.sizes.partial(rows);
                let at = at + (partition - unit.partitions.start) * size;
                // SAFETY: every partition of every split unit has its own place.
                let to = Softmax::new(unsafe { job.partials.part(at, size) }, rows, u.sizes);
                to.sums.copy_from_slice(s.partition.sums);
                to.max.copy_from_slice(s.partition.max);
                to.weight.copy_from_slice(s.partition.weight);
            }
            None => {
                for row in 0..rows {
                    if !u.seen(row / u.sizes.group, partition).is_empty() {
                        merge_row(l, &mut s.total, &s.partition, row, u.sizes.row);
                    }
                }
            }
        }
    }
    if unit.partial.is_none() {
        write(&u, &s.total);
    }
}

/// Merges the partitions of a unit that was split, and writes its output.
#[inline(always)]
pub(crate) fn merge<L: Lanes>(l: L, job: &Job<'_>, unit: &Unit, scratch: &mut [f32]) {
    let u = Unified::new(job, unit);
    let rows = u.rows();
    let size = u.sizes.partial(rows);
    let mut total = Scratch::new(scratch, rows, u.sizes).total;
    total.clear();
    for (i, _) in unit.partitions.clone().enumerate() {
        // SAFETY: the pieces are finished, and each split unit is merged by one thread.
        let part = unsafe { job.partials.part(unit.partial.unwrap_or(0) + i * size, size) };
        let part = Softmax::new(part, rows, u.sizes);
        for row in 0..rows {
            merge_row(l, &mut total, &part, row, u.sizes.row);
        }
    }
    write(&u, &total);
}

/// Adds the next partition of a row.
#[inline(always)]
fn merge_row<L: Lanes>(
    l: L,
    total: &mut Softmax<'_>,
    part: &Softmax<'_>,
    row: usize,
    width: usize,
) {
    let (old, new) = (total.max[row], part.max[row]);
    let max = if old > new { old } else { new };
    // Not a closure: it would not be compiled for the instruction set.
    let (a, b) = (exp_of(l, old - max), exp_of(l, new - max));
    total.max[row] = max;
    total.weight[row] = total.weight[row].mul_add(a, part.weight[row] * b);
    let (a, b) = (l.splat(a), l.splat(b));
    let (sums, _) = total.sums[row * width..][..width].as_chunks_mut::<LANES>();
    let (parts, _) = part.sums[row * width..][..width].as_chunks::<LANES>();
    for (sum, part) in sums.iter_mut().zip(parts) {
        l.store(l.fma(l.load(sum), a, l.mul(l.load(part), b)), sum);
    }
}

#[inline(always)]
fn exp_of<L: Lanes>(l: L, x: f32) -> f32 {
    l.fold_max(exp(l, l.splat(x)))
}

/// Divides by the weights and writes the output.
#[inline(always)]
fn write(u: &Unified<'_>, total: &Softmax<'_>) {
    let Sizes { group, head_dim, row: width, .. } = u.sizes;
    for row in 0..u.rows() {
        let head = u.unit.kv_head * group + row % group;
        let at = (u.token(row / group) * u.job.spec.heads + head) * head_dim;
        // SAFETY: each head of each token belongs to one unit.
        let out = unsafe { u.job.out.part(at, head_dim) };
        let inverse = 1.0 / total.weight[row];
        for (out, sum) in out.iter_mut().zip(&total.sums[row * width..]) {
            *out = sum * inverse;
        }
    }
}

#[inline(always)]
fn pack_queries<L: Lanes>(_: L, u: &Unified<'_>, queries: &mut [f32]) {
    let Sizes { group, head_dim, .. } = u.sizes;
    let deal = Deal::new(u.rows(), L::ROWS);
    for i in 0..deal.tiles() {
        let Dealt { first, count, padded } = deal.tile(i);
        let tile = &mut queries[first * head_dim..][..padded * head_dim];
        if count < padded {
            tile.fill(0.0);
        }
        for row in 0..count {
            let (token, head) =
                ((first + row) / group, u.unit.kv_head * group + (first + row) % group);
            let q = &u.job.q.row(u.token(token))[head * head_dim..][..head_dim];
            for (tile, q) in tile.chunks_exact_mut(padded).zip(q) {
                tile[row] = *q;
            }
        }
    }
}

/// q·k of all rows and all positions of a partition that any token sees (and maybe some more).
#[inline(always)]
fn scores<L: Lanes>(l: L, u: &Unified<'_>, partition: usize, s: &mut Scratch<'_>) {
    let Sizes { head_dim, row: width, .. } = u.sizes;
    let seen = u.seen_by_any(partition);
    let origin = partition * PARTITION;
    for stage in (origin..origin + PARTITION).step_by(STAGE) {
        let here = intersect(seen.clone(), stage, STAGE);
        if here.is_empty() {
            continue;
        }
        let panels = (here.start - stage) / LANES..(here.end - stage).div_ceil(LANES);
        with_element!(u.job.cache.shape().dtype, E => {
            stage_keys::<L, E>(l, u, stage, panels.clone(), here.end, s.staged);
        });
        let deal = Deal::new(u.rows(), L::ROWS);
        for i in 0..deal.tiles() {
            let Dealt { first, padded, .. } = deal.tile(i);
            let column = stage - origin + panels.start * LANES;
            // SAFETY: the staged panels hold `width >= head_dim` steps (even: a multiple of 8), the queries of the tile
            // `head_dim * padded` floats, and the scores a row of PARTITION for each row and the padding.
            unsafe {
                let tile = Tile {
                    steps: head_dim,
                    first: true,
                    weights: s.staged[panels.start * width * LANES..].as_ptr(),
                    panel_stride: width * LANES,
                    x: s.queries[first * head_dim..].as_ptr(),
                    sums: s.scores[first * PARTITION + column..].as_mut_ptr(),
                    sums_stride: PARTITION,
                };
                tiles::<L, f32, StepMajor<false>>(l, &tile, padded, panels.len());
            }
        }
    }
}

/// Turns scores into weights exp(score - max); notes the maximum and the sum.
#[inline(always)]
fn softmax<L: Lanes>(l: L, u: &Unified<'_>, partition: usize, s: &mut Scratch<'_>) {
    for row in 0..u.rows() {
        let seen = u.seen(row / u.sizes.group, partition);
        if seen.is_empty() {
            continue;
        }
        let origin = partition * PARTITION;
        let vectors = (seen.start - origin) / LANES..(seen.end - origin).div_ceil(LANES);
        let (scores, _) = s.scores[row * PARTITION..][..PARTITION].as_chunks_mut::<LANES>();
        let scores = &mut scores[vectors.clone()];
        let max = shape_scores(l, u, row, &seen, origin + vectors.start * LANES, scores);
        let mut sum = l.splat(0.0);
        for score in scores {
            let weight = exp(l, l.sub(l.load(score), l.splat(max)));
            l.store(weight, score);
            sum = l.add(sum, weight);
        }
        s.partition.max[row] = max;
        s.partition.weight[row] = l.fold_add(sum);
    }
}

/// Scales, caps, biases and masks a row's scores, the first of which is of position `first`; returns the largest.
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
    let group = u.sizes.group;
    let slope = spec.alibi.as_ref().map(|slopes| slopes[u.unit.kv_head * group + row % group]);
    // Positions relative to the row's own, exact in f32.
    #[expect(clippy::cast_precision_loss, reason = "a context is below 2^24 positions")]
    let relative = |position: usize| position as f32 - (u.start + row / group) as f32;
    let lanes = l.load(&std::array::from_fn(|i| {
        #[expect(clippy::cast_precision_loss, reason = "16 is exact")]
        let lane = i as f32;
        lane
    }));
    let (low, high) = (l.splat(relative(seen.start) - 0.5), l.splat(relative(seen.end) - 0.5));
    let never = l.splat(f32::NEG_INFINITY);
    let mut max = never;
    for (i, score) in scores.iter_mut().enumerate() {
        let at = l.add(l.splat(relative(first + i * LANES)), lanes);
        let mut x = l.mul(l.load(score), l.splat(spec.scale));
        if let Some(cap) = spec.softcap {
            x = l.mul(l.splat(cap), tanh(l, l.div(x, l.splat(cap))));
        }
        if let Some(slope) = slope {
            x = l.fma(at, l.splat(slope), x);
        }
        x = l.select_gt(at, low, l.select_gt(high, at, x, never), never);
        l.store(x, score);
        max = l.max(x, max);
    }
    l.fold_max(max)
}

/// Σ weight * value of all rows over the positions of a partition.
#[inline(always)]
fn weigh_values<L: Lanes>(l: L, u: &Unified<'_>, partition: usize, s: &mut Scratch<'_>) {
    let Sizes { group, row: width, .. } = u.sizes;
    let any = u.seen_by_any(partition);
    let origin = partition * PARTITION;
    for stage in (origin..origin + PARTITION).step_by(STAGE) {
        let here = intersect(any.clone(), stage, STAGE);
        if here.is_empty() {
            continue;
        }
        with_element!(u.job.cache.shape().dtype, E => {
            stage_values::<L, E>(l, u, stage, here, s.staged);
        });
        for token in 0..u.tokens() {
            let seen = u.seen(token, partition);
            let here = intersect(seen.clone(), stage, STAGE);
            if here.is_empty() {
                continue;
            }
            let mut done = 0;
            while done < group {
                let row = token * group + done;
                let rows = size_within(group - done, L::ROWS);
                done += rows;
                // SAFETY: positions `here` of each panel are staged, and one more may be read because of the slack; scores and
                // sums have a row for each row.
                unsafe {
                    let tile = Tile {
                        steps: here.len(),
                        first: here.start == seen.start,
                        weights: s.staged[(here.start - stage) * LANES..].as_ptr(),
                        panel_stride: STAGE * LANES,
                        x: s.scores[row * PARTITION + here.start - origin..].as_ptr(),
                        sums: s.partition.sums[row * width..].as_mut_ptr(),
                        sums_stride: width,
                    };
                    let panels = width / LANES;
                    tiles::<L, f32, RowMajor<PARTITION>>(l, &tile, rows, panels);
                }
            }
        }
    }
}
