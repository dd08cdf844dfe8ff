//! The vector as two ymm registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Proof that the CPU has AVX2, FMA and F16C; and AVX-VNNI, where it is said to be there.
#[derive(Clone, Copy)]
pub(crate) struct Avx2 {
    vnni: bool,
}

impl Avx2 {
    /// # Safety
    /// The CPU must have the instructions named on the type, that for `vnni` if it is set.
    #[inline(always)]
    pub(crate) unsafe fn new(vnni: bool) -> Self {
        Self { vnni }
    }

    #[inline(always)]
    pub(super) fn has_vnni(self) -> bool {
        self.vnni
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct V(pub(super) __m256, pub(super) __m256);

/// Transposes eight rows of eight.
///
/// # Safety
/// The CPU must have AVX.
#[inline(always)]
unsafe fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: as the caller promises; no pointers.
    unsafe {
        let mut t = r;
        for i in (0..8).step_by(2) {
            t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        let mut u = t;
        for g in (0..8).step_by(4) {
            u[g] = _mm256_shuffle_ps::<0x44>(t[g], t[g + 2]);
            u[g + 1] = _mm256_shuffle_ps::<0xEE>(t[g], t[g + 2]);
            u[g + 2] = _mm256_shuffle_ps::<0x44>(t[g + 1], t[g + 3]);
            u[g + 3] = _mm256_shuffle_ps::<0xEE>(t[g + 1], t[g + 3]);
        }
        for c in 0..4 {
            t[c] = _mm256_permute2f128_ps::<0x20>(u[c], u[4 + c]);
            t[4 + c] = _mm256_permute2f128_ps::<0x31>(u[c], u[4 + c]);
        }
        t
    }
}

impl Lanes for Avx2 {
    type V = V;
    const ROWS: usize = 6;
    const FOUR_WIDE: usize = 1;
    const TWO_WIDE: usize = 3;

    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        on_cpu!(call(kernel))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        on_cpu! { let x = _mm256_set1_ps(x); V(x, x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        on_cpu!(V(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))))
    }
    #[inline(always)]
    fn store(self, x: V, to: &mut [f32; LANES]) {
        on_cpu! {
            _mm256_storeu_ps(to.as_mut_ptr(), x.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x.1);
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> V {
        on_cpu! {
            let (low, high) = (from.as_ptr().cast(), from.as_ptr().add(8).cast());
            V(_mm256_cvtph_ps(_mm_loadu_si128(low)), _mm256_cvtph_ps(_mm_loadu_si128(high)))
        }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> V {
        on_cpu! {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().add(8).cast()));
            let shift = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            V(shift(low), shift(high))
        }
    }
    #[inline(always)]
    fn load_bf16_pairs(self, from: &[bf16; 2 * LANES]) -> (V, V) {
        on_cpu! {
            let mask = _mm256_set1_epi32(-0x1_0000);
            let low = _mm256_loadu_si256(from.as_ptr().cast());
            let high = _mm256_loadu_si256(from.as_ptr().add(16).cast());
            let even = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let odd = |x| _mm256_castsi256_ps(_mm256_and_si256(x, mask));
            (V(even(low), even(high)), V(odd(low), odd(high)))
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        on_cpu!(V(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        on_cpu!(V(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        on_cpu!(V(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        on_cpu!(V(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        on_cpu!(V(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        on_cpu!(V(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        on_cpu!(V(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        on_cpu! {
            let bit = _mm256_set1_ps(-0.0);
            V(_mm256_andnot_ps(bit, a.0), _mm256_andnot_ps(bit, a.1))
        }
    }
    #[inline(always)]
    fn copysign(self, a: V, sign: V) -> V {
        on_cpu! {
            let bit = _mm256_set1_ps(-0.0);
            let one = |a, s| _mm256_or_ps(_mm256_andnot_ps(bit, a), _mm256_and_ps(bit, s));
            V(one(a.0, sign.0), one(a.1, sign.1))
        }
    }
    #[inline(always)]
    fn select_gt(self, a: V, b: V, yes: V, no: V) -> V {
        on_cpu! {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1);
            V(_mm256_blendv_ps(no.0, yes.0, low), _mm256_blendv_ps(no.1, yes.1, high))
        }
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        on_cpu! {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            V(_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1))
        }
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        on_cpu! {
            let bias = _mm256_set1_epi32(127);
            let one = |n| {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), bias);
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            V(one(n.0), one(n.1))
        }
    }
    #[inline(always)]
    fn fold_add(self, a: V) -> f32 {
        on_cpu! {
            let b = _mm256_add_ps(a.0, a.1);
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn fold_max(self, a: V) -> f32 {
        on_cpu! {
            let b = _mm256_max_ps(a.0, a.1);
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [V; LANES]) {
        let old = *rows;
        // SAFETY: `self` proves that the CPU has AVX.
        let [a, b, c, d] = unsafe {
            [
                transpose8(std::array::from_fn(|i| old[i].0)),
                transpose8(std::array::from_fn(|i| old[8 + i].0)),
                transpose8(std::array::from_fn(|i| old[i].1)),
                transpose8(std::array::from_fn(|i| old[8 + i].1)),
            ]
        };
        for i in 0..8 {
            rows[i] = V(a[i], b[i]);
            rows[8 + i] = V(c[i], d[i]);
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
            let low = _mm256_cvtepi8_epi32(bytes);
            let high = _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes));
            V(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }
    #[inline(always)]
    fn unpack_bf16(self, packed: V) -> (V, V) {
        on_cpu! {
            let mask = _mm256_set1_epi32(-0x1_0000);
            let (low, high) = (_mm256_castps_si256(packed.0), _mm256_castps_si256(packed.1));
            let even = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let odd = |x| _mm256_castsi256_ps(_mm256_and_si256(x, mask));
            (V(even(low), even(high)), V(odd(low), odd(high)))
        }
    }
    #[inline(always)]
    fn unpack_i8(self, packed: V) -> [V; 4] {
        on_cpu! {
            let (low, high) = (_mm256_castps_si256(packed.0), _mm256_castps_si256(packed.1));
            let whole = |x| _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(x));
            [
                V(whole(_mm256_slli_epi32::<24>(low)), whole(_mm256_slli_epi32::<24>(high))),
                V(whole(_mm256_slli_epi32::<16>(low)), whole(_mm256_slli_epi32::<16>(high))),
                V(whole(_mm256_slli_epi32::<8>(low)), whole(_mm256_slli_epi32::<8>(high))),
                V(whole(low), whole(high)),
            ]
        }
    }
}
