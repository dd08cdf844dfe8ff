//! Rows times the panels of a task: the blocking of linear layers.

use std::ops::Range;

use half::{bf16, f16};

use crate::code_tile::{self, CodeTile, unpack};
use crate::codes::Bits;
use crate::dtype::{Dtype, Stepwise};
use crate::format::{BLOCK, CodePanel, Grouping, Panel};
use crate::lanes::dots::{DotKernel, Dots};
use crate::lanes::integers::Integers;
use crate::lanes::pairs::{PairKernel, Pairs};
use crate::lanes::{LANES, Lanes};
use crate::linear::Job;
use crate::pack::Place;
use crate::pair_tile::{self, PairTile};
use crate::steps::Steps;
use crate::stored_tile::{self, StoredTile};
use crate::terms::{Terms, read_terms};
use crate::tile::{Dealt, StepMajor, Tile, tiles};

/// Steps in a slice of the inputs, even: with many rows a panel's slice is used for all of them while it is in the first-level cache.
const SLICE: usize = 512;
/// The same for pairs of steps: a register tile reads half as much for as many products, and is as fast from the second-level cache.
const PAIRS: usize = 512;
/// Bytes of codes that are unpacked at a time, unless a single group has more: they stay in the first-level cache.
pub(crate) const UNPACKED: usize = 16 * 1024;

/// Panels of one segment, and where their sums are.
pub(crate) struct Part<'a> {
    pub(crate) place: &'a Place,
    pub(crate) first: usize,
    pub(crate) panels: usize,
    /// In a row of sums.
    pub(crate) column: usize,
}

/// Sums of one task, `[rows][width]`.
pub(crate) struct Sums<'a> {
    pub(crate) floats: &'a mut [f32],
    pub(crate) width: usize,
}

#[inline(always)]
pub(crate) fn products<L: Integers>(
    l: L,
    job: &Job<'_>,
    part: &Part<'_>,
    sums: &mut Sums<'_>,
    scratch: &mut [f32],
) {
    match &part.place.panel {
        Panel::Float { dtype: Dtype::F32, elements } => {
            float_products::<L, f32>(l, job, part, *elements, sums);
        }
        Panel::Float { dtype: Dtype::F16, elements } => {
            float_products::<L, f16>(l, job, part, *elements, sums);
        }
        Panel::Float { dtype: Dtype::Bf16, elements } => {
            l.with_pairs(PairProducts { job, part, size: *elements, sums });
        }
        Panel::Codes(layout) => {
            let Some(steps) = part.place.grouping.and_then(|grouping| job.steps.get(grouping))
            else {
                unreachable!("rows are quantised for every grouping")
            };
            l.with_dots(CodeProducts { job, part, layout, steps, sums, scratch });
        }
    }
}

#[inline(always)]
fn float_products<L: Lanes, E: Stepwise>(
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

/// Products of weights in bf16.
struct PairProducts<'a, 's> {
    job: &'a Job<'a>,
    part: &'a Part<'a>,
    /// Elements of a panel.
    size: usize,
    sums: &'a mut Sums<'s>,
}

impl PairKernel for PairProducts<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Pairs>(self, m: M) {
        let Self { job, part, size, sums } = self;
        let Some(x) = job.pairs else { unreachable!("rows are rounded for weights in bf16") };
        let (x, pairs) = (x.as_pairs(m), x.pairs);
        let (deal, panels, rows) = (job.deal, part.panels, job.deal.padded_rows());
        let weights: &[bf16] =
            bytemuck::cast_slice(job.weights.panels(part.place, part.first, part.panels));
        assert!(
            sums.floats.len() >= rows * sums.width
                && part.column + panels * LANES <= sums.width
                && weights.len() >= panels * size
                && size >= pairs * 2 * LANES
                && x.len() >= rows * pairs,
            "scratch is too small"
        );
        // As above.
        let slice = if deal.tiles() == 1 { pairs } else { PAIRS };
        let together = M::Lanes::panels(deal.each());
        for k in (0..pairs).step_by(slice.max(1)) {
            for panel in (0..panels).step_by(together) {
                for Dealt { first, padded, .. } in deal.all() {
                    // SAFETY: the slices above hold `panels` whole panels of so many pairs, the activations and the sums of
                    // all padded rows; a slice's pairs are inside a panel, and sums are only ours.
                    unsafe {
                        let tile = PairTile {
                            steps: slice.min(pairs - k),
                            first: k == 0,
                            weights: weights.as_ptr().add(panel * size + k * 2 * LANES),
                            panel_stride: size,
                            x: x.as_ptr().add(first * pairs + k * padded),
                            sums: (sums.floats.as_mut_ptr())
                                .add(first * sums.width + part.column + panel * LANES),
                            sums_stride: sums.width,
                        };
                        pair_tile::tiles(m, &tile, padded, together.min(panels - panel));
                    }
                }
            }
        }
    }
}

