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
pub(crate) unsafe fn scale_and_minimum<L: Integers>(
    l: L,
    layout: &CodePanel,
    panel: *const u8,
    group: usize,
) -> (L::V, L::V) {
    let outer = group / layout.nested;
    // SAFETY: these are rows of sections that the format has; sections start at multiples of 64 bytes.
    unsafe {
        let half = |section: usize| l.load_f16(&*panel.add(section + outer * 2 * LANES).cast());
        let byte = |section: usize| panel.add(section + group * LANES);
        let (scale, none) = (half(layout.scales), l.splat(0.0));
        let nested = || l.mul(scale, l.to_float(l.widen_i8(&*byte(layout.group_scales).cast())));
        match layout.format.scaling {
            Scaling::Centred | Scaling::Zeros => (scale, none),
            Scaling::Minima => (scale, half(layout.minima)),
            Scaling::NestedCentred => (nested(), none),
            Scaling::NestedMinima => {
                let own = l.to_float(l.widen_u8(&*byte(layout.group_minima).cast()));
                (nested(), l.sub(none, l.mul(half(layout.minima), own)))
            }
        }
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
    l.subtract(l.widen_u8(stored), l.splat_integer(offset))
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
            let (scale, minimum) = scale_and_minimum(l, layout, panel.as_ptr(), group);
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
