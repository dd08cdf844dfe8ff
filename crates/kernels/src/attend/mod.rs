//! Paged attention: every token of a batch over the keys and values of its sequence, found through block tables.
//!
//! The context is cut into partitions of 256 positions, counted from position 0. Within a partition the softmax's maximum and
//! sums run over positions in a fixed order; partitions are merged first to last with the online softmax. Nothing else decides
//! the order: not the block size, the chunk a token came in, its neighbours, the window's start, or who computes which
//! partition. So a long context may be split over threads, and gives the same bits.

mod stage;
mod unit;

use std::ops::Range;

use crate::context::{Context, scratch_floats};
use crate::kv::{Batch, KvCache, KvShape};
use crate::memory::Parts;
use crate::view::View;

pub(crate) use unit::{merge, unit};

/// Positions whose softmax is computed together.
const PARTITION: usize = 256;
/// Positions whose keys or values are laid out for the register tiles at a time: a first-level cache full.
const STAGE: usize = 64;
/// About how many (token, head) pairs share one pass over the keys and values.
const UNIT_ROWS: usize = 64;

/// How a layer attends.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendSpec {
    /// Query heads, a multiple of the cache's kv_heads; query head `h` reads kv head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Applied to q·k; usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A token sees this many positions, its own being the last; `None` sees all.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` on scaled scores.
    pub softcap: Option<f32>,
    /// ALiBi: a slope for each query head; `slope * (position - own position)` is added to the score.
    pub alibi: Option<Vec<f32>>,
}

/// One call, as its units see it.
pub(crate) struct Job<'a> {
    spec: &'a AttendSpec,
    cache: &'a KvCache,
    layer: usize,
    batch: &'a Batch<'a>,
    q: View<'a>,
    sizes: Sizes,
    out: Parts<'a, f32>,
    /// Results of partitions of units that are split over threads.
    partials: Parts<'a, f32>,
}

/// A piece of work: some tokens of one sequence, all query heads of one kv head, some partitions.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Index of the batch's row.
    row: usize,
    kv_head: usize,
    /// Of the row's tokens.
    tokens: Range<usize>,
    partitions: Range<usize>,
    /// Where the results of the partitions go, one after the other; `None` when the unit has all partitions and so
    /// writes the output itself.
    partial: Option<usize>,
}

/// Sizes that follow from a call's shapes.
#[derive(Clone, Copy)]
struct Sizes {
    /// Query heads per kv head.
    group: usize,
    head_dim: usize,
    /// head_dim rounded up to whole vectors.
    row: usize,
    /// Tokens in a unit, at most.
    tokens: usize,
}

impl Sizes {
    /// For sequences of which no more than `longest` tokens are computed.
    fn new(spec: &AttendSpec, shape: &KvShape, longest: usize) -> Self {
        let group = spec.heads / shape.kv_heads;
        let tokens = (UNIT_ROWS / group.max(1)).min(longest).max(1);
        Self { group, head_dim: shape.head_dim, row: shape.row(), tokens }
    }

    /// Floats in the result of one partition for `rows` (token, head) pairs: sums, then maximum and weight of each.
    fn partial(self, rows: usize) -> usize {
        rows * (self.row + 2)
    }

    /// Floats of scratch for a unit: queries, scores, staged keys or values, and two results.
    fn scratch(self) -> usize {
        let rows = self.tokens * self.group;
        (rows + SLACK) * (self.head_dim + PARTITION)
            + STAGE * self.row
            + STAGED_SLACK
            + 2 * self.partial(rows)
    }
}

/// The register tile reads an odd number of steps in pairs.
const STAGED_SLACK: usize = 16;
/// Rows by which the last register tile may be padded, at most.
const SLACK: usize = 1;

/// Units below this many per thread leave threads idle, so that long contexts are split.
const UNITS_PER_THREAD: usize = 2;

/// Positions that the token at `position` sees.
fn visible(spec: &AttendSpec, position: usize) -> Range<usize> {
    let first = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
    first..position + 1
}

/// The most scratch that [`attend`] asks for, in bytes, with up to `max_sequences` sequences of up to `max_context`
/// positions, of which up to `max_tokens` are computed in a step.
#[must_use]
pub fn attend_workspace_bytes(
    threads: usize,
    max_sequences: usize,
    max_tokens: usize,
    max_context: usize,
    spec: &AttendSpec,
    shape: &KvShape,
) -> usize {
    let sizes = Sizes::new(spec, shape, max_tokens);
    let split = (threads * UNITS_PER_THREAD).min(max_sequences * shape.kv_heads);
    let split = if threads > 1 { split } else { 0 };
    let partials = split * max_context.div_ceil(PARTITION) * sizes.partial(sizes.group);
    scratch_floats(threads, partials, sizes.scratch()) * size_of::<f32>()
}

