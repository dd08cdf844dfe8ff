//! The register tile: a few rows times a few panels, the inner loop of linear layers and of attention.
//!
//! Every sum is one chain of fused multiply-adds over the steps in order, whatever the tile's shape; a sum that is stored and
//! continued in a later tile is the same chain. That is the determinism rule for everything built on tiles.

use crate::dtype::Stepwise;
use crate::lanes::{LANES, Lanes};

/// One product: `sums[r][p] (+)= Σ_k x(k, r) * weights[p][k]`, with r over rows and p over panels.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E, X = f32> {
    /// How many k; where x are pairs of steps, how many pairs.
    pub(crate) steps: usize,
    /// Whether sums start at zero; otherwise at what is stored.
    pub(crate) first: bool,
    /// First panel.
    pub(crate) weights: *const E,
    /// Elements from panel to panel.
    pub(crate) panel_stride: usize,
    /// `x(0, 0)`.
    pub(crate) x: *const X,
    /// `[rows][..]`, 16 columns per panel.
    pub(crate) sums: *mut f32,
    /// Floats from row to row of `sums`.
    pub(crate) sums_stride: usize,
}

/// Where `x(k, r)` is, and whether weights come from memory; known when the tile is compiled.
pub(crate) trait Order {
    /// Whether to ask for weights ahead of the arithmetic.
    const STREAM: bool;
    fn offset(k: usize, r: usize, rows: usize) -> usize;
}

/// `[k][rows]`
pub(crate) struct StepMajor<const STREAM: bool>;

/// `[rows][STRIDE]`, with weights that are in the cache.
pub(crate) struct RowMajor<const STRIDE: usize>;

impl<const STREAM: bool> Order for StepMajor<STREAM> {
    const STREAM: bool = STREAM;

    #[inline(always)]
    fn offset(k: usize, r: usize, rows: usize) -> usize {
        k * rows + r
    }
}

impl<const STRIDE: usize> Order for RowMajor<STRIDE> {
    const STREAM: bool = false;

