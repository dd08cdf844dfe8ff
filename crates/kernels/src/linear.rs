//! Linear layers: `y = x Wᵀ`, with whatever follows fused in.
//!
//! Every output is one chain of fused multiply-adds over the inputs in order (see `tile`), so neither the number of rows nor
//! threads nor blocking changes a bit. Few rows stream the panels once, several at a time, at memory bandwidth; many rows are cut
//! into register tiles and slices of the inputs that stay in the second-level cache.

use crate::activation::{Activation, apply};
use crate::context::{Context, scratch_floats};
use crate::dtype::{Element, with_element};
use crate::lanes::{LANES, Lanes, load_tail, store_tail};
use crate::memory::Parts;
use crate::pack::PackedMatrix;
use crate::tile::{Deal, Dealt, StepMajor, Tile, tiles};

/// What happens to `y = x Wᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`
    Store,
    /// `out += y`: the residual stream.
    Add,
    /// `out = activation(y)`
    Activate(Activation),
    /// `out = activation(gate) * up`, where the matrix is gated and y is gate and up.
    Gated(Activation),
}

/// Rows that are worked on together. More would need more scratch and gain nothing: the weights are read once for so many rows
/// anyway.
const CHUNK: usize = 256;
/// Steps in a slice of the inputs, even: with many rows a panel's slice is used for all of them while it is in the first-level cache.
const SLICE: usize = 512;
/// Rows by which the last register tile may be padded, at most.
const SLACK: usize = 1;
/// Panels in a task, at most; a multiple of every width of a tile, and of 2 for gates.
const TASK_PANELS: usize = 16;

/// One chunk of rows.
pub(crate) struct Job<'a> {
    weights: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    /// Rows in register tiles, each `[inputs][rows of the tile]`.
    x: &'a [f32],
    rows: usize,
    deal: Deal,
    task_panels: usize,
    /// Row-major, this chunk's rows only.
    out: Parts<'a, f32>,
    out_width: usize,
}

/// The most rows in a register tile.
#[inline(always)]
pub(crate) fn tile_rows<L: Lanes>(_: L) -> usize {
    L::ROWS
}

/// Computes the panels of one task for all rows, with `padded rows * task_panels * 16` floats for sums.
#[inline(always)]
pub(crate) fn task<L: Lanes>(l: L, job: &Job<'_>, task: usize, sums: &mut [f32]) {
    let first = task * job.task_panels;
    let panels = job.task_panels.min(job.weights.panels() - first);
    with_element!(job.weights.dtype(), E => products::<L, E>(l, job, first, panels, sums));
    for row in 0..job.rows {
        let sums = &sums[row * panels * LANES..][..panels * LANES];
        match job.epilogue {
            Epilogue::Gated(activation) => finish_gated(l, job, activation, row, first, sums),
            _ => finish(l, job, row, first, sums),
        }
    }
}

#[inline(always)]
fn products<L: Lanes, E: Element>(
    l: L,
    job: &Job<'_>,
    first: usize,
    panels: usize,
    sums: &mut [f32],
) {
    let (inputs, deal, rows) = (job.weights.inputs(), job.deal, job.deal.padded_rows());
    let size = job.weights.panel_elements();
    let weights = &job.weights.elements::<E>()[first * size..][..panels * size];
    assert!(
        sums.len() >= rows * panels * LANES && job.x.len() >= rows * inputs,
        "scratch is too small"
    );
    // With a single tile nothing is used twice, so the panels are better read in one go.
    let slice = if deal.tiles() == 1 { inputs.next_multiple_of(2) } else { SLICE };
    let together = L::panels(deal.each());
    for k in (0..inputs).step_by(slice) {
        for panel in (0..panels).step_by(together) {
            for i in 0..deal.tiles() {
                let Dealt { first, padded, .. } = deal.tile(i);
                // SAFETY: the slices above hold `panels` whole panels of `inputs` steps rounded up to even, `rows * inputs`
                // activations and `rows * panels * 16` sums, for padded rows; k is even, so a slice's steps are inside a
                // panel, and sums are only ours.
                unsafe {
                    let tile = Tile {
                        steps: slice.min(inputs - k),
                        first: k == 0,
                        weights: weights.as_ptr().add(panel * size + k * LANES),
                        panel_stride: size,
                        x: job.x.as_ptr().add(first * inputs + k * padded),
                        sums: sums.as_mut_ptr().add((first * panels + panel) * LANES),
                        sums_stride: panels * LANES,
                    };
                    tiles::<L, E, StepMajor<true>>(l, &tile, padded, together.min(panels - panel));
                }
            }
        }
    }
}

/// Bias and epilogue of one row's outputs.
#[inline(always)]
fn finish<L: Lanes>(l: L, job: &Job<'_>, row: usize, panel: usize, sums: &[f32]) {
    let at = panel * LANES;
    let width = sums.len().min(job.out_width - at);
    // SAFETY: tasks have different columns, rows do not overlap.
    let out = unsafe { job.out.part(row * job.out_width + at, width) };
    let bias = job.bias.map(|bias| &bias[at..at + width]);
    let (sums, _) = sums.as_chunks::<LANES>();
    for (i, out) in out.chunks_mut(LANES).enumerate() {
        let mut y = l.load(&sums[i]);
        if let Some(bias) = bias {
            y = l.add(y, load(l, &bias[i * LANES..][..out.len()]));
        }
        match job.epilogue {
            Epilogue::Add => y = l.add(load(l, out), y),
            Epilogue::Activate(activation) => y = apply(l, activation, y),
            Epilogue::Store | Epilogue::Gated(_) => {}
        }
        store(l, y, out);
    }
}

