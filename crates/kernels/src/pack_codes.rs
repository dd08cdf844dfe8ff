//! Codes into panels and out again, one output at a time. The layout is in `format`.

use std::ops::Range;

use half::f16;

use crate::codes::{Bits, CodeRow, Scaling};
use crate::format::{BLOCK, CodePanel, UNIT};
use crate::lanes::LANES;
use crate::lanes::integers::{CODES, STEPS};

/// Writes an output into its lane. Bit planes must be zero in this lane.
///
/// # Panics
/// When the row does not have what the format asks for.
pub(crate) fn put(panel: &CodePanel, lane: usize, row: &CodeRow, out: &mut [u8]) {
    let grouping = &panel.grouping;
    let (groups, scaling) = (grouping.groups, panel.format.scaling);
    let expect = |there: bool, count: usize| if there { count } else { 0 };
    let lengths = [
        (row.codes.len(), grouping.inputs, "codes"),
        (row.scales.len(), panel.outer(), "scales"),
        (row.minima.len(), expect(scaling.has_minima(), panel.outer()), "minima"),
        (row.zeros.len(), expect(scaling == Scaling::Zeros, groups), "zeros"),
        (row.group_scales.len(), expect(scaling.is_nested(), groups), "group scales"),
        (row.group_minima.len(), expect(scaling == Scaling::NestedMinima, groups), "group minima"),
    ];
    for (got, wanted, what) in lengths {
        assert_eq!(got, wanted, "an output in {:?} has {wanted} {what}", panel.format);
    }
    let halves = |out: &mut [u8], at: usize, from: &[f16]| {
        for (i, value) in from.iter().enumerate() {
            out[at + 2 * (i * LANES + lane)..][..2].copy_from_slice(&value.to_le_bytes());
        }
    };
    halves(out, panel.scales, &row.scales);
    halves(out, panel.minima, &row.minima);
    for (i, value) in row.zeros.iter().enumerate() {
        out[panel.zeros + i * LANES + lane] = *value;
    }
    for (i, value) in row.group_scales.iter().enumerate() {
        out[panel.group_scales + i * LANES + lane] = value.cast_unsigned();
    }
    for (i, value) in row.group_minima.iter().enumerate() {
        out[panel.group_minima + i * LANES + lane] = *value;
    }
    let codes = &mut out[panel.codes..];
    for group in 0..groups {
        for (i, block) in row.codes[grouping.range(group)].chunks(BLOCK).enumerate() {
            let mut eight = [0; BLOCK];
            eight[..block.len()].copy_from_slice(block);
            put_block(panel, group * grouping.steps / BLOCK + i, lane, eight, codes);
        }
    }
}

/// Writes eight steps.
fn put_block(panel: &CodePanel, block: usize, lane: usize, codes: [u8; BLOCK], out: &mut [u8]) {
    let [a, b, c, d, e, f, g, h] = codes;
    let (first, second) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    let mut word = |at: usize, word: u32| out[at..at + 4].copy_from_slice(&word.to_le_bytes());
    let bits = panel.format.bits;
    if bits == Bits::Eight {
        let at = block * 2 * CODES + lane * STEPS;
        word(at, first);
        return word(at + CODES, second);
    }
    let (unit, inside) = unit_of(panel, block);
    let low = 0x0F0F_0F0F;
    word(unit + inside * CODES + lane * STEPS, first & low | (second & low) << 4);
    for plane in 0..bits.count() - 4 {
        let at = unit + plane_at(plane, inside) + lane / 2;
        for (half, codes) in [first, second].into_iter().enumerate() {
            // Bit 4 + plane of each of four codes, side by side.
            let ones = codes >> (4 + plane) & 0x0101_0101;
            let four = ones.wrapping_mul(0x1020_4080) >> 28;
            out[at + half * CODES / 8] |= four.to_le_bytes()[0] << (lane % 2 * 4);
        }
    }
}

/// Where the unit of a block starts, and which block of the unit it is.
#[inline(always)]
pub(crate) fn unit_of(panel: &CodePanel, block: usize) -> (usize, usize) {
    const BLOCKS: usize = UNIT / BLOCK;
    (block / BLOCKS * panel.unit_bytes(), block % BLOCKS)
}

/// Where the bits of a block are inside its unit.
#[inline(always)]
pub(crate) fn plane_at(plane: usize, block: usize) -> usize {
    const PLANE: usize = UNIT * LANES / 8;
    UNIT * LANES / 2 + plane * PLANE + block * (BLOCK * LANES / 8)
}

/// The code of a step.
fn code(panel: &CodePanel, step: usize, lane: usize, codes: &[u8]) -> u8 {
    let (block, half, i) = (step / BLOCK, step % BLOCK / STEPS, lane * STEPS + step % STEPS);
    let bits = panel.format.bits;
    if bits == Bits::Eight {
        return codes[(2 * block + half) * CODES + i];
    }
    let (unit, inside) = unit_of(panel, block);
    let both = codes[unit + inside * CODES + i];
    let mut code = if half == 0 { both & 15 } else { both >> 4 };
    for plane in 0..bits.count() - 4 {
        let bit = codes[unit + plane_at(plane, inside) + half * CODES / 8 + i / 8] >> (i % 8) & 1;
        code |= bit << (4 + plane);
    }
    code
}

/// One output, as the numbers that its codes mean; each is rounded once.
pub(crate) fn read(panel: &CodePanel, lane: usize, from: &[u8], out: &mut [f32]) {
    let half = |section: usize, i: usize| {
        let at = section + 2 * (i * LANES + lane);
        f64::from(f16::from_le_bytes([from[at], from[at + 1]]))
    };
    let grouping = &panel.grouping;
    let format = panel.format;
    for group in 0..grouping.groups {
        let (i, outer) = (group * LANES + lane, group / panel.nested);
        let mut scale = half(panel.scales, outer);
        let mut zero = 0.0;
        let mut minimum = 0.0;
        match format.scaling {
            Scaling::Centred => zero = f64::from(format.bits.centre()),
            Scaling::Zeros => zero = f64::from(from[panel.zeros + i]),
            Scaling::Minima => minimum = half(panel.minima, outer),
            Scaling::NestedCentred => {
                zero = f64::from(format.bits.centre());
                scale *= f64::from(from[panel.group_scales + i].cast_signed());
            }
            Scaling::NestedMinima => {
                scale *= f64::from(from[panel.group_scales + i].cast_signed());
                minimum = -half(panel.minima, outer) * f64::from(from[panel.group_minima + i]);
            }
        }
        let Range { start, end } = grouping.range(group);
        for (step, out) in (group * grouping.steps..).zip(&mut out[start..end]) {
            let code = f64::from(code(panel, step, lane, &from[panel.codes..]));
            *out = narrow((code - zero) * scale + minimum);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to nearest is meant")]
fn narrow(x: f64) -> f32 {
    x as f32
}
