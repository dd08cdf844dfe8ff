//! The register tile of quantised weights for few rows: they are read as they are stored, and memory sets the pace. So panels are
//! read one after another, in one stream per thread, which brought a tenth more than four side by side.
//!
//! Sums are the same chains as in `code_tile`. Codes become bytes in registers right before their products, and terms are made where
//! they are used, so that nothing stands between one read of the panels and the next.

use std::ops::Range;

use crate::codes::Bits;
use crate::format::{BLOCK, CodePanel};
use crate::lanes::dots::{Codes, Dots, Integer, add_dots};
use crate::lanes::integers::{CODES, Integers, STEPS};
use crate::lanes::{LANES, Lanes};
use crate::pack_codes::{plane_at, unit_of};
use crate::terms::{common_zero, scales_and_minima, zeros};

/// `sums[r][p] = Σ_k x(k, r) * weights[p][k]`
#[derive(Clone, Copy)]
pub(crate) struct StoredTile<'a> {
    pub(crate) layout: &'a CodePanel,
    /// Whole panels, one after another.
    pub(crate) panels: *const u8,
    /// The tile's rows: `[steps / 4][rows][4]` and `[groups][rows]`.
    pub(crate) x: *const i8,
    pub(crate) step_sums: *const i32,
    pub(crate) step_scales: *const f32,
    pub(crate) step_totals: *const f32,
    /// `[rows][..]`, 16 columns per panel.
    pub(crate) sums: *mut f32,
    /// Floats from row to row of `sums`.
    pub(crate) sums_stride: usize,
}

/// How far ahead of the arithmetic codes are asked for.
const AHEAD: usize = 4096;

/// The most sums that a row has beside each other, when its groups are long. From the cache four bring one row of int4 in groups of
/// 128 a half, two bring four rows a sixth. Of short groups the CPU has several under way by itself.
const CHAINS: usize = 4;
/// Steps of a long group.
const LONG_STEPS: usize = 64;

/// Codes of a number of bits, known when the tile is compiled.
trait Width {
    const SMALL: bool;
    /// Bytes of a block, on average.
    const BYTES: usize;
    /// Eight steps of all outputs, the first four first.
    ///
    /// # Safety
    /// `codes`, where a panel's codes start, must be valid for reading the unit of the block.
    unsafe fn load<L: Integers>(
        l: L,
        layout: &CodePanel,
        codes: *const u8,
        block: usize,
    ) -> [L::C; 2];
    /// Adds the products of a block and the steps of each row to the sums.
    fn add<D: Dots, const R: usize>(
        d: D,
        codes: &[[Codes<D>; 2]; 1],
        steps: &[[[i8; STEPS]; R]; 2],
        sums: &mut [[Integer<D>; 1]; R],
    );
}

/// A byte each.
struct Whole;

/// Four bits, and `PLANES` of one bit.
struct Nibbles<const PLANES: usize>;

impl Width for Whole {
    const SMALL: bool = false;
    const BYTES: usize = 2 * CODES;

    #[inline(always)]
    unsafe fn load<L: Integers>(l: L, _: &CodePanel, codes: *const u8, block: usize) -> [L::C; 2] {
        // SAFETY: a block is two vectors, which the caller promises.
        unsafe {
            let at = codes.add(block * Self::BYTES);
            [l.load_codes(&*at.cast()), l.load_codes(&*at.add(CODES).cast())]
        }
    }

    #[inline(always)]
    fn add<D: Dots, const R: usize>(
        d: D,
        codes: &[[Codes<D>; 2]; 1],
        steps: &[[[i8; STEPS]; R]; 2],
        sums: &mut [[Integer<D>; 1]; R],
    ) {
        add_dots::<D, false, R, 1, 2>(d, codes, steps, sums);
    }
}

impl<const PLANES: usize> Width for Nibbles<PLANES> {
    const SMALL: bool = true;
    const BYTES: usize = CODES + PLANES * (2 * CODES / 8);