/// Products of codes.
struct CodeProducts<'a, 's> {
    job: &'a Job<'a>,
    part: &'a Part<'a>,
    layout: &'a CodePanel,
    steps: &'a Steps<'a>,
    sums: &'a mut Sums<'s>,
    scratch: &'a mut [f32],
}

impl DotKernel for CodeProducts<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dots>(mut self, d: D) {
        self.check();
        self.few(d);
        if self.job.deal.each() <= D::Lanes::FEW {
            return;
        }
        if self.layout.format.bits == Bits::Eight {
            self.many::<D, false>(d);
        } else {
            self.many::<D, true>(d);
        }
    }
}

impl CodeProducts<'_, '_> {
    /// Checks everything that is read and written, for all rows and panels.
    fn check(&self) {
        let Self { job, part, layout, steps, sums, .. } = self;
        let (rows, grouping) = (job.deal.padded_rows(), &steps.grouping);
        let weights = job.weights.panels(part.place, part.first, part.panels);
        assert!(
            sums.floats.len() >= rows * sums.width
                && part.column + part.panels * LANES <= sums.width
                && weights.len() >= part.panels * layout.bytes
                && layout.grouping == *grouping
                && steps.steps.len() >= rows * grouping.all_steps()
                && steps.sums.len().min(steps.scales.len()).min(steps.totals.len())
                    >= rows * grouping.groups,
            "scratch is too small"
        );
    }

    /// Those tiles that have few rows.
    #[inline(always)]
    fn few<D: Dots>(&mut self, d: D) {
        let Self { job, part, layout, steps, sums, .. } = self;
        let weights = job.weights.panels(part.place, part.first, part.panels);
        let grouping = &steps.grouping;
        // So few panels at a time that they are in the cache for the tiles that follow.
        for panel in (0..part.panels).step_by(WIDEST) {
            let end = part.panels.min(panel + WIDEST);
            for Dealt { first, padded, .. } in
                job.deal.all().filter(|tile| tile.padded <= D::Lanes::FEW)
            {
                // SAFETY: `check` has seen that the slices hold all steps and groups of padded rows, whole panels, and the
                // sums, which are only ours.
                unsafe {
                    let tile = StoredTile {
                        layout,
                        panels: weights.as_ptr(),
                        x: steps.steps.as_ptr().add(first * grouping.all_steps()),
                        step_sums: steps.sums.as_ptr().add(first * grouping.groups),
                        step_scales: steps.scales.as_ptr().add(first * grouping.groups),
                        step_totals: steps.totals.as_ptr().add(first * grouping.groups),
                        sums: sums.floats.as_mut_ptr().add(first * sums.width + part.column),
                        sums_stride: sums.width,
                    };
                    stored_tile::tiles(d, &tile, padded, panel..end);
                }
            }
        }
    }

