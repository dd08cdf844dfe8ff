//! Through 16 bits, where sums of two products cannot saturate; or one instruction of AVX-VNNI.

use std::arch::x86_64::*;

use super::Dots;
use crate::lanes::Lanes;
use crate::lanes::avx2::Avx2;
use crate::lanes::integers::avx2::I;

/// Four products of each of eight lanes: codes as in [`Dots::dot`].
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn dot8<const SMALL: bool>(sums: __m256i, codes: __m256i, steps: __m256i) -> __m256i {
    // SAFETY: as the caller promises; no pointers.
    unsafe {
        let pairs = if SMALL {
            _mm256_maddubs_epi16(codes, steps)
        } else {
            // The magnitude of the centred code, at most 128, times the step with the code's sign: at most 2 * 128 * 127.
            let centred = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(steps, centred))
        };
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Twice four products of each of eight lanes, of codes below 64.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn dot_two8(sums: __m256i, codes: [__m256i; 2], steps: [__m256i; 2]) -> __m256i {
    // SAFETY: as the caller promises; no pointers.
    unsafe {
        // At most 4 * 63 * 127.
        let pairs = _mm256_add_epi16(
            _mm256_maddubs_epi16(codes[0], steps[0]),
            _mm256_maddubs_epi16(codes[1], steps[1]),
        );
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

impl Dots for Avx2 {
    type Lanes = Self;
    const OFFSET: i32 = 128;
    const TWO_AT_ONCE: bool = true;

    #[inline(always)]
    fn lanes(self) -> Self {
        self
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        Lanes::call(self, kernel)
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: I, codes: I, steps: I) -> I {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            I(dot8::<SMALL>(sums.0, codes.0, steps.0), dot8::<SMALL>(sums.1, codes.1, steps.1))
        }
    }
    #[inline(always)]
    fn dot_two(self, sums: I, [codes, more]: [I; 2], [steps, others]: [I; 2]) -> I {
        // SAFETY: as above.
        unsafe {
            I(
                dot_two8(sums.0, [codes.0, more.0], [steps.0, others.0]),
                dot_two8(sums.1, [codes.1, more.1], [steps.1, others.1]),
            )
        }
    }
}

/// Proof that the CPU has AVX-VNNI, and all that [`Avx2`] proves.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Vnni(Avx2);

impl Avx2Vnni {
    /// # Safety
    /// The CPU must have AVX-VNNI.
    #[inline(always)]
    pub(crate) unsafe fn new(lanes: Avx2) -> Self {
        Self(lanes)
    }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline(never)]
fn call<R>(kernel: impl FnOnce() -> R) -> R {
    kernel()
}

impl Dots for Avx2Vnni {
    type Lanes = Avx2;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { call(kernel) }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: I, codes: I, steps: I) -> I {
        // SAFETY: as above.
        unsafe {
            I(
                _mm256_dpbusd_avx_epi32(sums.0, codes.0, steps.0),
                _mm256_dpbusd_avx_epi32(sums.1, codes.1, steps.1),
            )
        }
    }
}
