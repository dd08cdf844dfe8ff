//! One zmm register.

use std::arch::x86_64::*;

use super::{CODES, Integers, LANES, STEPS};
use crate::lanes::avx512::Avx512;
use crate::lanes::dots::DotKernel;
use crate::lanes::dots::avx512::Avx512Vnni;

macro_rules! on_cpu {
    ($($code:tt)*) => {
        // SAFETY: `self` proves that the CPU has the instructions; pointers come from references to arrays of the
        // length that is read or written, and the instructions used need no alignment.
        unsafe { $($code)* }
    };
}

impl Integers for Avx512 {
    type I = __m512i;
    type C = __m512i;

    #[inline(always)]
    fn splat_integer(self, x: i32) -> __m512i {
        on_cpu!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn load_integers(self, from: &[i32; LANES]) -> __m512i {
        on_cpu!(_mm512_loadu_si512(from.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_integers(self, x: __m512i, to: &mut [i32; LANES]) {
        on_cpu!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn multiply(self, a: __m512i, b: __m512i) -> __m512i {
        on_cpu!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn sum(self, a: __m512i, b: __m512i) -> __m512i {
        on_cpu!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        on_cpu!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; LANES]) -> __m512i {
        on_cpu!(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn widen_i8(self, from: &[i8; LANES]) -> __m512i {
        on_cpu!(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn narrow(self, a: __m512, to: &mut [i8; LANES]) {
        on_cpu! {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn load_codes(self, from: &[u8; CODES]) -> __m512i {
        on_cpu!(_mm512_loadu_si512(from.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_codes(self, x: __m512i, to: &mut [u8; CODES]) {
        on_cpu!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn nibbles(self, from: &[u8; CODES]) -> (__m512i, __m512i) {
        on_cpu! {
            let both = _mm512_loadu_si512(from.as_ptr().cast());
            let mask = _mm512_set1_epi8(15);
            (_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask))
        }
    }
    #[inline(always)]
    fn add_bits(self, codes: __m512i, bits: &[u8; CODES / 8], value: u8) -> __m512i {
        on_cpu! {
            let value = _mm512_set1_epi8(value.cast_signed());
            _mm512_mask_add_epi8(codes, u64::from_le_bytes(*bits), codes, value)
        }
    }
    #[inline(always)]
    fn splat_steps(self, from: &[i8; STEPS]) -> __m512i {
        on_cpu!(_mm512_set1_epi32(from.as_ptr().cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn with_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        if self.has_vnni() {
            // SAFETY: `self` says that the CPU has it.
            kernel.run(unsafe { Avx512Vnni::new(self) })
        } else {
            kernel.run(self)
        }
    }
}