    /// Those tiles that have more rows. `SMALL`: codes are of fewer than eight bits and are unpacked first.
    #[inline(always)]
    fn many<D: Dots, const SMALL: bool>(&mut self, d: D) {
        let Self { job, part, layout, steps, sums, scratch } = self;
        let (deal, panels) = (job.deal, part.panels);
        let (grouping, together) = (steps.grouping, D::Lanes::panels(deal.each()));
        let weights = job.weights.panels(part.place, part.first, panels);
        let slice = groups_together(&grouping, together);
        let (terms, unpacked) = scratch.split_at_mut(together * slice * size_of::<Terms>() / 4);
        let terms: &mut [Terms] = bytemuck::cast_slice_mut(terms);
        let unpacked: &mut [u8] = bytemuck::cast_slice_mut(unpacked);
        assert!(
            unpacked.len() >= together * slice * grouping.steps * LANES,
            "scratch is too small"
        );
        for begin in (0..grouping.groups).step_by(slice) {
            let groups = begin..(begin + slice).min(grouping.groups);
            let before = begin * grouping.steps;
            for panel in (0..panels).step_by(together) {
                let width = together.min(panels - panel);
                let this = &weights[panel * layout.bytes..][..width * layout.bytes];
                let (codes, codes_stride) =
                    prepare::<D, SMALL>(d, layout, this, groups.clone(), terms, unpacked);
                for Dealt { first, padded, .. } in
                    deal.all().filter(|tile| tile.padded > D::Lanes::FEW)
                {
                    let others = first * grouping.groups + begin * padded;
                    // SAFETY: `check` has seen that the slices hold all steps and groups of padded rows, and the sums, which are
                    // only ours; terms and unpacked codes, which are below 64, were just written for `width` panels;
                    // eight-bit codes are read from the panels.
                    unsafe {
                        let tile = CodeTile {
                            groups: groups.len(),
                            steps: grouping.steps,
                            minima: layout.format.scaling.has_minima(),
                            first: begin == 0,
                            terms: terms.as_ptr(),
                            codes,
                            codes_stride,
                            x: (steps.steps.as_ptr())
                                .add(first * grouping.all_steps() + before * padded),
                            step_sums: steps.sums.as_ptr().add(others),
                            step_scales: steps.scales.as_ptr().add(others),
                            step_totals: steps.totals.as_ptr().add(others),
                            sums: (sums.floats.as_mut_ptr())
                                .add(first * sums.width + part.column + panel * LANES),
                            sums_stride: sums.width,
                        };
                        code_tile::tiles::<D, SMALL>(d, &tile, padded, width);
                    }
                }
            }
        }
    }
}

/// Reads the terms of some groups of some panels, and unpacks their codes unless they are bytes already. Returns where the codes
/// are, and how far it is from panel to panel.
#[inline(always)]
fn prepare<D: Dots, const SMALL: bool>(
    d: D,
    layout: &CodePanel,
    panels: &[u8],
    groups: Range<usize>,
    terms: &mut [Terms],
    unpacked: &mut [u8],
) -> (*const u8, usize) {
    let (l, offset) = (d.lanes(), if SMALL { 0 } else { D::OFFSET });
    let (before, here) =
        (groups.start * layout.grouping.steps, groups.len() * layout.grouping.steps);
    for (p, panel) in panels.chunks_exact(layout.bytes).enumerate() {
        let out = &mut terms[p * groups.len()..][..groups.len()];
        read_terms(l, layout, panel, groups.clone(), offset, out);
        if SMALL {
            let blocks = before / BLOCK..(before + here) / BLOCK;
            let out = &mut unpacked[p * here * LANES..][..here * LANES];
            unpack(l, layout, &panel[layout.codes..], blocks, out);
        }
    }
    if SMALL {
        (unpacked.as_ptr(), here * LANES)
    } else {
        (panels[layout.codes + before * LANES..].as_ptr(), layout.bytes)
    }
}

/// Groups that are worked on together, so that what is unpacked of so many panels stays in the cache.
fn groups_together(grouping: &Grouping, panels: usize) -> usize {
    (UNPACKED / (panels * grouping.steps * LANES)).clamp(1, grouping.groups.max(1))
}

/// The widest tile, in panels.
pub(crate) const WIDEST: usize = 4;

/// Floats of scratch for the terms and the unpacked codes of one slice.
pub(crate) fn slice_floats(grouping: &Grouping) -> usize {
    let each = |panels: usize| {
        let groups = panels * groups_together(grouping, panels);
        groups * (size_of::<Terms>() + grouping.steps * LANES) / size_of::<f32>()
    };
    [1, 2, WIDEST].into_iter().map(each).max().unwrap_or(0)
}
