//! One instruction for sixteen pairs.

use std::arch::x86_64::*;

use half::bf16;

use super::Pairs;
use crate::dtype::Element;
use crate::lanes::LANES;
use crate::lanes::avx512::{Avx512, V};

/// Proof that the CPU has AVX512-BF16, and all that [`Avx512`] proves.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    /// # Safety
    /// The CPU must have AVX512-BF16.
    #[inline(always)]
    pub(crate) unsafe fn new(lanes: Avx512) -> Self {
        Self(lanes)
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline(never)]
fn call<R>(kernel: impl FnOnce() -> R) -> R {
    kernel()
}

impl Pairs for Avx512Bf16 {
    type Lanes = Avx512;
    type Pair = [bf16; 2];
    const ROWS: usize = 24;

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
    fn pair(self, even: f32, odd: f32) -> [bf16; 2] {
        [even, odd].map(Element::from_f32)
    }
    #[inline(always)]
    fn add_products<const R: usize, const P: usize>(
        self,
        weights: [&[bf16; 2 * LANES]; P],
        x: &[[bf16; 2]; R],
        sums: &mut [[V; P]; R],
    ) {
        // SAFETY: `self` proves that the CPU has the instructions; a vector is read from an array of its size.
        unsafe {
            let bits = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
            let mut columns = [bits(_mm512_setzero_si512()); P];
            for p in 0..P {
                columns[p] = bits(_mm512_loadu_si512(weights[p].as_ptr().cast()));
            }
            for r in 0..R {
                let x = bits(_mm512_set1_epi32(bytemuck::cast(x[r])));
                for p in 0..P {
                    sums[r][p] = _mm512_dpbf16_ps(sums[r][p], columns[p], x);
                }
            }
        }
    }
}
