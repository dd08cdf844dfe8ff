//! Sixteen f32 lanes: the one vector every algorithm of this crate is written in.
//!
//! Why: an algorithm is written once, generic over [`Lanes`], and instantiated per instruction set. Every instance performs
//! the same fused operations on the same lanes in the same order, so all of them give the same bits; a request gets
//! the same tokens on every CPU.
//!
//! Invariants: `fma` rounds once; `fold_add` adds lane `i` to lane `i + 8`, then `+ 4`, `+ 2`, `+ 1`; `max(a, b)` is
//! `if a > b { a } else { b }` (a NaN in `b` survives, one in `a` does not); `min` likewise. Payloads of NaN are not
//! promised. A value of an implementing type proves that the CPU has its instructions; that is why making one is unsafe and
//! using one is not.

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod dots;
pub(crate) mod integers;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod pairs;
pub(crate) mod scalar;

use pairs::{PairKernel, Widened};

/// Lanes in a vector, output channels in a panel.
pub(crate) const LANES: usize = 16;

/// One instruction set's vector of [`LANES`] floats.
pub(crate) trait Lanes: Copy {
    /// The vector.
    type V: Copy;

    /// Most rows of a register tile (see `tile`), 1 to 12.
    const ROWS: usize;

    /// Most rows of register tiles that are four vectors wide.
    const FOUR_WIDE: usize;
    /// Most rows of register tiles that are at least two vectors wide.
    const TWO_WIDE: usize;

    /// How many vectors wide the register tile of `rows` rows is: enough independent sums to hide the latency of an FMA,
    /// few enough to stay in registers.
    #[inline(always)]
    fn panels(rows: usize) -> usize {
        match rows {
            _ if rows <= Self::FOUR_WIDE => 4,
            _ if rows <= Self::TWO_WIDE => 2,
            _ => 1,
        }
    }

    /// Calls `kernel`, a closure that is `#[inline(always)]`, as a function of its own that is compiled for the instruction set. All
    /// that is generic over lanes is inlined; the door into an instruction set is such a call, and so is each part of a kernel
    /// that comes in many kinds, for compilers are slow with functions of hundreds of kilobytes.
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R;

    /// Runs `kernel` with the fastest way to multiply pairs of bf16.
    #[inline(always)]
    fn with_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        kernel.run(Widened(self))
    }

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, x: Self::V, to: &mut [f32; LANES]);
    fn load_f16(self, from: &[f16; LANES]) -> Self::V;
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V;
    /// Lane `i` of the first vector is element `2 i`, of the second `2 i + 1`.
    fn load_bf16_pairs(self, from: &[bf16; 2 * LANES]) -> (Self::V, Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// Magnitude of `a` with the sign of `sign`.
    fn copysign(self, a: Self::V, sign: Self::V) -> Self::V;
    /// Lane-wise `if a > b { yes } else { no }`.
    fn select_gt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// To the nearest whole number, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for whole n in -126 ..= 128 (128 gives infinity).
    fn pow2(self, n: Self::V) -> Self::V;

    /// The sum of all lanes, in the order stated above.
    fn fold_add(self, a: Self::V) -> f32;
    /// The largest lane.
    fn fold_max(self, a: Self::V) -> f32;
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`; bits are moved, never changed.
    fn transpose(self, rows: &mut [Self::V; LANES]);

    /// Asks for the cache line at `at`, which need not be a valid address.
    fn prefetch(self, at: *const u8);

    // Keys and values, of which several numbers may lie in each lane.

    /// Sixteen whole numbers.
    fn load_i8(self, from: &[i8; LANES]) -> Self::V;
    /// The lower and the upper half of each lane as bf16.
    fn unpack_bf16(self, packed: Self::V) -> (Self::V, Self::V);
    /// The four bytes of each lane as whole numbers, the lowest first.
    fn unpack_i8(self, packed: Self::V) -> [Self::V; 4];
}

/// The first `from.len() < 16` lanes from memory, the others `fill`.
#[inline(always)]
pub(crate) fn load_tail<L: Lanes>(l: L, from: &[f32], fill: f32) -> L::V {
    let mut whole = [fill; LANES];
    whole[..from.len()].copy_from_slice(from);
    l.load(&whole)
}

/// The first `to.len() < 16` lanes to memory.
#[inline(always)]
pub(crate) fn store_tail<L: Lanes>(l: L, x: L::V, to: &mut [f32]) {
    let mut whole = [0.0; LANES];
    l.store(x, &mut whole);
    to.copy_from_slice(&whole[..to.len()]);
}

/// Replaces every element of `x` by `f` of it, sixteen at a time.
macro_rules! map_lanes {
    ($l:expr, $x:expr, |$v:ident| $body:expr) => {{
        let (whole, tail) = $x.as_chunks_mut::<{ $crate::lanes::LANES }>();
        for chunk in whole {
            let $v = $l.load(chunk);
            $l.store($body, chunk);
        }
        if !tail.is_empty() {
            let $v = $crate::lanes::load_tail($l, tail, 0.0);
            $crate::lanes::store_tail($l, $body, tail);
        }
    }};
}
pub(crate) use map_lanes;
