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

/// One output.
///
/// # Panics
/// For a nested scaling: it comes from files only.
pub(crate) fn quantise(panel: &CodePanel, values: &[f32], row: &mut CodeRow) {
    let format = panel.format;
    assert!(!format.scaling.is_nested(), "{format:?} is not a format that floats are quantised to");
    row.codes.clear();
    row.scales.clear();
    row.minima.clear();
    row.zeros.clear();
    for group in 0..panel.grouping.groups {
        quantise_group(panel, &values[panel.grouping.range(group)], row);
    }
}

fn quantise_group(panel: &CodePanel, values: &[f32], row: &mut CodeRow) {
    let format = panel.format;
    let largest = f32::from(format.bits.largest());
    let centre = f32::from(format.bits.centre());
    if !values.iter().all(|x| x.is_finite()) {
        row.scales.push(f16::NAN);
        match format.scaling {
            Scaling::Minima => row.minima.push(f16::ZERO),
            Scaling::Zeros => row.zeros.push(0),
            _ => {}
        }
        return row.codes.extend(values.iter().map(|_| 0));
    }
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
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
            let zero = nearest(-least, scale.to_f32(), 0.0, largest);
            row.zeros.push(zero);
            (scale, 0.0, f32::from(zero))
        }
        _ => (half(least.abs().max(most.abs()) / (centre - 1.0)), 0.0, centre),
    };
    row.scales.push(scale);
    let scale = scale.to_f32();
    row.codes.extend(values.iter().map(|x| nearest(x - origin, scale, first, largest)));
}

/// The nearest f16 that is a number.
fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// The code nearest to `x`, where `first` is that of zero.
fn nearest(x: f32, scale: f32, first: f32, largest: f32) -> u8 {
    let steps = if scale > 0.0 { (x / scale).round_ties_even() } else { 0.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and clamped to what a code can be"
    )]
    let code = (steps + first).clamp(0.0, largest) as u8;
    code
}