/// Attention of all tokens of the batch, whose own keys and values are already in the cache. `q` and `out` are
/// `[tokens, heads * head_dim]`; rows of `out` that belong to no token of the batch are left alone.
///
/// # Panics
/// When shapes do not fit, there is no such layer, or a position has no block.
pub fn attend(
    ctx: &Context,
    spec: &AttendSpec,
    cache: &KvCache,
    layer: usize,
    batch: &Batch<'_>,
    q: View<'_>,
    out: &mut [f32],
) {
    let isa = ctx.isa();
    check(spec, cache.shape(), layer, &q, out.len());
    batch.check(cache.shape(), q.rows());
    let longest = batch.rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let sizes = Sizes::new(spec, cache.shape(), longest);
    let threads = ctx.team().threads();
    let whole = units(spec, cache.shape(), batch, sizes);
    let (work, split, partials) = split_long(whole, threads, sizes);
    ctx.with_scratch(partials, sizes.scratch(), |partials, own| {
        let (out, partials) = (Parts::new(out), Parts::new(partials));
        let job = Job { spec, cache, layer, batch, q, sizes, out, partials };
        ctx.team().for_each(work.len(), |thread, i| {
            // SAFETY: every thread asks for its own.
            isa.attend_unit(&job, &work[i], unsafe { own.of(thread) });
        });
        ctx.team().for_each(split.len(), |thread, i| {
            // SAFETY: every thread asks for its own.
            isa.attend_merge(&job, &split[i], unsafe { own.of(thread) });
        });
    });
}

fn check(spec: &AttendSpec, shape: &KvShape, layer: usize, q: &View<'_>, out: usize) {
    assert!(layer < shape.layers, "layer {layer} of {}", shape.layers);
    assert!(
        spec.heads > 0 && spec.heads.is_multiple_of(shape.kv_heads),
        "{} query heads are not a multiple of {} kv heads",
        spec.heads,
        shape.kv_heads
    );
    assert_eq!(q.width(), spec.heads * shape.head_dim, "q has heads * head_dim columns");
    assert_eq!(out, q.rows() * q.width(), "the output has the shape of q");
    assert_ne!(spec.window, Some(0), "a window of nothing");
    let slopes = spec.alibi.as_ref().map_or(spec.heads, Vec::len);
    assert_eq!(slopes, spec.heads, "one ALiBi slope for each query head");
}

/// Everything there is to do, unsplit, longest first.
fn units(spec: &AttendSpec, shape: &KvShape, batch: &Batch<'_>, sizes: Sizes) -> Vec<Unit> {
    let mut units = Vec::new();
    for (i, row) in batch.rows.iter().enumerate() {
        for first in (0..row.tokens.len()).step_by(sizes.tokens) {
            let tokens = first..(first + sizes.tokens).min(row.tokens.len());
            let start = visible(spec, row.start + tokens.start).start / PARTITION;
            let end = (row.start + tokens.end).div_ceil(PARTITION);
            for kv_head in 0..shape.kv_heads {
                let (tokens, partitions) = (tokens.clone(), start..end);
                units.push(Unit { row: i, kv_head, tokens, partitions, partial: None });
            }
        }
    }
    units.sort_by_key(|unit| std::cmp::Reverse(unit.partitions.len() * unit.tokens.len()));
    units
}

/// When there are too few units to go round, those of single tokens over several partitions are taken apart: returns the
/// pieces and other units, the units that are to be merged from pieces, and how many floats the pieces' results need.
fn split_long(whole: Vec<Unit>, threads: usize, sizes: Sizes) -> (Vec<Unit>, Vec<Unit>, usize) {
    if threads == 1 || whole.len() >= threads * UNITS_PER_THREAD {
        return (whole, Vec::new(), 0);
    }
    let (mut work, mut split, mut floats) = (Vec::new(), Vec::new(), 0);
    for unit in whole {
        if unit.tokens.len() > 1 || unit.partitions.len() == 1 {
            work.push(unit);
            continue;
        }
        let first = floats;
        for partition in unit.partitions.clone() {
            work.push(Unit {
                partitions: partition..partition + 1,
                partial: Some(floats),
                ..unit.clone()
            });
            floats += sizes.partial(sizes.group);
        }
        split.push(Unit { partial: Some(first), ..unit });
    }
    (work, split, floats)
}