/// Bias, activation and gate of one row's outputs; panels alternate between gate and up.
#[inline(always)]
fn finish_gated<L: Lanes>(
    l: L,
    job: &Job<'_>,
    activation: Activation,
    row: usize,
    panel: usize,
    sums: &[f32],
) {
    let at = panel / 2 * LANES;
    let width = (sums.len() / 2).min(job.out_width - at);
    // SAFETY: tasks have different columns, rows do not overlap.
    let out = unsafe { job.out.part(row * job.out_width + at, width) };
    let (sums, _) = sums.as_chunks::<LANES>();
    for (i, out) in out.chunks_mut(LANES).enumerate() {
        let (mut gate, mut up) = (l.load(&sums[2 * i]), l.load(&sums[2 * i + 1]));
        if let Some(bias) = job.bias {
            let (gates, ups) = bias.split_at(job.out_width);
            let here = at + i * LANES..at + i * LANES + out.len();
            gate = l.add(gate, load(l, &gates[here.clone()]));
            up = l.add(up, load(l, &ups[here]));
        }
        store(l, l.mul(apply(l, activation, gate), up), out);
    }
}

/// Up to sixteen floats.
#[inline(always)]
fn load<L: Lanes>(l: L, from: &[f32]) -> L::V {
    match from.as_array::<LANES>() {
        Some(whole) => l.load(whole),
        None => load_tail(l, from, 0.0),
    }
}

/// Up to sixteen floats.
#[inline(always)]
fn store<L: Lanes>(l: L, x: L::V, to: &mut [f32]) {
    match to.as_mut_array::<LANES>() {
        Some(whole) => l.store(x, whole),
        None => store_tail(l, x, to),
    }
}

/// Copies a tile's rows to `[inputs][padded]`; rows that do not exist are zero.
fn pack_rows(x: &[f32], inputs: usize, padded: usize, out: &mut [f32]) {
    let rows = x.len() / inputs;
    for (k, out) in out.chunks_exact_mut(padded).enumerate() {
        for (row, out) in out[..rows].iter_mut().enumerate() {
            *out = x[row * inputs + k];
        }
        out[rows..].fill(0.0);
    }
}

/// Panels per task: enough tasks to even out the threads, each wide enough for the widest tile.
fn task_panels(panels: usize, threads: usize) -> usize {
    (panels / (threads * 8)).clamp(4, TASK_PANELS) / 4 * 4
}

/// The most scratch that [`linear`] asks for with up to `max_rows` rows of up to `max_inputs` inputs, in bytes.
#[must_use]
pub fn linear_workspace_bytes(threads: usize, max_rows: usize, max_inputs: usize) -> usize {
    // The last tile may be padded.
    let rows = max_rows.min(CHUNK) + SLACK;
    scratch_floats(threads, rows * max_inputs, rows * TASK_PANELS * LANES) * size_of::<f32>()
}

/// `y = x Wᵀ + bias`, then the epilogue. `x` is `[m, inputs]`; `out` is `[m, outputs]`, or `[m, outputs / 2]` for a gated matrix.
/// `bias` has one number per output.
///
/// # Panics
/// When shapes do not fit, or a gated epilogue and a gated matrix do not come together.
pub fn linear(
    ctx: &Context,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let (inputs, outputs) = (w.inputs(), w.outputs());
    let gated = matches!(epilogue, Epilogue::Gated(_));
    assert_eq!(
        gated,
        w.is_gated(),
        "a gated epilogue needs a gated matrix, and the other way round"
    );
    let out_width = if gated { outputs / 2 } else { outputs };
    assert!(
        inputs > 0 && x.len().is_multiple_of(inputs),
        "{} numbers are not rows of {inputs}",
        x.len()
    );
    let rows = x.len() / inputs;
    assert_eq!(out.len(), rows * out_width, "the output is [{rows}, {out_width}]");
    assert!(
        bias.is_none_or(|b| b.len() == outputs),
        "a bias has one number for each of {outputs} outputs"
    );
    if out_width == 0 {
        return;
    }
    for (x, out) in x.chunks(CHUNK * inputs).zip(out.chunks_mut(CHUNK * out_width)) {
        chunk(ctx, x, w, bias, epilogue, out, out_width);
    }
}

/// Up to [`CHUNK`] rows.
fn chunk(
    ctx: &Context,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
    out_width: usize,
) {
    let (isa, team) = (ctx.isa(), ctx.team());
    let inputs = w.inputs();
    let rows = x.len() / inputs;
    let task_panels = task_panels(w.panels(), team.threads());
    let deal = Deal::new(rows, isa.tile_rows());
    let padded = deal.padded_rows();
    // One row is its own tile.
    let packed = if rows == 1 { 0 } else { padded * inputs };
    ctx.with_scratch(packed, padded * task_panels * LANES, |packed, own| {
        let mut tiled = x;
        if rows > 1 {
            let parts = Parts::new(packed);
            team.for_each(deal.tiles(), |_, i| {
                let Dealt { first, count, padded } = deal.tile(i);
                // SAFETY: tiles do not overlap, and each is given to one thread.
                let tile = unsafe { parts.part(first * inputs, padded * inputs) };
                pack_rows(&x[first * inputs..(first + count) * inputs], inputs, padded, tile);
            });
            tiled = packed;
        }
        let out = Parts::new(out);
        let job =
            Job { weights: w, bias, epilogue, x: tiled, rows, deal, task_panels, out, out_width };
        team.for_each(w.panels().div_ceil(task_panels), |thread, task| {
            // SAFETY: every thread asks for its own.
            isa.linear_task(&job, task, unsafe { own.of(thread) });
        });
    });
}
