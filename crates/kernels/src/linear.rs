//! Linear layers: `y = x Wᵀ`, with whatever follows fused in.
//!
//! Every output is one chain of fused multiply-adds over the inputs in order (see `tile`; `pair_tile` for bf16), or over groups of exact integer sums
//! where weights are quantised (see `code_tile`), so neither the number of rows nor threads nor blocking changes a bit. Few rows stream
//! the panels once, several at a time, at memory bandwidth; many rows are cut into register tiles and slices of the
//! inputs that stay in the second-level cache. With many rows,
//! codes of fewer than eight bits become bytes a slice at a time, once for all of them.

use crate::activation::{Activation, apply};
use crate::context::{Context, scratch_floats};
use crate::dtype::Dtype;
use crate::format::Panel;
use crate::lanes::integers::Integers;
use crate::lanes::pairs::{PairKernel, Pairs};
use crate::lanes::{LANES, Lanes, load_tail, store_tail};
use crate::memory::Parts;
use crate::pack::{PackedMatrix, Place};
use crate::pair_rows::{self, PairedRows};
use crate::products::{Part, Sums, UNPACKED, WIDEST, products, slice_floats};
use crate::steps::{self, Steps};
use crate::tile::{Deal, Dealt};

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
/// Rows by which the last register tile may be padded, at most.
const SLACK: usize = 7;
/// Panels in a task, at most; a multiple of every width of a tile, and of 2 for gates.
const TASK_PANELS: usize = 16;
/// One chunk of rows.
pub(crate) struct Job<'a> {
    pub(crate) weights: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    /// Rows in register tiles, each `[inputs][rows of the tile]`, where weights are f32 or f16.
    pub(crate) x: &'a [f32],
    /// The same rows where weights are bf16.
    pub(crate) pairs: Option<PairedRows<'a>>,
    /// The same rows for each grouping of the matrix.
    pub(crate) steps: &'a [Steps<'a>],
    rows: usize,
    pub(crate) deal: Deal,
    task_panels: usize,
    /// Row-major, this chunk's rows only.
    out: Parts<'a, f32>,
    out_width: usize,
}

/// Deals out rows to register tiles. Where all weights are codes, some more rows are better two tiles that read them as they are
/// stored than one that does not; where all are bf16, one tile may have more rows than two together are worth.
#[inline(always)]
pub(crate) fn deal<L: Integers>(l: L, rows: usize, places: &[Place]) -> Deal {
    let all_codes = places.iter().all(|place| matches!(place.panel, Panel::Codes(_)));
    let all_bf16 = places.iter().all(|place| place.panel.holds(Dtype::Bf16));
    let most = match l.with_pairs(MostRows) {
        _ if all_codes && rows <= 2 * L::FEW => L::FEW,
        most if all_bf16 && rows <= most => most,
        _ => L::ROWS,
    };
    Deal::new(rows, most)
}

/// See [`Pairs::ROWS`].
struct MostRows;

impl PairKernel for MostRows {
    type Output = usize;

    #[inline(always)]
    fn run<M: Pairs>(self, _: M) -> usize {
        M::ROWS
    }
}

impl<'a> Job<'a> {
    /// How many tasks there are.
    fn tasks(&self) -> usize {
        match self.weights.places() {
            [gate, _] if self.weights.is_gated() => gate.panels.div_ceil(self.task_panels / 2),
            places => places.iter().map(|place| place.panels.div_ceil(self.task_panels)).sum(),
        }
    }

    /// The panels of a task: of one segment, or as many of a gate and of its up.
    fn parts(&self, mut task: usize) -> (Part<'a>, Option<Part<'a>>) {
        let weights: &'a PackedMatrix = self.weights;
        if let ([gate, up], true) = (weights.places(), weights.is_gated()) {
            let each = self.task_panels / 2;
            let first = task * each;
            let panels = each.min(gate.panels - first);
            let part = |place, column| Part { place, first, panels, column };
            return (part(gate, 0), Some(part(up, panels * LANES)));
        }
        for place in weights.places() {
            let tasks = place.panels.div_ceil(self.task_panels);
            if task < tasks {
                let first = task * self.task_panels;
                let panels = self.task_panels.min(place.panels - first);
                return (Part { place, first, panels, column: 0 }, None);
            }
            task -= tasks;
        }
        unreachable!("a task beyond the last")
    }
}

/// Computes one task for all rows, with scratch for its sums and one slice.
#[inline(always)]
pub(crate) fn task<L: Integers>(l: L, job: &Job<'_>, task: usize, scratch: &mut [f32]) {
    let rows = job.deal.padded_rows();
    let (floats, slice) = scratch.split_at_mut(rows * TASK_PANELS * LANES);
    let (part, second) = job.parts(task);
    let at = part.place.first_output + part.first * LANES;
    let outputs = part.place.segment.outputs - part.first * LANES;
    let width = part.panels * LANES * if second.is_some() { 2 } else { 1 };
    let mut sums = Sums { floats, width };
    // One place that computes, since every copy of it is a lot of code.
    for part in [Some(part), second].into_iter().flatten() {
        products(l, job, &part, &mut sums, slice);
    }
    for row in 0..job.rows {
        let sums = &sums.floats[row * width..][..width];
        match job.epilogue {
            Epilogue::Gated(activation) => finish_gated(l, job, activation, row, at, sums),
            _ => finish(l, job, row, at, &sums[..width.min(outputs)]),
        }
    }
}

