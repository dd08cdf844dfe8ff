//! Paged attention: every token of a batch over the keys and values of its sequence, found through block tables.
//!
//! The context is cut into partitions of 256 positions, counted from position 0. Within a partition the softmax's maximum and
//! sums run over positions in a fixed order; partitions are merged first to last with the online softmax. Nothing else decides
//! the order: not the block size, the chunk a token came in, its neighbours, the window's start, or who computes which
//! partition. So a long context may be split over threads, and a partition that rows have in common may be read once for all of
//! them, and gives the same bits.

mod ahead;
mod few;
mod plan;
mod softmax;
mod stage;
mod unit;
mod walk;

use std::ops::Range;

use crate::context::{Context, scratch_floats};
use crate::kv::{Batch, KvCache, KvShape};
use crate::lanes::LANES;
use crate::memory::Parts;
use crate::view::View;

pub(crate) use plan::Unit;
pub(crate) use unit::unit;

use plan::{Demand, MOST_PIECES, Plan};

/// Positions whose softmax is computed together.
const PARTITION: usize = 256;
/// Positions whose keys or values are laid out for the register tiles at a time: a first-level cache full.
const STAGE: usize = 64;
/// About how many (token, head) pairs share one pass over the keys and values.
const UNIT_ROWS: usize = 256;

/// How a layer attends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendSpec {
    /// Query heads, a multiple of the cache's kv_heads; query head `h` reads kv head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Applied to q·k; usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A token sees this many positions, its own being the last; `None` sees all.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` on scaled scores.
    pub softcap: Option<f32>,
}

/// One call, as its units see it.
pub(crate) struct Job<'a> {
    spec: &'a AttendSpec,
    cache: &'a KvCache,
    layer: usize,
    batch: &'a Batch<'a>,
    q: View<'a>,
    sizes: Sizes,
    plan: &'a Plan,
    out: Parts<'a, f32>,
    /// Results of partitions that wait to be merged.
    pieces: Parts<'a, f32>,
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
        let sizes = Self { group, head_dim: shape.head_dim, row: shape.row(), tokens: 1 };
        Self { tokens: sizes.stacked().min(longest).max(1), ..sizes }
    }

    /// Tokens of different sequences in a unit, at most.
    fn stacked(self) -> usize {
        (UNIT_ROWS / self.group.max(1)).max(1)
    }

    /// Floats in the result of one partition for `rows` (token, head) pairs: sums, then maximum and weight of each.
    fn partial(self, rows: usize) -> usize {
        rows * (self.row + 2)
    }

    /// Floats of scratch for so many tokens and kv heads that are worked on together: queries, scores, scales of keys and
    /// values, what is staged and gathered, and two results.
    fn scratch(self, tokens: usize, kv_heads: usize) -> usize {
        let rows = tokens * self.group;
        kv_heads * (padded(rows) * (self.head_dim + PARTITION) + 2 * self.partial(rows))
            + 2 * PARTITION
            + STAGE * self.row
            + STAGED_SLACK
            + LANES * self.row
    }

    /// Whether so many tokens are worked on straight from the cache, all kv heads together, where there are vectors.
    fn is_few(self, tokens: usize) -> bool {
        tokens * self.group <= few::MOST
    }
}

/// Rows of a kv head for which register tiles have room.
fn padded(rows: usize) -> usize {
    (rows + SLACK).max(few::MOST)
}

/// The register tile reads an odd number of steps in pairs.
const STAGED_SLACK: usize = 16;
/// Rows by which the last register tile may be padded, at most.
const SLACK: usize = 1;

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
    let partitions = max_context.div_ceil(PARTITION) * shape.kv_heads * sizes.partial(sizes.group);
    let pieces = (max_sequences * partitions).min(MOST_PIECES);
    let tokens = sizes.tokens.max(sizes.stacked().min(max_sequences));
    let together =
        if sizes.is_few(1) { sizes.scratch(few::MOST / sizes.group, shape.kv_heads) } else { 0 };
    scratch_floats(threads, pieces, sizes.scratch(tokens, 1).max(together)) * size_of::<f32>()
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
    let demand = Demand { spec, shape: cache.shape(), batch, sizes };
    let plan = Plan::new(&demand, ctx.team().threads());
    ctx.with_scratch(plan.floats, plan.scratch, |pieces, own| {
        let (out, pieces) = (Parts::new(out), Parts::new(pieces));
        let job = Job { spec, cache, layer, batch, q, sizes, plan: &plan, out, pieces };
        for units in [&plan.first, &plan.then] {
            ctx.team().for_each(units.len(), |thread, i| {
                // SAFETY: every thread asks for its own.
                isa.attend_unit(&job, &units[i], unsafe { own.of(thread) });
            });
        }
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
}
