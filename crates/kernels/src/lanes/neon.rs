//! The vector as four 128-bit registers.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Proof that the CPU has NEON (every aarch64 CPU that Rust's standard library runs on); and the dot products of Armv8.2, where
/// they are said to be there.
#[derive(Clone, Copy)]
pub(crate) struct Neon {
    dot: bool,
}

impl Neon {
    /// # Safety
    /// The CPU must have NEON, and the dot products if `dot` is set.
    #[inline(always)]
    pub(crate) unsafe fn new(dot: bool) -> Self {
        Self { dot }
    }

    #[inline(always)]
    pub(super) fn has_dot(self) -> bool {
        self.dot
    }
}

#[target_feature(enable = "neon")]
#[inline(never)]
fn call<R>(kernel: impl FnOnce() -> R) -> R {
    kernel()
}

macro_rules! on_cpu {
    ($($code:tt)*) => {
        // SAFETY: `self` proves that the CPU has NEON; pointers come from references to arrays of the length that is
        // read or written, and the instructions used need no more alignment than the elements.
        unsafe { $($code)* }
    };
}

/// Lanes 4 i .. 4 i + 4 in register i.
type V = [float32x4_t; 4];

/// Applies an intrinsic to the four registers of one, two or three vectors.
macro_rules! each {
    ($f:ident, $a:expr) => {
        [$f($a[0]), $f($a[1]), $f($a[2]), $f($a[3])]
    };
    ($f:ident, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1]), $f($a[2], $b[2]), $f($a[3], $b[3])]
    };
    ($f:ident, $a:expr, $b:expr, $c:expr) => {
        [
            $f($a[0], $b[0], $c[0]),
            $f($a[1], $b[1], $c[1]),
            $f($a[2], $b[2], $c[2]),
            $f($a[3], $b[3], $c[3]),
        ]
    };
}

/// Four bf16 as f32: moved to the upper half of the lane.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn widen_bf16(x: uint16x4_t) -> float32x4_t {
    // SAFETY: as the caller promises; no pointers.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(x)) }
}