    #[inline(always)]
    fn offset(k: usize, r: usize, _rows: usize) -> usize {
        r * STRIDE + k
    }
}

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
unsafe fn tile<L: Lanes, E: Stepwise, O: Order, const R: usize, const P: usize>(l: L, t: &Tile<E>) {
    // SAFETY: the caller promises that everything addressed by these bounds is valid: `P` panels of `steps` steps (of
    // an even number of them), `R` rows of x, and sums.
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
        for pair in 0..t.steps / 2 {
            let mut even = [l.splat(0.0); P];
            let mut odd = even;
            for p in 0..P {
                let at = t.weights.add(p * t.panel_stride + pair * 2 * LANES);
                if O::STREAM {
                    for line in (0..size_of::<E>() * 2 * LANES).step_by(64) {
                        l.prefetch(at.cast::<u8>().wrapping_add(AHEAD + line));
                    }
                }
                (even[p], odd[p]) = (E::load(l, &*at.cast()), E::load(l, &*at.add(LANES).cast()));
            }
            for r in 0..R {
                let x = l.splat(*t.x.add(O::offset(2 * pair, r, R)));
                for p in 0..P {
                    acc[r][p] = l.fma(even[p], x, acc[r][p]);
                }
            }
            for r in 0..R {
                let x = l.splat(*t.x.add(O::offset(2 * pair + 1, r, R)));
                for p in 0..P {
                    acc[r][p] = l.fma(odd[p], x, acc[r][p]);
                }
            }
        }
        if t.steps % 2 == 1 {
            let last = t.steps - 1;
            for p in 0..P {
                let at = t.weights.add(p * t.panel_stride + last * LANES);
                let even = E::load(l, &*at.cast());
                for r in 0..R {
                    let x = l.splat(*t.x.add(O::offset(last, r, R)));
                    acc[r][p] = l.fma(even, x, acc[r][p]);
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
unsafe fn row_of_tiles<L: Lanes, E: Stepwise, O: Order, const R: usize>(
    l: L,
    t: &Tile<E>,
    panels: usize,
) {
    let mut done = 0;
    // SAFETY: panels `done ..` are among those the caller promises; so are their columns of the sums.
    unsafe {
        let from = |done: usize| Tile {
            weights: t.weights.add(done * t.panel_stride),
            sums: t.sums.add(done * LANES),
            ..*t
        };
        if const { R <= L::FOUR_WIDE } {
            while done + 4 <= panels {
                tile::<L, E, O, R, 4>(l, &from(done));
                done += 4;
            }
        }
        if const { R <= L::TWO_WIDE } {
            while done + 2 <= panels {
                tile::<L, E, O, R, 2>(l, &from(done));
                done += 2;
            }
        }
        while done < panels {
            tile::<L, E, O, R, 1>(l, &from(done));
            done += 1;
        }
    }
}

/// Rows that a register tile can have, those above twelve only if it multiplies pairs of bf16. Not every number: each costs a lot
/// of code, and a tile may be padded.
const SIZES: [usize; 10] = [1, 2, 3, 4, 6, 8, 10, 12, 16, 24];

/// How many rows are dealt out to register tiles.
#[derive(Clone, Copy)]
pub(crate) struct Deal {
    rows: usize,
    each: usize,
}

/// The rows of one tile.
pub(crate) struct Dealt {
    pub(crate) first: usize,
    /// Rows that exist.
    pub(crate) count: usize,
    /// Rows of the tile: one of its sizes, at least `count`.
    pub(crate) padded: usize,
}

/// The smallest size of a tile that holds `rows`.
fn padded(rows: usize) -> usize {
    SIZES.into_iter().find(|size| *size >= rows).unwrap_or(rows)
}

impl Deal {
    /// Tiles of equal size, of at most `max` (see [`Lanes::ROWS`]) rows; the last one may be smaller.
    pub(crate) fn new(rows: usize, max: usize) -> Self {
        Self { rows, each: padded(rows.div_ceil(rows.div_ceil(max).max(1)).max(1)) }
    }

    /// The most rows in a tile.
    pub(crate) fn each(self) -> usize {
        self.each
    }

    /// How many tiles.
    pub(crate) fn tiles(self) -> usize {
        self.rows.div_ceil(self.each)
    }

    /// Rows of all tiles.
    pub(crate) fn padded_rows(self) -> usize {
        match self.tiles() {
            0 => 0,
            tiles => (tiles - 1) * self.each + self.tile(tiles - 1).padded,
        }
    }

    /// All tiles.
    pub(crate) fn all(self) -> impl Iterator<Item = Dealt> {
        (0..self.tiles()).map(move |i| self.tile(i))
    }

    pub(crate) fn tile(self, i: usize) -> Dealt {
        let first = i * self.each;
        let count = self.each.min(self.rows - first);
        Dealt { first, count, padded: padded(count) }
    }
}

/// The largest size of a tile of at most `rows` and `max` rows.
pub(crate) fn size_within(rows: usize, max: usize) -> usize {
    SIZES.into_iter().rev().find(|size| *size <= rows.min(max)).unwrap_or(1)
}

/// `rows` rows (one of [`SIZES`], at most [`Lanes::ROWS`]) times `panels` panels.
///
/// # Safety
/// For every panel p < `panels`, `weights + p * panel_stride` must be valid for reading `steps`, rounded up to even, times 16
/// elements; `x` for reading every `x(k, r)`; `sums` for reading and writing 16 floats per panel in every row. The sums
/// must not overlap what is read. Addresses that are only prefetched need not be valid.
#[inline(always)]
pub(crate) unsafe fn tiles<L: Lanes, E: Stepwise, O: Order>(
    l: L,
    t: &Tile<E>,
    rows: usize,
    panels: usize,
) {
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match rows {
                $($r if const { $r <= L::ROWS } => {
                    l.call(#[inline(always)] || {
                        // SAFETY: as the caller promises.
                        unsafe { row_of_tiles::<L, E, O, $r>(l, t, panels) }
                    })
                })*
                _ => unreachable!("no register tile has {rows} rows"),
            }
        };
    }
    by_rows!(1 2 3 4 6 8 10 12);
}