    #[inline(always)]
    unsafe fn load<L: Integers>(
        l: L,
        layout: &CodePanel,
        codes: *const u8,
        block: usize,
    ) -> [L::C; 2] {
        let (unit, inside) = unit_of(layout, block);
        // SAFETY: all of it is inside the unit, which the caller promises.
        unsafe {
            let unit = codes.add(unit);
            let (mut low, mut high) = l.nibbles(&*unit.add(inside * CODES).cast());
            for plane in 0..PLANES {
                let bits = &*unit.add(plane_at(plane, inside)).cast::<[[u8; CODES / 8]; 2]>();
                low = l.add_bits(low, &bits[0], 16 << plane);
                high = l.add_bits(high, &bits[1], 16 << plane);
            }
            [low, high]
        }
    }

    #[inline(always)]
    fn add<D: Dots, const R: usize>(
        d: D,
        codes: &[[Codes<D>; 2]; 1],
        steps: &[[[i8; STEPS]; R]; 2],
        sums: &mut [[Integer<D>; 1]; R],
    ) {
        add_dots::<D, true, R, 1, 2>(d, codes, steps, sums);
    }
}

/// Adds the exact sums of a group to the tile's.
///
/// # Safety
/// As [`tiles`], for this group.
#[inline(always)]
unsafe fn add_group<L: Integers, const R: usize>(
    l: L,
    t: &StoredTile<'_>,
    panel: *const u8,
    group: usize,
    whole: &[[L::I; 1]; R],
    acc: &mut [L::V; R],
) {
    let layout = t.layout;
    // SAFETY: the caller promises that the panel and what belongs to its steps are valid.
    unsafe {
        let [weights, minima] = scales_and_minima(l, layout, panel, group);
        for (r, (acc, [whole])) in acc.iter_mut().zip(whole).enumerate() {
            let scale = l.splat(*t.step_scales.add(group * R + r));
            *acc = l.fma(l.mul(l.to_float(*whole), scale), weights, *acc);
        }
        if layout.format.scaling.has_minima() {
            for (r, acc) in acc.iter_mut().enumerate() {
                let total = l.splat(*t.step_totals.add(group * R + r));
                *acc = l.fma(total, minima, *acc);
            }
        }
    }
}

/// Adds the products of a block of a panel to the sums.
///
/// # Safety
/// As [`tiles`], for this block; `codes` is where the panel's codes start.
#[inline(always)]
unsafe fn add_block<D: Dots, W: Width, const R: usize>(
    d: D,
    t: &StoredTile<'_>,
    codes: *const u8,
    block: usize,
    sums: &mut [[Integer<D>; 1]; R],
) {
    let l = d.lanes();
    for line in (0..W::BYTES).step_by(64) {
        // Behind the end of a panel comes the one that is read next.
        l.prefetch(codes.wrapping_add(block * W::BYTES + AHEAD + line));
    }
    // SAFETY: the caller promises that the block and its steps are valid.
    unsafe {
        let codes = [W::load(l, t.layout, codes, block)];
        let steps = &*t.x.add(block * BLOCK * R).cast::<[[[i8; STEPS]; R]; 2]>();
        W::add::<D, R>(d, &codes, steps, sums);
    }
}

