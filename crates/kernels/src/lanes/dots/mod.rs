//! Products of codes and activations of eight bits, summed exactly: what multiplies quantised weights.
//!
//! Why apart from `integers`: of CPUs with the same vectors, the newer ones have an instruction for it. Only kernels that
//! multiply codes are compiled with and without; all others are shared.

use super::integers::{Integers, STEPS};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod scalar;

/// Sixteen i32.
pub(crate) type Integer<D> = <<D as Dots>::Lanes as Integers>::I;
/// Codes, or steps.
pub(crate) type Codes<D> = <<D as Dots>::Lanes as Integers>::C;

/// A way to multiply codes and steps.
pub(crate) trait Dots: Copy {
    type Lanes: Integers;

    /// What [`Dots::dot`] takes away from every code, because the instructions at hand want signed numbers. For codes of
    /// fewer than eight bits nothing is taken away.
    const OFFSET: i32;
    /// Whether [`Dots::dot_two`] is less work than two of [`Dots::dot`], so that it is worth more registers.
    const TWO_AT_ONCE: bool = false;

    fn lanes(self) -> Self::Lanes;
    /// As [`super::Lanes::call`].
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R;
    /// `sums + Σ (code - offset) * step` over the four steps of each lane. `SMALL` promises codes below 64 and makes the
    /// offset zero. Steps are from -127 to 127.
    fn dot<const SMALL: bool>(
        self,
        sums: Integer<Self>,
        codes: Codes<Self>,
        steps: Codes<Self>,
    ) -> Integer<Self>;
    /// [`Dots::dot`] of two vectors of small codes and their steps.
    #[inline(always)]
    fn dot_two(
        self,
        sums: Integer<Self>,
        codes: [Codes<Self>; 2],
        steps: [Codes<Self>; 2],
    ) -> Integer<Self> {
        let first = self.dot::<true>(sums, codes[0], steps[0]);
        self.dot::<true>(first, codes[1], steps[1])
    }
}

/// Adds the products of `N` vectors of codes of each of `P` panels and the steps of `R` rows to the sums; `N` is one or two.
#[inline(always)]
pub(crate) fn add_dots<
    D: Dots,
    const SMALL: bool,
    const R: usize,
    const P: usize,
    const N: usize,
>(
    d: D,
    codes: &[[Codes<D>; N]; P],
    steps: &[[[i8; STEPS]; R]; N],
    sums: &mut [[Integer<D>; P]; R],
) {
    let l = d.lanes();
    if const { SMALL && N == 2 && D::TWO_AT_ONCE } {
        for r in 0..R {
            let steps = [l.splat_steps(&steps[0][r]), l.splat_steps(&steps[N - 1][r])];
            for p in 0..P {
                sums[r][p] = d.dot_two(sums[r][p], [codes[p][0], codes[p][N - 1]], steps);
            }
        }
    } else {
        for i in 0..N {
            for r in 0..R {
                let steps = l.splat_steps(&steps[i][r]);
                for p in 0..P {
                    sums[r][p] = d.dot::<SMALL>(sums[r][p], codes[p][i], steps);
                }
            }
        }
    }
}

/// Something to run with the way of this CPU.
pub(crate) trait DotKernel {
    type Output;
    fn run<D: Dots>(self, d: D) -> Self::Output;
}
