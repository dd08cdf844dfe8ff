//! Products of codes and activations of eight bits, summed exactly: what multiplies quantised weights.
//!
//! Why apart from `integers`: of CPUs with the same vectors, the newer ones have an instruction for it. Only kernels that
//! multiply codes are compiled with and without; all others are shared.

use super::integers::Integers;

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

    fn lanes(self) -> Self::Lanes;
    /// As [`super::Lanes::call`].
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R;
    /// `sums + Σ (code - offset) * step` over the four steps of each lane. `SMALL` promises codes below 128 and makes the
    /// offset zero. Steps are from -127 to 127.
    fn dot<const SMALL: bool>(
        self,
        sums: Integer<Self>,
        codes: Codes<Self>,
        steps: Codes<Self>,
    ) -> Integer<Self>;
}

/// Something to run with the way of this CPU.
pub(crate) trait DotKernel {
    type Output;
    fn run<D: Dots>(self, d: D) -> Self::Output;
}
