//! The register tile of quantised weights: a few rows times a few panels.
//!
//! Within a group, products of codes and steps are summed exactly in integers, so that no order matters; groups are then added to an f32
//! sum in order, `sum = fma(float(integer) * step scale, weight scale, sum)` and, where there are minima, `sum = fma(step scale * Σ
//! steps, minimum, sum)`. That chain is the determinism rule here; a sum that is stored and continued is the same chain.

use std::ops::Range;

use crate::codes::Bits;
use crate::format::{BLOCK, CodePanel};
use crate::lanes::dots::{Dots, Integer, add_dots};
use crate::lanes::integers::{CODES, Integers, STEPS};
use crate::lanes::{LANES, Lanes};
use crate::pack_codes::{plane_at, unit_of};
use crate::terms::Terms;

/// `sums[r][p] (+)= Σ_k x(k, r) * weights[p][k]` over some groups.
#[derive(Clone, Copy)]
pub(crate) struct CodeTile {
    pub(crate) groups: usize,
    /// Steps of a group.
    pub(crate) steps: usize,
    /// Whether the terms have minima.
    pub(crate) minima: bool,
    /// Whether sums start at zero; otherwise at what is stored.
    pub(crate) first: bool,
    /// Of the first panel, a row of groups.
    pub(crate) terms: *const Terms,
    /// Codes of the first panel, a byte each: `[steps / 4][16][4]` from the first step of the groups on.
    pub(crate) codes: *const u8,
    /// Bytes from panel to panel of `codes`.
    pub(crate) codes_stride: usize,
    /// The tile's rows, from the first group on: `[steps / 4][rows][4]` and `[groups][rows]`.
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

/// Adds the products of `N` times four steps, from `word` on.
///
/// # Safety
/// As [`tiles`], for these steps.
#[inline(always)]
unsafe fn add_words<D: Dots, const SMALL: bool, const R: usize, const P: usize, const N: usize>(
    d: D,
    t: &CodeTile,
    word: usize,
    sums: &mut [[Integer<D>; P]; R],
) {
    let l = d.lanes();
    let mut codes = [[l.load_codes(&[0; CODES]); N]; P];
    // SAFETY: the caller promises that codes and steps are valid.
    unsafe {
        for (p, codes) in codes.iter_mut().enumerate() {
            for (i, codes) in codes.iter_mut().enumerate() {
                let at = t.codes.add(p * t.codes_stride + (word + i) * CODES);
                if !SMALL {
                    l.prefetch(at.wrapping_add(AHEAD));
                }
                *codes = l.load_codes(&*at.cast());
            }
        }
        let steps = &*t.x.add(word * R * STEPS).cast::<[[[i8; STEPS]; R]; N]>();
        add_dots::<D, SMALL, R, P, N>(d, &codes, steps, sums);
    }
}

/// `R` rows times `P` panels. `SMALL`: codes are below 64 and in the cache; otherwise they are of eight bits and come from memory.
///
/// # Safety
/// As [`tiles`], for these numbers of rows and panels.
#[expect(
    clippy::needless_range_loop,
    reason = "fixed bounds that unroll, over several arrays at once"
)]
#[inline(always)]
unsafe fn tile<D: Dots, const SMALL: bool, const R: usize, const P: usize>(d: D, t: &CodeTile) {
    let (l, words) = (d.lanes(), t.steps / STEPS);
    // SAFETY: the caller promises that everything addressed by these bounds is valid.
    unsafe {
        let sum =
            |r: usize, p: usize| t.sums.add(r * t.sums_stride + p * LANES).cast::<[f32; LANES]>();
        let mut acc = [[l.splat(0.0); P]; R];
        if !t.first {
            for r in 0..R {
                for p in 0..P {
                    acc[r][p] = l.load(&*sum(r, p));
                }
            }
        }
        for group in 0..t.groups {
            let terms = |p: usize| &*t.terms.add(p * t.groups + group);
            let mut zeros = [l.splat_integer(0); P];
            for p in 0..P {
                zeros[p] = l.load_integers(bytemuck::cast_ref(&terms(p)[1]));
            }
            let mut whole = [[l.splat_integer(0); P]; R];
            for r in 0..R {
                let total = l.splat_integer((*t.step_sums.add(group * R + r)).wrapping_neg());
                for p in 0..P {
                    whole[r][p] = l.multiply(total, zeros[p]);
                }
            }
            let words = group * words..(group + 1) * words;
            if const { SMALL && D::TWO_AT_ONCE } {
                for word in words.step_by(2) {
                    add_words::<D, SMALL, R, P, 2>(d, t, word, &mut whole);
                }
            } else {
                for word in words {
                    add_words::<D, SMALL, R, P, 1>(d, t, word, &mut whole);
                }
            }
            for p in 0..P {
                let weight = l.load(&terms(p)[0]);
                for r in 0..R {
                    let scale = l.splat(*t.step_scales.add(group * R + r));
                    acc[r][p] = l.fma(l.mul(l.to_float(whole[r][p]), scale), weight, acc[r][p]);
                }
            }
            if t.minima {
                for p in 0..P {
                    let minimum = l.load(&terms(p)[2]);
                    for r in 0..R {
                        let total = l.splat(*t.step_totals.add(group * R + r));
                        acc[r][p] = l.fma(total, minimum, acc[r][p]);
                    }
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                l.store(acc[r][p], &mut *sum(r, p));
            }
        }
    }
}

/// `R` rows times any number of panels.
///
/// # Safety
/// As [`tiles`].
#[inline(always)]
unsafe fn row_of_tiles<D: Dots, const SMALL: bool, const R: usize>(
    d: D,
    t: &CodeTile,
    panels: usize,
) {
    let mut done = 0;
    // SAFETY: panels `done ..` are among those the caller promises; so are their columns of the sums.
    unsafe {
        let from = |done: usize| CodeTile {
            terms: t.terms.add(done * t.groups),
            codes: t.codes.add(done * t.codes_stride),
            sums: t.sums.add(done * LANES),
            ..*t
        };
        if const { R <= D::Lanes::TWO_WIDE } {
            while done + 2 <= panels {
                tile::<D, SMALL, R, 2>(d, &from(done));
                done += 2;
            }
        }
        while done < panels {
            tile::<D, SMALL, R, 1>(d, &from(done));
            done += 1;
        }
    }
}

/// `rows` rows (a size of a register tile above [`Integers::FEW`], at most [`crate::lanes::Lanes::ROWS`]) times `panels` panels.
///
/// # Safety
/// For every panel, `terms` and `codes` must be valid for reading all groups and their steps; so must steps, their sums, scales
/// and totals for all rows, and `sums` for reading and writing 16 floats per panel in every row. The sums must not overlap what is read. Addresses that are only prefetched need
/// not be valid. With `SMALL`, codes must be below 64.
#[inline(always)]
pub(crate) unsafe fn tiles<D: Dots, const SMALL: bool>(
    d: D,
    t: &CodeTile,
    rows: usize,
    panels: usize,
) {
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match rows {
                $($r if const { $r > D::Lanes::FEW && $r <= D::Lanes::ROWS } => {
                    d.call(#[inline(always)] || {
                        // SAFETY: as the caller promises.
                        unsafe { row_of_tiles::<D, SMALL, $r>(d, t, panels) }
                    })
                })*
                _ => unreachable!("no register tile has {rows} rows"),
            }
        };
    }
    by_rows!(6 10 12);
}

