//! What makes weights of codes again, read from the sections of a panel.

use std::ops::Range;

use crate::codes::Scaling;
use crate::format::CodePanel;
use crate::lanes::LANES;
use crate::lanes::integers::Integers;

/// What makes weights of a group of one panel's codes: scales, what codes are counted from (integers, as bits), minima.
pub(crate) type Terms = [[f32; LANES]; 3];

/// Scales and minima of one group of the panel at `panel`.
///
/// # Safety
/// The panel must be valid for reading, and the group one that it has.
#[inline(always)]
pub(crate) unsafe fn scales_and_minima<L: Integers>(
    l: L,
    layout: &CodePanel,
    panel: *const u8,
    group: usize,
) -> [L::V; 2] {
    let (outer, none) = (group / layout.nested * 2 * LANES, l.splat(0.0));
    let inner = group * LANES;
    // SAFETY: these are rows of sections that the format has; sections start at multiples of 64 bytes.
    unsafe {
        let mut scales = l.load_f16(&*panel.add(layout.scales + outer).cast());
        if layout.format.scaling.is_nested() {
            let own = l.widen_i8(&*panel.add(layout.group_scales + inner).cast());
            scales = l.mul(scales, l.to_float(own));
        }
        let mut minima = none;
        if layout.format.scaling.has_minima() {
            minima = l.load_f16(&*panel.add(layout.minima + outer).cast());
        }
        if layout.format.scaling == Scaling::NestedMinima {
            let own = l.widen_u8(&*panel.add(layout.group_minima + inner).cast());
            minima = l.sub(none, l.mul(minima, l.to_float(own)));
        }
        [scales, minima]
    }
}

/// What all codes are counted from in products with `offset` (see [`Integers::OFFSET`]); `None`: [`zeros`] has it.
#[inline(always)]
pub(crate) fn common_zero(layout: &CodePanel, offset: i32) -> Option<i32> {
    match layout.format.scaling {
        Scaling::Centred | Scaling::NestedCentred => {
            Some(i32::from(layout.format.bits.centre()) - offset)
        }
        Scaling::Minima | Scaling::NestedMinima => Some(-offset),
        Scaling::Zeros => None,
    }
}

/// What codes of one group of the panel at `panel` are counted from in products with `offset`, where that is stored.
///
/// # Safety
/// The panel must be valid for reading, have zeros, and the group.
#[inline(always)]
pub(crate) unsafe fn zeros<L: Integers>(
    l: L,
    layout: &CodePanel,
    panel: *const u8,
    group: usize,
    offset: i32,
) -> L::I {
    // SAFETY: a row of the section.
    let stored = unsafe { &*panel.add(layout.zeros + group * LANES).cast() };
    l.sum(l.widen_u8(stored), l.splat_integer(-offset))
}

/// The terms of some groups of one panel, for products with `offset`.
#[inline(always)]
pub(crate) fn read_terms<L: Integers>(
    l: L,
    layout: &CodePanel,
    panel: &[u8],
    groups: Range<usize>,
    offset: i32,
    out: &mut [Terms],
) {
    assert!(panel.len() >= layout.bytes && groups.end <= layout.grouping.groups, "a whole panel");
    for (group, [scales, stored_zeros, minima]) in groups.zip(out) {
        // SAFETY: the panel is whole and has the group; zeros are only read where they are stored.
        let (scale, minimum, zero) = unsafe {
            let [scale, minimum] = scales_and_minima(l, layout, panel.as_ptr(), group);
            let zero = match common_zero(layout, offset) {
                Some(zero) => l.splat_integer(zero),
                None => zeros(l, layout, panel.as_ptr(), group, offset),
            };
            (scale, minimum, zero)
        };
        l.store(scale, scales);
        l.store_integers(zero, bytemuck::cast_mut(stored_zeros));
        l.store(minimum, minima);
    }
}