/// Adds the products of a group's blocks to the sums, those of a `LONG` group in chains beside each other: the sums are whole
/// numbers, of which any order gives the same.
///
/// # Safety
/// As [`add_block`], for these blocks.
#[inline(always)]
unsafe fn add_blocks<D: Dots, W: Width, const R: usize, const LONG: bool>(
    d: D,
    t: &StoredTile<'_>,
    codes: *const u8,
    blocks: Range<usize>,
    sums: &mut [[Integer<D>; 1]; R],
) {
    let l = d.lanes();
    let beside = const {
        let chains = if LONG { D::Lanes::FEW / R } else { 1 };
        if chains < CHAINS { chains.saturating_sub(1) } else { CHAINS - 1 }
    };
    let mut others = [[[l.splat_integer(0)]; R]; CHAINS - 1];
    let mut block = blocks.start;
    // SAFETY: all blocks are of the range that the caller promises.
    unsafe {
        while block + beside < blocks.end {
            add_block::<D, W, R>(d, t, codes, block, sums);
            for (i, other) in others[..beside].iter_mut().enumerate() {
                add_block::<D, W, R>(d, t, codes, block + 1 + i, other);
            }
            block += 1 + beside;
        }
        for block in block..blocks.end {
            add_block::<D, W, R>(d, t, codes, block, sums);
        }
    }
    for other in &others[..beside] {
        for ([sum], [other]) in sums.iter_mut().zip(other) {
            *sum = l.sum(*sum, *other);
        }
    }
}

/// `R` rows times one panel.
///
/// # Safety
/// As [`tiles`], for this panel.
#[inline(always)]
unsafe fn tile<D: Dots, W: Width, const R: usize, const LONG: bool>(
    d: D,
    t: &StoredTile<'_>,
    number: usize,
) {
    let (l, layout, grouping) = (d.lanes(), t.layout, &t.layout.grouping);
    let blocks = grouping.steps / BLOCK;
    let offset = if W::SMALL { 0 } else { D::OFFSET };
    let zero = common_zero(layout, offset);
    // SAFETY: the caller promises that everything addressed by these bounds is valid.
    unsafe {
        let panel = t.panels.add(number * layout.bytes);
        let codes = panel.add(layout.codes);
        let mut acc = [l.splat(0.0); R];
        for group in 0..grouping.groups {
            let zeros = match zero {
                Some(zero) => l.splat_integer(zero),
                None => zeros(l, layout, panel, group, offset),
            };
            let mut whole = [[l.splat_integer(0)]; R];
            for (r, [whole]) in whole.iter_mut().enumerate() {
                let sum: i32 = *t.step_sums.add(group * R + r);
                *whole = l.multiply(l.splat_integer(sum.wrapping_neg()), zeros);
            }
            let range = group * blocks..(group + 1) * blocks;
            add_blocks::<D, W, R, LONG>(d, t, codes, range, &mut whole);
            add_group(l, t, panel, group, &whole, &mut acc);
        }
        for (r, acc) in acc.into_iter().enumerate() {
            l.store(acc, &mut *t.sums.add(r * t.sums_stride + number * LANES).cast());
        }
    }
}

/// `rows` rows (a size of a register tile, at most [`Integers::FEW`]) times the panels of these numbers.
///
/// # Safety
/// All panels must be valid for reading; so must steps, their sums, scales and totals for all rows, and `sums` for writing 16
/// floats per panel in every row. The sums must not overlap what is read.
#[inline(always)]
pub(crate) unsafe fn tiles<D: Dots>(d: D, t: &StoredTile<'_>, rows: usize, panels: Range<usize>) {
    macro_rules! of {
        ($width:ty, $r:literal, $long:literal) => {
            d.call(
                #[inline(always)]
                || {
                    // SAFETY: as the caller promises.
                    unsafe { panels.for_each(|panel| tile::<D, $width, $r, $long>(d, t, panel)) }
                },
            )
        };
    }
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match rows {
                $($r if const { $r <= D::Lanes::FEW } => match t.layout.format.bits {
                    Bits::Four if t.layout.grouping.steps >= LONG_STEPS => of!(Nibbles<0>, $r, true),
                    Bits::Four => of!(Nibbles<0>, $r, false),
                    Bits::Five => of!(Nibbles<1>, $r, false),
                    Bits::Six => of!(Nibbles<2>, $r, false),
                    Bits::Eight => of!(Whole, $r, false),
                },)*
                _ => unreachable!("no register tile has {rows} rows"),
            }
        };
    }
    by_rows!(1 2 3 4 6 8);
}