/// Makes bytes of the codes of `blocks` blocks of fewer than eight bits: `[blocks * 2][16][4]`.
#[inline(always)]
pub(crate) fn unpack<L: Integers>(
    l: L,
    layout: &CodePanel,
    codes: &[u8],
    blocks: Range<usize>,
    out: &mut [u8],
) {
    match layout.format.bits {
        Bits::Four => unpack_planes::<L, 0>(l, layout, codes, blocks, out),
        Bits::Five => unpack_planes::<L, 1>(l, layout, codes, blocks, out),
        Bits::Six => unpack_planes::<L, 2>(l, layout, codes, blocks, out),
        Bits::Eight => unreachable!("codes of eight bits are bytes already"),
    }
}

#[inline(always)]
fn unpack_planes<L: Integers, const PLANES: usize>(
    l: L,
    layout: &CodePanel,
    codes: &[u8],
    blocks: Range<usize>,
    out: &mut [u8],
) {
    let (out, _) = out.as_chunks_mut::<{ BLOCK * LANES }>();
    for (block, out) in blocks.zip(out) {
        let (unit, inside) = unit_of(layout, block);
        let line = &codes[unit + inside * CODES..][..CODES];
        l.prefetch(line.as_ptr().wrapping_add(AHEAD));
        let Some(line) = line.as_array() else { continue };
        let (mut low, mut high) = l.nibbles(line);
        for plane in 0..PLANES {
            let bits = &codes[unit + plane_at(plane, inside)..][..2 * CODES / 8];
            l.prefetch(bits.as_ptr().wrapping_add(AHEAD));
            let (halves, _) = bits.as_chunks::<{ CODES / 8 }>();
            low = l.add_bits(low, &halves[0], 16 << plane);
            high = l.add_bits(high, &halves[1], 16 << plane);
        }
        let (halves, _) = out.as_chunks_mut::<CODES>();
        l.store_codes(low, &mut halves[0]);
        l.store_codes(high, &mut halves[1]);
    }
}