/// Bias and epilogue of some outputs of one row, from number `at` on.
#[inline(always)]
fn finish<L: Lanes>(l: L, job: &Job<'_>, row: usize, at: usize, sums: &[f32]) {
    // SAFETY: tasks have different columns, rows do not overlap.
    let out = unsafe { job.out.part(row * job.out_width + at, sums.len()) };
    let bias = job.bias.map(|bias| &bias[at..at + sums.len()]);
    for (i, (out, sums)) in out.chunks_mut(LANES).zip(sums.chunks(LANES)).enumerate() {
        let mut y = load(l, sums);
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

/// Bias, activation and gate of some outputs of one row, from number `at` on; sums are of gates, then of ups.
#[inline(always)]
fn finish_gated<L: Lanes>(
    l: L,
    job: &Job<'_>,
    activation: Activation,
    row: usize,
    at: usize,
    sums: &[f32],
) {
    let (gates, ups) = sums.split_at(sums.len() / 2);
    let width = gates.len().min(job.out_width - at);
    // SAFETY: tasks have different columns, rows do not overlap.
    let out = unsafe { job.out.part(row * job.out_width + at, width) };
    let ((gates, _), (ups, _)) = (gates.as_chunks::<LANES>(), ups.as_chunks::<LANES>());
    for (i, out) in out.chunks_mut(LANES).enumerate() {
        let (mut gate, mut up) = (l.load(&gates[i]), l.load(&ups[i]));
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

/// The most scratch that [`linear`] asks for with up to `max_rows` rows of up to `max_inputs` inputs, in bytes. For quantised
/// weights this counts two formats in one matrix, with groups of at least sixteen.
#[must_use]
pub fn linear_workspace_bytes(threads: usize, max_rows: usize, max_inputs: usize) -> usize {
    // The last tile may be padded.
    let rows = max_rows.min(CHUNK) + SLACK;
    // A row as floats, as pairs of bf16, and twice as steps: a quarter of that, and three numbers for each sixteen.
    let shared = rows * (2 * max_inputs + 1 + 2 * (max_inputs + 1024) / 2);
    // The largest slice is one of a single group, of all inputs.
    let slice = WIDEST * (max_inputs + 64) * LANES + 3 * UNPACKED;
    let own = rows * TASK_PANELS * LANES + slice / size_of::<f32>();
    scratch_floats(threads, shared, own) * size_of::<f32>()
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
    let (inputs, places, groupings) = (w.inputs(), w.places(), w.groupings());
    let rows = x.len() / inputs;
    let panels = places.iter().map(|place| place.panels).sum();
    let task_panels = task_panels(panels, team.threads());
    let deal = isa.deal(rows, places);
    let padded = deal.padded_rows();
    let any = |dtype| places.iter().any(|place| place.panel.holds(dtype));
    // One row is its own tile.
    let tiled = if rows > 1 && (any(Dtype::F32) || any(Dtype::F16)) { padded * inputs } else { 0 };
    let paired = if any(Dtype::Bf16) { pair_rows::scratch_floats(inputs, padded) } else { 0 };
    let coded: Vec<usize> =
        groupings.iter().map(|grouping| steps::scratch_floats(grouping, padded)).collect();
    let slice = groupings.iter().map(slice_floats).max().unwrap_or(0);
    let shared = tiled + paired + coded.iter().sum::<usize>();
    ctx.with_scratch(shared, padded * TASK_PANELS * LANES + slice, |shared, own| {
        let (tiled, rest) = shared.split_at_mut(tiled);
        let (paired, mut rest) = rest.split_at_mut(paired);
        if !tiled.is_empty() {
            tile_rows_of(ctx, x, inputs, deal, tiled);
        }
        let pairs = (!paired.is_empty()).then(|| PairedRows::new(ctx, x, inputs, deal, paired));
        let mut steps = Vec::with_capacity(groupings.len());
        for (grouping, floats) in groupings.iter().zip(coded) {
            let (mine, others) = rest.split_at_mut(floats);
            rest = others;
            steps.push(Steps::new(ctx, x, *grouping, deal, mine));
        }
        let x = if tiled.is_empty() { x } else { tiled };
        let out = Parts::new(out);
        let job = Job {
            weights: w,
            bias,
            epilogue,
            x,
            pairs,
            steps: &steps,
            rows,
            deal,
            task_panels,
            out,
            out_width,
        };
        team.for_each_in_runs(job.tasks(), |thread, task| {
            // SAFETY: every thread asks for its own.
            isa.linear_task(&job, task, unsafe { own.of(thread) });
        });
    });
}

/// Rows as floats, in register tiles.
fn tile_rows_of(ctx: &Context, x: &[f32], inputs: usize, deal: Deal, out: &mut [f32]) {
    let parts = Parts::new(out);
    ctx.team().for_each_in_runs(deal.tiles(), |_, i| {
        let Dealt { first, count, padded } = deal.tile(i);
        // SAFETY: tiles do not overlap, and each is given to one thread.
        let tile = unsafe { parts.part(first * inputs, padded * inputs) };
        pack_rows(&x[first * inputs..(first + count) * inputs], inputs, padded, tile);
    });
}
