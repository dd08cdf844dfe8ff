//! The register tile of weights in bf16: as `tile`, two steps at a time.
//!
//! Every sum is one chain of fused multiply-adds over pairs of steps in order, in a pair the odd one first (see `lanes::pairs`),
//! whatever the tile's shape.

use half::bf16;

use crate::lanes::pairs::Pairs;
use crate::lanes::{LANES, Lanes};
use crate::tile::Tile;

/// Its steps are pairs: x is `[pairs][rows]`.
pub(crate) type PairTile<X> = Tile<bf16, X>;

/// How far ahead of the arithmetic weights are asked for.
const AHEAD: usize = 4096;

/// `R` rows times `P` panels.
///
/// # Safety
/// As [`tiles`], for these numbers of rows and panels.
#[expect(
    clippy::needless_range_loop,
    reason = "fixed bounds that unroll, over several arrays at once"
)]
#[inline(always)]
unsafe fn tile<M: Pairs, const R: usize, const P: usize>(m: M, t: &PairTile<M::Pair>) {
    let l = m.lanes();
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
        for pair in 0..t.steps {
            let mut weights = [&[bf16::ZERO; 2 * LANES]; P];
            for p in 0..P {
                let at = t.weights.add(p * t.panel_stride + pair * 2 * LANES);
                l.prefetch(at.cast::<u8>().wrapping_add(AHEAD));
                weights[p] = &*at.cast();
            }
            m.add_products(weights, &*t.x.add(pair * R).cast::<[M::Pair; R]>(), &mut acc);
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
unsafe fn row_of_tiles<M: Pairs, const R: usize>(m: M, t: &PairTile<M::Pair>, panels: usize) {
    let mut done = 0;
    // SAFETY: panels `done ..` are among those the caller promises; so are their columns of the sums.
    unsafe {
        let from = |done: usize| PairTile {
            weights: t.weights.add(done * t.panel_stride),
            sums: t.sums.add(done * LANES),
            ..*t
        };
        if const { R <= M::Lanes::FOUR_WIDE } {
            while done + 4 <= panels {
                tile::<M, R, 4>(m, &from(done));
                done += 4;
            }
        }
        if const { R <= M::Lanes::TWO_WIDE } {
            while done + 2 <= panels {
                tile::<M, R, 2>(m, &from(done));
                done += 2;
            }
        }
        while done < panels {
            tile::<M, R, 1>(m, &from(done));
            done += 1;
        }
    }
}

/// `rows` rows (a size of a register tile, at most [`Pairs::ROWS`]) times `panels` panels.
///
/// # Safety
/// For every panel p < `panels`, `weights + p * panel_stride` must be valid for reading `steps` times 32 elements; `x` for
/// reading `steps` times `rows`; `sums` for reading and writing 16 floats per panel in every row. The sums must not overlap
/// what is read. Addresses that are only prefetched need not be valid.
#[inline(always)]
pub(crate) unsafe fn tiles<M: Pairs>(m: M, t: &PairTile<M::Pair>, rows: usize, panels: usize) {
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match rows {
                $($r if const { $r <= M::ROWS } => {
                    m.call(#[inline(always)] || {
                        // SAFETY: as the caller promises.
                        unsafe { row_of_tiles::<M, $r>(m, t, panels) }
                    })
                })*
                _ => unreachable!("no register tile has {rows} rows"),
            }
        };
    }
    by_rows!(1 2 3 4 6 8 10 12 16 24);
}
