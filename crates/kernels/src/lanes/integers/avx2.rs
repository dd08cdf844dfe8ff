//! Two ymm registers; products through 16 bits, where they cannot saturate.

use std::arch::x86_64::*;

use super::{CODES, Integers, LANES, STEPS};
use crate::lanes::avx2::{Avx2, V};

macro_rules! on_cpu {
    ($($code:tt)*) => {
        // SAFETY: `self` proves that the CPU has the instructions; pointers come from references to arrays of the
        // length that is read or written, and the instructions used need no alignment.
        unsafe { $($code)* }
    };
}

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct I(__m256i, __m256i);

/// Four products of each of eight lanes.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn dot8<const SMALL: bool>(sums: __m256i, codes: __m256i, steps: __m256i) -> __m256i {
    // SAFETY: as the caller promises; no pointers.
    unsafe {
        let pairs = if SMALL {
            // At most 2 * 127 * 127: does not saturate.
            _mm256_maddubs_epi16(codes, steps)
        } else {
            // The magnitude of the centred code, at most 128, times the step with the code's sign: at most 2 * 128 * 127.
            let centred = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(steps, centred))
        };
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Adds `value` to the bytes whose bit of `bits` is set.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn add_bits32(codes: __m256i, bits: i32, value: u8) -> __m256i {
    // SAFETY: as the caller promises; no pointers.
    unsafe {
        // Each byte of the mask eight times, then one bit of each.
        let spread = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        _mm256_add_epi8(codes, _mm256_and_si256(set, _mm256_set1_epi8(value.cast_signed())))
    }
}

impl Integers for Avx2 {
    type I = I;
    type C = I;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn splat_integer(self, x: i32) -> I {
        on_cpu! { let x = _mm256_set1_epi32(x); I(x, x) }
    }
    #[inline(always)]
    fn multiply(self, a: I, b: I) -> I {
        on_cpu!(I(_mm256_mullo_epi32(a.0, b.0), _mm256_mullo_epi32(a.1, b.1)))
    }
    #[inline(always)]
    fn subtract(self, a: I, b: I) -> I {
        on_cpu!(I(_mm256_sub_epi32(a.0, b.0), _mm256_sub_epi32(a.1, b.1)))
    }
    #[inline(always)]
    fn to_float(self, a: I) -> V {
        on_cpu!(V(_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)))
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; LANES]) -> I {
        on_cpu! {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            I(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)))
        }
    }
    #[inline(always)]
    fn widen_i8(self, from: &[i8; LANES]) -> I {
        on_cpu! {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            I(_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)))
        }
    }
    #[inline(always)]
    fn narrow(self, a: V, to: &mut [i8; LANES]) {
        on_cpu! {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.0), _mm256_cvtps_epi32(a.1));
            // Packing works within halves of the register.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn load_codes(self, from: &[u8; CODES]) -> I {
        let p = from.as_ptr();
        on_cpu!(I(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())))
    }
    #[inline(always)]
    fn store_codes(self, x: I, to: &mut [u8; CODES]) {
        let p = to.as_mut_ptr();
        on_cpu! {
            _mm256_storeu_si256(p.cast(), x.0);
            _mm256_storeu_si256(p.add(32).cast(), x.1);
        }
    }
    #[inline(always)]
    fn nibbles(self, from: &[u8; CODES]) -> (I, I) {
        let I(a, b) = self.load_codes(from);
        on_cpu! {
            let mask = _mm256_set1_epi8(15);
            let low = |x| _mm256_and_si256(x, mask);
            let high = |x| _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask);
            (I(low(a), low(b)), I(high(a), high(b)))
        }
    }
    #[inline(always)]
    fn add_bits(self, codes: I, bits: &[u8; CODES / 8], value: u8) -> I {
        let [a, b, c, d, e, f, g, h] = *bits;
        let (low, high) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
        on_cpu!(I(add_bits32(codes.0, low, value), add_bits32(codes.1, high, value)))
    }
    #[inline(always)]
    fn splat_steps(self, from: &[i8; STEPS]) -> I {
        self.splat_integer(i32::from_le_bytes(from.map(i8::cast_unsigned)))
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: I, codes: I, steps: I) -> I {
        on_cpu! {
            I(dot8::<SMALL>(sums.0, codes.0, steps.0), dot8::<SMALL>(sums.1, codes.1, steps.1))
        }
    }
}
