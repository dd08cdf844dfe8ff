//! The vector as one zmm register.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::pairs::avx512::Avx512Bf16;
use super::pairs::{PairKernel, Widened};
use super::{LANES, Lanes};

/// Proof that the CPU has AVX-512 F, VL, BW and DQ, AVX2, FMA and F16C; and VNNI and BF16, where they are said to be there.
#[derive(Clone, Copy)]
pub(crate) struct Avx512 {
    vnni: bool,
    bf16: bool,
}

impl Avx512 {
    /// # Safety
    /// The CPU must have the instructions named on the type, those for `vnni` and `bf16` if they are set.
    #[inline(always)]
    pub(crate) unsafe fn new(vnni: bool, bf16: bool) -> Self {
        Self { vnni, bf16 }
    }

    #[inline(always)]
    pub(super) fn has_vnni(self) -> bool {
        self.vnni
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
#[inline(never)]
fn call<R>(kernel: impl FnOnce() -> R) -> R {
    kernel()
}

macro_rules! on_cpu {
    ($($code:tt)*) => {
        // SAFETY: `self` proves that the CPU has the instructions; pointers come from references to arrays of the
        // length that is read or written, and the instructions used need no alignment.
        unsafe { $($code)* }
    };
}

pub(super) type V = __m512;

impl Lanes for Avx512 {
    type V = V;
    const ROWS: usize = 12;
    const FOUR_WIDE: usize = 4;
    const TWO_WIDE: usize = 12;

    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        on_cpu!(call(kernel))
    }
    #[inline(always)]
    fn with_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        if self.bf16 {
            // SAFETY: `self` says that the CPU has them.
            kernel.run(unsafe { Avx512Bf16::new(self) })
        } else {
            kernel.run(Widened(self))
        }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        on_cpu!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        on_cpu!(_mm512_loadu_ps(from.as_ptr()))
    }
    #[inline(always)]
    fn store(self, x: V, to: &mut [f32; LANES]) {
        on_cpu!(_mm512_storeu_ps(to.as_mut_ptr(), x));
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> V {
        on_cpu!(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> V {
        on_cpu! {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_bf16_pairs(self, from: &[bf16; 2 * LANES]) -> (V, V) {
        on_cpu! {
            let both = _mm512_loadu_si512(from.as_ptr().cast());
            let odd = _mm512_and_si512(both, _mm512_set1_epi32(-0x1_0000));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)), _mm512_castsi512_ps(odd))
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        on_cpu!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        on_cpu!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        on_cpu!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        on_cpu!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        on_cpu!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        on_cpu!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        on_cpu!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        on_cpu!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn copysign(self, a: V, sign: V) -> V {
        on_cpu! {
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign))
        }
    }
    #[inline(always)]
    fn select_gt(self, a: V, b: V, yes: V, no: V) -> V {
        on_cpu!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        on_cpu!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        on_cpu! {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    fn fold_add(self, a: V) -> f32 {
        on_cpu! {
            let b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn fold_max(self, a: V) -> f32 {
        on_cpu! {
            let b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [V; LANES]) {
        on_cpu! {
            let pd = |x: V| _mm512_castps_pd(x);
            let ps = |x: __m512d| _mm512_castpd_ps(x);
            let mut t = *rows;
            for i in (0..16).step_by(2) {
                t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            }
            // After this, quarter q of u[4 g + c] holds column 4 q + c of rows 4 g .. 4 g + 4.
            let mut u = t;
            for g in (0..16).step_by(4) {
                u[g] = ps(_mm512_unpacklo_pd(pd(t[g]), pd(t[g + 2])));
                u[g + 1] = ps(_mm512_unpackhi_pd(pd(t[g]), pd(t[g + 2])));
                u[g + 2] = ps(_mm512_unpacklo_pd(pd(t[g + 1]), pd(t[g + 3])));
                u[g + 3] = ps(_mm512_unpackhi_pd(pd(t[g + 1]), pd(t[g + 3])));
            }
            for c in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x44>(u[c], u[4 + c]);
                let low_b = _mm512_shuffle_f32x4::<0x44>(u[8 + c], u[12 + c]);
                let high = _mm512_shuffle_f32x4::<0xEE>(u[c], u[4 + c]);
                let high_b = _mm512_shuffle_f32x4::<0xEE>(u[8 + c], u[12 + c]);
                rows[c] = _mm512_shuffle_f32x4::<0x88>(low, low_b);
                rows[4 + c] = _mm512_shuffle_f32x4::<0xDD>(low, low_b);
                rows[8 + c] = _mm512_shuffle_f32x4::<0x88>(high, high_b);
                rows[12 + c] = _mm512_shuffle_f32x4::<0xDD>(high, high_b);
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        on_cpu!(_mm_prefetch::<_MM_HINT_T0>(at.cast()));
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> V {
        on_cpu! {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }
    }
    #[inline(always)]
    fn unpack_bf16(self, packed: V) -> (V, V) {
        on_cpu! {
            let both = _mm512_castps_si512(packed);
            let odd = _mm512_and_si512(both, _mm512_set1_epi32(-0x1_0000));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)), _mm512_castsi512_ps(odd))
        }
    }
    #[inline(always)]
    fn unpack_i8(self, packed: V) -> [V; 4] {
        on_cpu! {
            let x = _mm512_castps_si512(packed);
            [
                _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(x))),
                _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(x))),
                _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(x))),
                _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(x)),
            ]
        }
    }
}
