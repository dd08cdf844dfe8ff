//! Linear layers: `y = x Wᵀ`, with whatever follows fused in.
//!
//! Every output is one chain of fused multiply-adds over the inputs in order (see `tile`), or over groups of exact integer sums
//! where weights are quantised (see `code_tile`), so neither the number of rows nor threads nor blocking changes a bit. Few rows stream
//! the panels once, several at a time, at memory bandwidth; many rows are cut into register tiles and slices of the
//! inputs that stay in the second-level cache. Codes of fewer than eight bits become bytes a slice at a time, once for all rows.

use crate::activation::{Activation, apply};
use crate::code_tile::{self, CodeTile, unpack};
use crate::codes::Bits;
use crate::context::{Context, scratch_floats};
use crate::dtype::{Element, with_element};
use crate::format::{BLOCK, CodePanel, Panel};
use crate::lanes::integers::Integers;
use crate::lanes::{LANES, Lanes, load_tail, store_tail};
use crate::memory::Parts;
use crate::pack::{PackedMatrix, Place};
use crate::steps::{self, Steps};
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
/// Bytes of codes that are unpacked at a time, unless a single group has more: they stay in the first-level cache.
const UNPACKED: usize = 16 * 1024;

/// One chunk of rows.
pub(crate) struct Job<'a> {
    weights: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    /// Rows in register tiles, each `[inputs][rows of the tile]`; nothing where no weights are floats.
    x: &'a [f32],
    /// The same rows for each grouping of the matrix.
    steps: &'a [Steps<'a>],
    rows: usize,
    deal: Deal,
    task_panels: usize,
    /// Row-major, this chunk's rows only.
    out: Parts<'a, f32>,
    out_width: usize,
}

/// Panels of one segment, and where their sums are.
struct Part<'a> {
    place: &'a Place,
    first: usize,
    panels: usize,
    /// In a row of sums.
    column: usize,
}

/// Sums of one task, `[rows][width]`.
struct Sums<'a> {
    floats: &'a mut [f32],
    width: usize,
}

/// The most rows in a register tile.
#[inline(always)]
pub(crate) fn tile_rows<L: Lanes>(_: L) -> usize {
    L::ROWS
}

/// How many tasks so many panels of a segment are.
fn tasks_of(place: &Place, task_panels: usize) -> usize {
    place.panels.div_ceil(task_panels)
}

/// Computes one task for all rows, with [`own_floats`] of scratch.
#[inline(always)]
pub(crate) fn task<L: Integers>(l: L, job: &Job<'_>, task: usize, scratch: &mut [f32]) {
    let rows = job.deal.padded_rows();
    let (floats, unpacked) = scratch.split_at_mut(rows * TASK_PANELS * LANES);
    let places = job.weights.places();
    if job.weights.is_gated() {
        let [gate, up] = places else { unreachable!("a gated matrix has two segments") };
        let each = job.task_panels / 2;
        let first = task * each;
        let panels = each.min(gate.panels - first);
        let mut sums = Sums { floats, width: 2 * panels * LANES };
        for (place, column) in [(gate, 0), (up, panels * LANES)] {
            products(l, job, &Part { place, first, panels, column }, &mut sums, unpacked);
        }
        let Epilogue::Gated(activation) = job.epilogue else { return };
        for row in 0..job.rows {
            let sums = &sums.floats[row * sums.width..][..sums.width];
            finish_gated(l, job, activation, row, first * LANES, sums);
        }
        return;
    }
    let mut task = task;
    for place in places {
        let tasks = tasks_of(place, job.task_panels);
        if task >= tasks {
            task -= tasks;
            continue;
        }
        let first = task * job.task_panels;
        let panels = job.task_panels.min(place.panels - first);
        let mut sums = Sums { floats, width: panels * LANES };
        products(l, job, &Part { place, first, panels, column: 0 }, &mut sums, unpacked);
        let outputs = place.segment.outputs - first * LANES;
        for row in 0..job.rows {
            let sums = &sums.floats[row * sums.width..][..sums.width.min(outputs)];
            finish(l, job, row, place.first_output + first * LANES, sums);
        }
        return;
    }
}

