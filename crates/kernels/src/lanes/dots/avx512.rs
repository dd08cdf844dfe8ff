//! Through 16 bits, where sums of two products cannot saturate; or one instruction of AVX512-VNNI.

use std::arch::x86_64::*;

use super::Dots;
use crate::lanes::Lanes;
use crate::lanes::avx512::Avx512;

impl Dots for Avx512 {
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
    fn dot<const SMALL: bool>(self, sums: __m512i, codes: __m512i, steps: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let pairs = if SMALL {
                _mm512_maddubs_epi16(codes, steps)
            } else {
                // The magnitude of the centred code, at most 128, times the step with the code's sign: at most 2 * 128 * 127.
                let centred = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
                let negative = _mm512_movepi8_mask(centred);
                let signed = _mm512_mask_sub_epi8(steps, negative, _mm512_setzero_si512(), steps);
                _mm512_maddubs_epi16(_mm512_abs_epi8(centred), signed)
            };
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn dot_two(self, sums: __m512i, codes: [__m512i; 2], steps: [__m512i; 2]) -> __m512i {
        // SAFETY: as above.
        unsafe {
            // At most 4 * 63 * 127.
            let pairs = _mm512_add_epi16(
                _mm512_maddubs_epi16(codes[0], steps[0]),
                _mm512_maddubs_epi16(codes[1], steps[1]),
            );
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}

/// Proof that the CPU has AVX512-VNNI, and all that [`Avx512`] proves.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni(Avx512);

impl Avx512Vnni {
    /// # Safety
    /// The CPU must have AVX512-VNNI.
    #[inline(always)]
    pub(crate) unsafe fn new(lanes: Avx512) -> Self {
        Self(lanes)
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
fn call<R>(kernel: impl FnOnce() -> R) -> R {
    kernel()
}

impl Dots for Avx512Vnni {
    type Lanes = Avx512;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { call(kernel) }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: __m512i, codes: __m512i, steps: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(sums, codes, steps) }
    }
}
