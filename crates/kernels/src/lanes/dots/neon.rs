//! Through 16 bits, as every aarch64 CPU can; or one instruction of Armv8.2.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Dots;
use crate::lanes::Lanes;
use crate::lanes::integers::neon::{C, I};
use crate::lanes::neon::Neon;

/// Four products of each of four lanes.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn dot4<const SMALL: bool>(
    sums: int32x4_t,
    codes: uint8x16_t,
    steps: uint8x16_t,
) -> int32x4_t {
    // SAFETY: as the caller promises; no pointers.
    unsafe {
        let centred = if SMALL { codes } else { veorq_u8(codes, vdupq_n_u8(128)) };
        let (codes, steps) = (vreinterpretq_s8_u8(centred), vreinterpretq_s8_u8(steps));
        let low = vmull_s8(vget_low_s8(codes), vget_low_s8(steps));
        let high = vmull_high_s8(codes, steps);
        // Sums of two products of at most 128 * 127 fit sixteen bits.
        vpadalq_s16(sums, vpaddq_s16(low, high))
    }
}

impl Dots for Neon {
    type Lanes = Self;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn lanes(self) -> Self {
        self
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        Lanes::call(self, kernel)
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: I, codes: C, steps: C) -> I {
        // SAFETY: `self` proves that the CPU has NEON.
        std::array::from_fn(|i| unsafe { dot4::<SMALL>(sums[i], codes[i], steps[i]) })
    }
}

/// Proof that the CPU has the dot products of Armv8.2, and all that [`Neon`] proves.
#[derive(Clone, Copy)]
pub(crate) struct NeonDot(Neon);

impl NeonDot {
    /// # Safety
    /// The CPU must have the dot products of Armv8.2.
    #[inline(always)]
    pub(crate) unsafe fn new(lanes: Neon) -> Self {
        Self(lanes)
    }
}

#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
fn call<R>(kernel: impl FnOnce() -> R) -> R {
    kernel()
}

/// Four products of each of four lanes. The intrinsic for it is not stable.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot(mut sums: int32x4_t, codes: uint8x16_t, steps: uint8x16_t) -> int32x4_t {
    // SAFETY: only registers are read and written.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) codes,
            in(vreg) steps,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

impl Dots for NeonDot {
    type Lanes = Neon;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn lanes(self) -> Neon {
        self.0
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { call(kernel) }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: I, codes: C, steps: C) -> I {
        // SAFETY: as above.
        std::array::from_fn(|i| unsafe {
            let centred = if SMALL { codes[i] } else { veorq_u8(codes[i], vdupq_n_u8(128)) };
            sdot(sums[i], centred, steps[i])
        })
    }
}