#[inline(always)]
fn products<L: Integers>(
    l: L,
    job: &Job<'_>,
    part: &Part<'_>,
    sums: &mut Sums<'_>,
    unpacked: &mut [f32],
) {
    match &part.place.panel {
        Panel::Float { dtype, elements } => with_element!(*dtype, E => {
            float_products::<L, E>(l, job, part, *elements, sums);
        }),
        Panel::Codes(layout) if layout.format.bits == Bits::Eight => {
            code_products::<L, false>(l, job, part, layout, sums, &mut []);
        }
        Panel::Codes(layout) => {
            let unpacked = bytemuck::cast_slice_mut(unpacked);
            code_products::<L, true>(l, job, part, layout, sums, unpacked);
        }
    }
}

#[inline(always)]
fn float_products<L: Lanes, E: Element>(
    l: L,
    job: &Job<'_>,
    part: &Part<'_>,
    size: usize,
    sums: &mut Sums<'_>,
) {
    let (inputs, deal, rows) = (job.weights.inputs(), job.deal, job.deal.padded_rows());
    let panels = part.panels;
    let weights: &[E] =
        bytemuck::cast_slice(job.weights.panels(part.place, part.first, part.panels));
    assert!(
        sums.floats.len() >= rows * sums.width
            && part.column + panels * LANES <= sums.width
            && weights.len() >= panels * size
            && size >= inputs.next_multiple_of(2) * LANES
            && job.x.len() >= rows * inputs,
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
                // activations and `rows * width` sums, for padded rows; k is even, so a slice's steps are inside a
                // panel, and sums are only ours.
                unsafe {
                    let tile = Tile {
                        steps: slice.min(inputs - k),
                        first: k == 0,
                        weights: weights.as_ptr().add(panel * size + k * LANES),
                        panel_stride: size,
                        x: job.x.as_ptr().add(first * inputs + k * padded),
                        sums: (sums.floats.as_mut_ptr())
                            .add(first * sums.width + part.column + panel * LANES),
                        sums_stride: sums.width,
                    };
                    tiles::<L, E, StepMajor<true>>(l, &tile, padded, together.min(panels - panel));
                }
            }
        }
    }
}

/// `SMALL`: codes are of fewer than eight bits and are unpacked first.
#[inline(always)]
fn code_products<L: Integers, const SMALL: bool>(
    l: L,
    job: &Job<'_>,
    part: &Part<'_>,
    layout: &CodePanel,
    sums: &mut Sums<'_>,
    unpacked: &mut [u8],
) {
    let (deal, panels) = (job.deal, part.panels);
    let (rows, together) = (deal.padded_rows(), L::panels(deal.each()));
    let Some(steps) = part.place.grouping.and_then(|grouping| job.steps.get(grouping)) else {
        unreachable!("rows are quantised for every grouping")
    };
    let grouping = steps.grouping;
    let weights = job.weights.panels(part.place, part.first, panels);
    let slice = groups_together(layout, together);
    assert!(
        sums.floats.len() >= rows * sums.width
            && part.column + panels * LANES <= sums.width
            && weights.len() >= panels * layout.bytes
            && layout.grouping == grouping
            && steps.steps.len() >= rows * grouping.all_steps()
            && steps.sums.len().min(steps.scales.len()).min(steps.totals.len())
                >= rows * grouping.groups
            && (!SMALL || unpacked.len() >= together * slice * grouping.steps * LANES),
        "scratch is too small"
    );
    for begin in (0..grouping.groups).step_by(slice) {
        let groups = begin..(begin + slice).min(grouping.groups);
        let (before, here) = (begin * grouping.steps, groups.len() * grouping.steps);
        for panel in (0..panels).step_by(together) {
            let width = together.min(panels - panel);
            let this = &weights[panel * layout.bytes..][..width * layout.bytes];
            let (mut codes, mut codes_stride) =
                (this[layout.codes..].as_ptr().wrapping_add(before * LANES), layout.bytes);
            if SMALL {
                let blocks = before / BLOCK..(before + here) / BLOCK;
                for (from, to) in
                    this.chunks_exact(layout.bytes).zip(unpacked.chunks_exact_mut(here * LANES))
                {
                    unpack(l, layout, &from[layout.codes..], blocks.clone(), to);
                }
                (codes, codes_stride) = (unpacked.as_ptr(), here * LANES);
            }
            for i in 0..deal.tiles() {
                let Dealt { first, padded, .. } = deal.tile(i);
                let others = first * grouping.groups + begin * padded;
                // SAFETY: the slices asserted above hold all steps and groups of padded rows, `panels` whole panels, and the
                // sums, which are only ours; eight-bit codes are read from the panels, others from what was unpacked, whose
                // codes are below 64.
                unsafe {
                    let at = first * grouping.all_steps() + before * padded;
                    let tile = CodeTile {
                        layout,
                        groups: groups.clone(),
                        first: begin == 0,
                        panel: this.as_ptr(),
                        codes,
                        codes_stride,
                        steps: steps.steps.as_ptr().add(at),
                        step_sums: steps.sums.as_ptr().add(others),
                        step_scales: steps.scales.as_ptr().add(others),
                        step_totals: steps.totals.as_ptr().add(others),
                        sums: (sums.floats.as_mut_ptr())
                            .add(first * sums.width + part.column + panel * LANES),
                        sums_stride: sums.width,
                    };
                    code_tile::tiles::<L, SMALL>(l, &tile, padded, width);
                }
            }
        }
    }
}

