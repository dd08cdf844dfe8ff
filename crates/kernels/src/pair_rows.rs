//! Activations for weights in bf16: rounded, in pairs of steps.
//!
//! A pair is as large as the CPU's way to multiply it wants (see `lanes::pairs`), so only kernels know what lies in the scratch.

use bytemuck::Zeroable;

use crate::context::Context;
use crate::lanes::Lanes;
use crate::lanes::pairs::{PairKernel, Pairs};
use crate::memory::Parts;
use crate::steps::WORTH;
use crate::tile::{Deal, Dealt};

/// Rows in register tiles: of each tile `[pairs][rows]`.
#[derive(Clone, Copy)]
pub(crate) struct PairedRows<'a> {
    room: &'a [f32],
    /// Pairs of a row.
    pub(crate) pairs: usize,
}

/// Floats of scratch for so many rows, whatever the size of a pair.
pub(crate) fn scratch_floats(inputs: usize, rows: usize) -> usize {
    rows * inputs.next_multiple_of(2)
}

/// What is rounded, and where to.
pub(crate) struct PairJob<'a> {
    x: &'a [f32],
    inputs: usize,
    deal: Deal,
    /// Pairs that are worked on together.
    each: usize,
    room: Parts<'a, f32>,
}

impl<'a> PairedRows<'a> {
    /// Rounds `x`, `[rows, inputs]`, into `scratch`, which is as long as [`scratch_floats`] says.
    pub(crate) fn new(
        ctx: &Context,
        x: &[f32],
        inputs: usize,
        deal: Deal,
        scratch: &'a mut [f32],
    ) -> Self {
        let (isa, pairs) = (ctx.isa(), inputs.div_ceil(2));
        let each = WORTH / 2 / deal.each();
        let job = PairJob { x, inputs, deal, each, room: Parts::new(scratch) };
        let tasks = deal.tiles() * pairs.div_ceil(each);
        ctx.team().for_each_in_runs(tasks, |_, task| isa.pair_rows(&job, task));
        Self { room: scratch, pairs }
    }

    /// All pairs, and perhaps some room behind them.
    pub(crate) fn as_pairs<M: Pairs>(&self, _: M) -> &'a [M::Pair] {
        bytemuck::cast_slice(self.room)
    }
}

/// Some pairs of the rows of one tile.
#[inline(always)]
pub(crate) fn task<L: Lanes>(l: L, job: &PairJob<'_>, task: usize) {
    l.with_pairs(Round { job, task });
}

struct Round<'a> {
    job: &'a PairJob<'a>,
    task: usize,
}

impl PairKernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Pairs>(self, m: M) {
        let Self { job, task } = self;
        let tile = job.deal.tile(task % job.deal.tiles());
        let pairs = job.inputs.div_ceil(2);
        let from = task / job.deal.tiles() * job.each;
        let until = (from + job.each).min(pairs);
        let floats = size_of::<M::Pair>() / size_of::<f32>();
        let at = (tile.first * pairs + from * tile.padded) * floats;
        // SAFETY: tiles and pairs of a tile do not overlap, and each is given to one thread.
        let out = unsafe { job.room.part(at, (until - from) * tile.padded * floats) };
        round(m, job, &tile, from, bytemuck::cast_slice_mut(out));
    }
}

/// Pairs `from ..` of all rows of a tile; rows that do not exist are zero.
#[inline(always)]
fn round<M: Pairs>(m: M, job: &PairJob<'_>, tile: &Dealt, from: usize, out: &mut [M::Pair]) {
    /// Pairs at a time, so that what is written stays in the cache from row to row.
    const PAIRS: usize = 64;
    for (i, out) in out.chunks_mut(PAIRS * tile.padded).enumerate() {
        let first = 2 * (from + i * PAIRS);
        for row in 0..tile.padded {
            let mut rounded = [M::Pair::zeroed(); PAIRS];
            if row < tile.count {
                let x = &job.x[(tile.first + row) * job.inputs..][first..job.inputs];
                let (whole, last) = x.as_chunks::<2>();
                for (place, [even, odd]) in rounded.iter_mut().zip(whole) {
                    *place = m.pair(*even, *odd);
                }
                if let (Some(place), [last]) = (rounded.get_mut(whole.len()), last) {
                    *place = m.pair(*last, 0.0);
                }
            }
            for (places, pair) in out.chunks_exact_mut(tile.padded).zip(rounded) {
                places[row] = pair;
            }
        }
    }
}
