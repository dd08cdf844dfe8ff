//! Products of pairs of bf16: what multiplies weights in bf16.
//!
//! Why: CPUs that have the instruction multiply and add two bf16 where they would multiply and add one f32. It works on
//! activations that are bf16, too, so all instruction sets round them, and with the same two fused multiply-adds for a pair
//! all of them still give the same bits: a product of two bf16 is exact in f32. The instruction takes magnitudes below 2^-126
//! for zero, which the others do not.

use std::hint::black_box;

use bytemuck::Pod;
use half::bf16;

use super::{LANES, Lanes};
use crate::dtype::Element;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

/// A way to multiply pairs of bf16.
pub(crate) trait Pairs: Copy {
    type Lanes: Lanes;
    /// Activations of an even step and of the odd one behind it, at most as large as two floats.
    type Pair: Pod + Send + Sync;
    /// Most rows of a register tile, at least [`Lanes::ROWS`]. Those above it are for the case that one tile then holds all rows
    /// and reads the weights once.
    const ROWS: usize;

    fn lanes(self) -> Self::Lanes;
    /// As [`Lanes::call`].
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R;
    /// Rounds both.
    fn pair(self, even: f32, odd: f32) -> Self::Pair;
    /// Adds the products of a pair of steps (see `format`) to the sums of every row and panel: the odd step, then the even one, each
    /// by a fused multiply-add.
    fn add_products<const R: usize, const P: usize>(
        self,
        weights: [&[bf16; 2 * LANES]; P],
        x: &[Self::Pair; R],
        sums: &mut [[<Self::Lanes as Lanes>::V; P]; R],
    );
}

/// Something to run with the way of this CPU.
pub(crate) trait PairKernel {
    type Output;
    fn run<M: Pairs>(self, m: M) -> Self::Output;
}

/// Pairs as floats.
#[derive(Clone, Copy)]
pub(crate) struct Widened<L>(pub(crate) L);

impl<L: Lanes> Pairs for Widened<L> {
    type Lanes = L;
    type Pair = [f32; 2];
    const ROWS: usize = L::ROWS;

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        self.0.call(kernel)
    }
    #[inline(always)]
    fn pair(self, even: f32, odd: f32) -> [f32; 2] {
        [even, odd].map(|x| <bf16 as Element>::from_f32(x).to_f32())
    }
    #[inline(always)]
    fn add_products<const R: usize, const P: usize>(
        self,
        weights: [&[bf16; 2 * LANES]; P],
        x: &[[f32; 2]; R],
        sums: &mut [[L::V; P]; R],
    ) {
        let l = self.0;
        for step in [1, 0] {
            let mut columns = [l.splat(0.0); P];
            for p in 0..P {
                // Read once more for the other step: to keep all of them would take registers that the sums need.
                let (even, odd) = l.load_bf16_pairs(black_box(weights[p]));
                columns[p] = if step == 1 { odd } else { even };
            }
            for r in 0..R {
                let x = l.splat(x[r][step]);
                for p in 0..P {
                    sums[r][p] = l.fma(columns[p], x, sums[r][p]);
                }
            }
        }
    }
}
