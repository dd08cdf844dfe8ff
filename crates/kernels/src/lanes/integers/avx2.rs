//! Two ymm registers.

use std::arch::x86_64::*;

use super::{CODES, Integers, LANES, STEPS};
use crate::lanes::avx2::{Avx2, V};
use crate::lanes::dots::DotKernel;
use crate::lanes::dots::avx2::Avx2Vnni;

macro_rules! on_cpu {
    ($($code:tt)*) => {
        // SAFETY: `self` proves that the CPU has the instructions; pointers come from references to arrays of the
        // length that is read or written, and the instructions used need no alignment.
        unsafe { $($code)* }
    };
}

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct I(pub(in crate::lanes) __m256i, pub(in crate::lanes) __m256i);

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

    #[inline(always)]
    fn splat_integer(self, x: i32) -> I {
        on_cpu! { let x = _mm256_set1_epi32(x); I(x, x) }
    }
    #[inline(always)]
    fn load_integers(self, from: &[i32; LANES]) -> I {
        let p = from.as_ptr();
        on_cpu!(I(_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())))
    }
    #[inline(always)]
    fn store_integers(self, x: I, to: &mut [i32; LANES]) {
        let p = to.as_mut_ptr();
        on_cpu! {
            _mm256_storeu_si256(p.cast(), x.0);
            _mm256_storeu_si256(p.add(8).cast(), x.1);
        }
    }
    #[inline(always)]
    fn multiply(self, a: I, b: I) -> I {
        on_cpu!(I(_mm256_mullo_epi32(a.0, b.0), _mm256_mullo_epi32(a.1, b.1)))
    }
    #[inline(always)]
    fn sum(self, a: I, b: I) -> I {
        on_cpu!(I(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)))
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
        self.splat_integer(on_cpu!(from.as_ptr().cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    fn with_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        if self.has_vnni() {
            // SAFETY: `self` says that the CPU has it.
            kernel.run(unsafe { Avx2Vnni::new(self) })
        } else {
            kernel.run(self)
        }
    }
}