/// Groups that are worked on together, so that what is unpacked of so many panels stays in the cache.
fn groups_together(layout: &CodePanel, panels: usize) -> usize {
    (UNPACKED / (panels * layout.grouping.steps * LANES)).clamp(1, layout.grouping.groups.max(1))
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

/// Scratch of a thread: sums, and unpacked codes of as many panels as a tile is wide at most.
fn own_floats(rows: usize, group_steps: usize) -> usize {
    const WIDEST: usize = 4;
    rows * TASK_PANELS * LANES + (WIDEST * group_steps * LANES).max(UNPACKED) / size_of::<f32>()
}

/// The most scratch that [`linear`] asks for with up to `max_rows` rows of up to `max_inputs` inputs, in bytes. For quantised
/// weights this counts two formats in one matrix, with groups of at least sixteen.
#[must_use]
pub fn linear_workspace_bytes(threads: usize, max_rows: usize, max_inputs: usize) -> usize {
    // The last tile may be padded.
    let rows = max_rows.min(CHUNK) + SLACK;
    // A row as floats, and twice as steps: a quarter of that, and three numbers for each sixteen.
    let shared = rows * (max_inputs + 2 * (max_inputs + 1024) / 2);
    let own = own_floats(rows, max_inputs.next_multiple_of(BLOCK));
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
    let deal = Deal::new(rows, isa.tile_rows());
    let padded = deal.padded_rows();
    let floats = places.iter().any(|place| place.grouping.is_none());
    // One row is its own tile.
    let tiled = if floats && rows > 1 { padded * inputs } else { 0 };
    let coded: Vec<usize> =
        groupings.iter().map(|grouping| steps::scratch_floats(grouping, padded)).collect();
    let longest = groupings.iter().map(|grouping| grouping.steps).max().unwrap_or(0);
    let shared = tiled + coded.iter().sum::<usize>();
    ctx.with_scratch(shared, own_floats(padded, longest), |shared, own| {
        let (tiled, mut rest) = shared.split_at_mut(tiled);
        if !tiled.is_empty() {
            tile_rows_of(ctx, x, inputs, deal, tiled);
        }
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
            steps: &steps,
            rows,
            deal,
            task_panels,
            out,
            out_width,
        };
        let tasks = match places {
            [gate, _] if w.is_gated() => tasks_of(gate, task_panels / 2),
            places => places.iter().map(|place| tasks_of(place, task_panels)).sum(),
        };
        team.for_each(tasks, |thread, task| {
            // SAFETY: every thread asks for its own.
            isa.linear_task(&job, task, unsafe { own.of(thread) });
        });
    });
}

/// Rows as floats, in register tiles.
fn tile_rows_of(ctx: &Context, x: &[f32], inputs: usize, deal: Deal, out: &mut [f32]) {
    let parts = Parts::new(out);
    ctx.team().for_each(deal.tiles(), |_, i| {
        let Dealt { first, count, padded } = deal.tile(i);
        // SAFETY: tiles do not overlap, and each is given to one thread.
        let tile = unsafe { parts.part(first * inputs, padded * inputs) };
        pack_rows(&x[first * inputs..(first + count) * inputs], inputs, padded, tile);
    });
}
