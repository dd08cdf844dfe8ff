//! Activations for quantised weights: eight bits per row and group, by one fixed rule.
//!
//! The scale of a row's group is its largest magnitude over 127; steps are the nearest whole multiples, ties to even. A group below any
//! magnitude that matters is zero; one with a number that is none has the scale NaN, so that results show it. All of it depends
//! on the row alone.

use std::ops::Range;

use crate::context::Context;
use crate::format::{BLOCK, Grouping};
use crate::lanes::integers::{Integers, STEPS};
use crate::lanes::{LANES, Lanes, load_tail};
use crate::memory::Parts;
use crate::tile::{Deal, Dealt};

/// Rows in register tiles: of each tile `[steps / 4][rows][4]` steps, and `[groups][rows]` of what else there is.
pub(crate) struct Steps<'a> {
    pub(crate) grouping: Grouping,
    pub(crate) steps: &'a [i8],
    /// The steps of a group, added.
    pub(crate) sums: &'a [i32],
    pub(crate) scales: &'a [f32],
    /// `sums * scales`
    pub(crate) totals: &'a [f32],
}

/// Floats of scratch for so many rows.
pub(crate) fn scratch_floats(grouping: &Grouping, rows: usize) -> usize {
    rows * (grouping.all_steps() / STEPS + 3 * grouping.groups)
}

/// What is quantised, and where to.
pub(crate) struct StepsJob<'a> {
    x: &'a [f32],
    grouping: Grouping,
    deal: Deal,
    /// Groups that are worked on together.
    groups_each: usize,
    steps: Parts<'a, i8>,
    sums: Parts<'a, i32>,
    scales: Parts<'a, f32>,
    totals: Parts<'a, f32>,
}

/// Numbers that are worth a task.
pub(crate) const WORTH: usize = 8 * 1024;

impl<'a> Steps<'a> {
    /// Quantises `x`, `[rows, inputs]`, into `scratch`, which is as long as [`scratch_floats`] says.
    pub(crate) fn new(
        ctx: &Context,
        x: &[f32],
        grouping: Grouping,
        deal: Deal,
        scratch: &'a mut [f32],
    ) -> Self {
        let (steps, rest) = scratch.split_at_mut(deal.padded_rows() * grouping.all_steps() / STEPS);
        let (sums, rest) = rest.split_at_mut(rest.len() / 3);
        let (scales, totals) = rest.split_at_mut(rest.len() / 2);
        let steps: &mut [i8] = bytemuck::cast_slice_mut(steps);
        let sums: &mut [i32] = bytemuck::cast_slice_mut(sums);
        let groups_each = (WORTH / grouping.steps / deal.each()).max(1);
        let tasks = deal.tiles() * grouping.groups.div_ceil(groups_each);
        let job = StepsJob {
            x,
            grouping,
            deal,
            groups_each,
            steps: Parts::new(steps),
            sums: Parts::new(sums),
            scales: Parts::new(scales),
            totals: Parts::new(totals),
        };
        let isa = ctx.isa();
        ctx.team().for_each_in_runs(tasks, |_, task| isa.quantise_steps(&job, task));
        Self { grouping, steps, sums, scales, totals }
    }
}

/// Some groups of the rows of one tile.
#[inline(always)]
pub(crate) fn quantise<L: Integers>(l: L, job: &StepsJob<'_>, task: usize) {
    let grouping = &job.grouping;
    let tile = job.deal.tile(task % job.deal.tiles());
    let first = task / job.deal.tiles() * job.groups_each;
    for group in first..(first + job.groups_each).min(grouping.groups) {
        quantise_group(l, job, &tile, group);
    }
}

#[inline(always)]
fn quantise_group<L: Integers>(l: L, job: &StepsJob<'_>, tile: &Dealt, group: usize) {
    let (grouping, rows) = (&job.grouping, tile.padded);
    let size = rows * grouping.steps;
    let at = tile.first * grouping.all_steps() + group * size;
    let others = tile.first * grouping.groups + group * rows;
    // SAFETY: tiles and groups of a tile do not overlap, and each is given to one thread.
    let (steps, sums, scales, totals) = unsafe {
        (
            job.steps.part(at, size),
            job.sums.part(others, rows),
            job.scales.part(others, rows),
            job.totals.part(others, rows),
        )
    };
    if !grouping.group.is_multiple_of(BLOCK) || grouping.range(group).len() < grouping.group {
        steps.fill(0);
    }
    for row in 0..rows {
        let (mut scale, mut sum) = (0.0, 0.0);
        if row < tile.count {
            let Range { start, end } = grouping.range(group);
            let x = &job.x[(tile.first + row) * grouping.inputs..][start..end];
            (scale, sum) = quantise_row(l, x, row, rows, steps);
        } else {
            zero_row(row, rows, steps);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a whole number that f32 holds exactly"
        )]
        let whole = sum as i32;
        (sums[row], scales[row], totals[row]) = (whole, scale, sum * scale);
    }
}

/// Below this a magnitude is as good as zero, and its inverse might be infinite.
const TINY: f32 = 1e-30;

/// The steps of one row of a tile; returns the scale and the sum of the steps.
#[inline(always)]
fn quantise_row<L: Integers>(
    l: L,
    x: &[f32],
    row: usize,
    rows: usize,
    steps: &mut [i8],
) -> (f32, f32) {
    let (largest, finite) = extent(l, x);
    if !finite || largest < TINY {
        zero_row(row, rows, steps);
        return (if finite { 0.0 } else { f32::NAN }, 0.0);
    }
    let inverse = l.splat(127.0 / largest);
    let mut sum = l.splat(0.0);
    let mut narrow = [0; LANES];
    for (i, x) in x.chunks(LANES).enumerate() {
        let x = match x.as_array::<LANES>() {
            Some(whole) => l.load(whole),
            None => load_tail(l, x, 0.0),
        };
        let whole = l.round(l.mul(x, inverse));
        sum = l.add(sum, whole);
        l.narrow(whole, &mut narrow);
        let (words, _) = narrow.as_chunks::<STEPS>();
        for (j, word) in words.iter().enumerate() {
            let at = ((i * (LANES / STEPS) + j) * rows + row) * STEPS;
            // The last group of eight may have fewer than sixteen steps.
            if let Some(place) = steps.get_mut(at..at + STEPS) {
                place.copy_from_slice(word);
            }
        }
    }
    // Whole numbers whose sums f32 holds exactly, in whatever order.
    (largest / 127.0, l.fold_add(sum))
}

/// The largest magnitude, and whether all are numbers.
#[inline(always)]
fn extent<L: Lanes>(l: L, x: &[f32]) -> (f32, bool) {
    let zero = l.splat(0.0);
    let (mut largest, mut nothing) = (zero, zero);
    for x in x.chunks(LANES) {
        let x = match x.as_array::<LANES>() {
            Some(whole) => l.load(whole),
            None => load_tail(l, x, 0.0),
        };
        largest = l.max(l.abs(x), largest);
        nothing = l.fma(x, zero, nothing);
    }
    (l.fold_max(largest), l.fold_add(nothing) == 0.0)
}

fn zero_row(row: usize, rows: usize, steps: &mut [i8]) {
    for word in steps.chunks_exact_mut(STEPS).skip(row).step_by(rows) {
        word.fill(0);
    }
}