impl Lanes for Neon {
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
        on_cpu!([vdupq_n_f32(x); 4])
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        let p = from.as_ptr();
        on_cpu!([vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))])
    }
    #[inline(always)]
    fn store(self, x: V, to: &mut [f32; LANES]) {
        let p = to.as_mut_ptr();
        on_cpu! {
            vst1q_f32(p, x[0]);
            vst1q_f32(p.add(4), x[1]);
            vst1q_f32(p.add(8), x[2]);
            vst1q_f32(p.add(12), x[3]);
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> V {
        let p = from.as_ptr().cast::<u16>();
        on_cpu! {
            let (a, b) = (vld1q_u16(p), vld1q_u16(p.add(8)));
            let widen = |x| vcvt_f32_f16(vreinterpret_f16_u16(x));
            [widen(vget_low_u16(a)), widen(vget_high_u16(a)), widen(vget_low_u16(b)), widen(vget_high_u16(b))]
        }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> V {
        let p = from.as_ptr().cast::<u16>();
        on_cpu! {
            let (a, b) = (vld1q_u16(p), vld1q_u16(p.add(8)));
            [
                widen_bf16(vget_low_u16(a)),
                widen_bf16(vget_high_u16(a)),
                widen_bf16(vget_low_u16(b)),
                widen_bf16(vget_high_u16(b)),
            ]
        }
    }
    #[inline(always)]
    fn load_bf16_pairs(self, from: &[bf16; 2 * LANES]) -> (V, V) {
        let p = from.as_ptr().cast::<u16>();
        on_cpu! {
            let mask = vdupq_n_u32(0xFFFF_0000);
            let x: [uint32x4_t; 4] = std::array::from_fn(|i| vreinterpretq_u32_u16(vld1q_u16(p.add(8 * i))));
            let even = x.map(|x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x)));
            let odd = x.map(|x| vreinterpretq_f32_u32(vandq_u32(x, mask)));
            (even, odd)
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        on_cpu!(each!(vaddq_f32, a, b))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        on_cpu!(each!(vsubq_f32, a, b))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        on_cpu!(each!(vmulq_f32, a, b))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        on_cpu!(each!(vdivq_f32, a, b))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        // The intrinsic adds to its first argument.
        on_cpu!(each!(vfmaq_f32, c, a, b))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        self.select_gt(a, b, a, b)
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        self.select_gt(b, a, a, b)
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        on_cpu!(each!(vabsq_f32, a))
    }
    #[inline(always)]
    fn copysign(self, a: V, sign: V) -> V {
        on_cpu! {
            let bit = [vdupq_n_u32(0x8000_0000); 4];
            each!(vbslq_f32, bit, sign, a)
        }
    }
    #[inline(always)]
    fn select_gt(self, a: V, b: V, yes: V, no: V) -> V {
        on_cpu! {
            let mask = each!(vcgtq_f32, a, b);
            each!(vbslq_f32, mask, yes, no)
        }
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        on_cpu!(each!(vrndnq_f32, a))
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        on_cpu! {
            let bias = vdupq_n_s32(127);
            n.map(|n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), bias))))
        }
    }
    #[inline(always)]
    fn fold_add(self, a: V) -> f32 {
        on_cpu! {
            let b = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
            vget_lane_f32::<0>(c) + vget_lane_f32::<1>(c)
        }
    }
    #[inline(always)]
    fn fold_max(self, a: V) -> f32 {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        let mut all = [0.0; LANES];
        self.store(a, &mut all);
        let b: [f32; 8] = std::array::from_fn(|i| larger(all[i], all[i + 8]));
        let c: [f32; 4] = std::array::from_fn(|i| larger(b[i], b[i + 4]));
        larger(larger(c[0], c[2]), larger(c[1], c[3]))
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [V; LANES]) {
        let old = *rows;
        on_cpu! {
            let wide = |x| vreinterpretq_f64_f32(x);
            let narrow = |x| vreinterpretq_f32_f64(x);
            for i in 0..4 {
                for j in 0..4 {
                    // The 4 x 4 tile of rows 4 i .. and columns 4 j .. goes to rows 4 j .., columns 4 i ...
                    let [a, b, c, d]: [float32x4_t; 4] = std::array::from_fn(|r| old[4 * i + r][j]);
                    let (ab0, ab1) = (wide(vtrn1q_f32(a, b)), wide(vtrn2q_f32(a, b)));
                    let (cd0, cd1) = (wide(vtrn1q_f32(c, d)), wide(vtrn2q_f32(c, d)));
                    rows[4 * j][i] = narrow(vtrn1q_f64(ab0, cd0));
                    rows[4 * j + 1][i] = narrow(vtrn1q_f64(ab1, cd1));
                    rows[4 * j + 2][i] = narrow(vtrn2q_f64(ab0, cd0));
                    rows[4 * j + 3][i] = narrow(vtrn2q_f64(ab1, cd1));
                }
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint; it reads nothing and never faults. (The intrinsic for it is unstable.)
        unsafe {
            asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags));
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> V {
        on_cpu! {
            let bytes = vld1q_s8(from.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
            ]
        }
    }
    #[inline(always)]
    fn unpack_bf16(self, packed: V) -> (V, V) {
        on_cpu! {
            let mask = vdupq_n_u32(0xFFFF_0000);
            let bits = packed.map(|x| vreinterpretq_u32_f32(x));
            let even = bits.map(|x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x)));
            (even, bits.map(|x| vreinterpretq_f32_u32(vandq_u32(x, mask))))
        }
    }
    #[inline(always)]
    fn unpack_i8(self, packed: V) -> [V; 4] {
        on_cpu! {
            let x = packed.map(|x| vreinterpretq_s32_f32(x));
            [
                x.map(|x| vcvtq_f32_s32(vshrq_n_s32::<24>(vshlq_n_s32::<24>(x)))),
                x.map(|x| vcvtq_f32_s32(vshrq_n_s32::<24>(vshlq_n_s32::<16>(x)))),
                x.map(|x| vcvtq_f32_s32(vshrq_n_s32::<24>(vshlq_n_s32::<8>(x)))),
                x.map(|x| vcvtq_f32_s32(vshrq_n_s32::<24>(x))),
            ]
        }
    }
}
