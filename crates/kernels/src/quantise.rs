//! Quantisation on load: floats become codes by one fixed rule.
//!
//! Per output and group, the scale is found first and rounded to f16; codes are then the nearest ones under that rounded scale,
//! ties to even. `Centred`: the largest magnitude over the largest signed code (7, 15, 31, 127). `Minima`: the minimum is the
//! smallest number, rounded to f16; the scale is what is from there to the largest number over the largest code. `Zeros`: as `Minima` over a range
//! that includes zero, whose code is `zero`. Where a group has a number that is none, its scale is NaN, so that it
//! shows instead of passing for a weight.

use half::f16;

use crate::codes::{CodeRow, Scaling};
use crate::format::CodePanel;
use crate::lanes::{LANES, Lanes, load_tail};

/// One output.
///
/// # Panics
/// For a nested scaling: it comes from files only.
#[inline(always)]
pub(crate) fn quantise<L: Lanes>(l: L, panel: &CodePanel, values: &[f32], row: &mut CodeRow) {
    let format = panel.format;
    assert!(!format.scaling.is_nested(), "{format:?} is not a format that floats are quantised to");
    row.codes.clear();
    row.scales.clear();
    row.minima.clear();
    row.zeros.clear();
    for group in 0..panel.grouping.groups {
        quantise_group(l, panel, &values[panel.grouping.range(group)], row);
    }
}

#[inline(always)]
fn quantise_group<L: Lanes>(l: L, panel: &CodePanel, values: &[f32], row: &mut CodeRow) {
    let format = panel.format;
    let largest = f32::from(format.bits.largest());
    let centre = f32::from(format.bits.centre());
    let Some((least, most)) = extremes(l, values) else {
        row.scales.push(f16::NAN);
        match format.scaling {
            Scaling::Minima => row.minima.push(f16::ZERO),
            Scaling::Zeros => row.zeros.push(0),
            _ => {}
        }
        return row.codes.extend(values.iter().map(|_| 0));
    };
    // Codes are counted from `origin`, a weight, as code `first`.
    let (scale, origin, first) = match format.scaling {
        Scaling::Minima => {
            let minimum = half(least);
            row.minima.push(minimum);
            let origin = minimum.to_f32();
            (half((most - origin).max(0.0) / largest), origin, 0.0)
        }
        Scaling::Zeros => {
            let (least, most) = (least.min(0.0), most.max(0.0));
            let scale = half((most - least) / largest);
            let [zero, ..] =
                nearest(l, l.splat(-least), Steps { scale: scale.to_f32(), first: 0.0, largest });
            row.zeros.push(zero);
            (scale, 0.0, f32::from(zero))
        }
        _ => (half(least.abs().max(most.abs()) / (centre - 1.0)), 0.0, centre),
    };
    row.scales.push(scale);
    let steps = Steps { scale: scale.to_f32(), first, largest };
    let (whole, tail) = values.as_chunks();
    for x in whole {
        let codes = nearest(l, l.sub(l.load(x), l.splat(origin)), steps);
        row.codes.extend_from_slice(&codes);
    }
    if !tail.is_empty() {
        let codes = nearest(l, l.sub(load_tail(l, tail, 0.0), l.splat(origin)), steps);
        row.codes.extend_from_slice(&codes[..tail.len()]);
    }
}

/// The smallest and the largest number, unless there is one that is none.
#[inline(always)]
fn extremes<L: Lanes>(l: L, values: &[f32]) -> Option<(f32, f32)> {
    let (whole, tail) = values.as_chunks();
    let fill = *values.first()?;
    let (mut least, mut most) = (l.splat(fill), l.splat(fill));
    // Zero for each number, and NaN for what is none.
    let mut zeros = l.splat(0.0);
    let mut take = |x: L::V| {
        least = l.min(x, least);
        most = l.max(x, most);
        zeros = l.fma(x, l.splat(0.0), zeros);
    };
    for x in whole {
        take(l.load(x));
    }
    take(load_tail(l, tail, fill));
    let mut lanes = [0.0; LANES];
    l.store(least, &mut lanes);
    let least = lanes.iter().copied().fold(f32::INFINITY, f32::min);
    (l.fold_add(zeros) == 0.0).then(|| (least, l.fold_max(most)))
}

/// The nearest f16 that is a number.
#[inline(always)]
fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// How numbers become codes.
#[derive(Clone, Copy)]
struct Steps {
    scale: f32,
    /// The code of zero.
    first: f32,
    largest: f32,
}

/// The codes nearest to numbers.
#[inline(always)]
fn nearest<L: Lanes>(l: L, x: L::V, Steps { scale, first, largest }: Steps) -> [u8; LANES] {
    let zero = l.splat(0.0);
    let steps = if scale > 0.0 { l.round(l.div(x, l.splat(scale))) } else { zero };
    let codes = l.min(l.max(l.add(steps, l.splat(first)), zero), l.splat(largest));
    let mut floats = [0.0; LANES];
    l.store(codes, &mut floats);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and clamped to what a code can be"
    )]
    floats.map(|code| code as u8)
}
