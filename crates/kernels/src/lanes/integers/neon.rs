//! Four 128-bit registers.

use std::arch::aarch64::*;

use super::{CODES, Integers, LANES, STEPS};
use crate::lanes::dots::DotKernel;
use crate::lanes::dots::neon::NeonDot;
use crate::lanes::neon::Neon;

macro_rules! on_cpu {
    ($($code:tt)*) => {
        // SAFETY: `self` proves that the CPU has NEON; pointers come from references to arrays of the length that is
        // read or written, and the instructions used need no more alignment than the elements.
        unsafe { $($code)* }
    };
}

/// Lanes 4 i .. 4 i + 4 in register i.
pub(crate) type I = [int32x4_t; 4];
pub(crate) type C = [uint8x16_t; 4];

impl Integers for Neon {
    type I = I;
    type C = C;

    #[inline(always)]
    fn splat_integer(self, x: i32) -> I {
        on_cpu!([vdupq_n_s32(x); 4])
    }
    #[inline(always)]
    fn load_integers(self, from: &[i32; LANES]) -> I {
        let p = from.as_ptr();
        on_cpu!([vld1q_s32(p), vld1q_s32(p.add(4)), vld1q_s32(p.add(8)), vld1q_s32(p.add(12))])
    }
    #[inline(always)]
    fn store_integers(self, x: I, to: &mut [i32; LANES]) {
        let p = to.as_mut_ptr();
        on_cpu! {
            vst1q_s32(p, x[0]);
            vst1q_s32(p.add(4), x[1]);
            vst1q_s32(p.add(8), x[2]);
            vst1q_s32(p.add(12), x[3]);
        }
    }
    #[inline(always)]
    fn multiply(self, a: I, b: I) -> I {
        on_cpu!(std::array::from_fn(|i| vmulq_s32(a[i], b[i])))
    }
    #[inline(always)]
    fn sum(self, a: I, b: I) -> I {
        on_cpu!(std::array::from_fn(|i| vaddq_s32(a[i], b[i])))
    }
    #[inline(always)]
    fn to_float(self, a: I) -> [float32x4_t; 4] {
        on_cpu!(a.map(|x| vcvtq_f32_s32(x)))
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; LANES]) -> I {
        on_cpu! {
            let bytes = vld1q_u8(from.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            let wide = |x| vreinterpretq_s32_u32(vmovl_u16(x));
            [wide(vget_low_u16(low)), wide(vget_high_u16(low)), wide(vget_low_u16(high)), wide(vget_high_u16(high))]
        }
    }
    #[inline(always)]
    fn widen_i8(self, from: &[i8; LANES]) -> I {
        on_cpu! {
            let bytes = vld1q_s8(from.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let wide = |x| vmovl_s16(x);
            [wide(vget_low_s16(low)), wide(vget_high_s16(low)), wide(vget_low_s16(high)), wide(vget_high_s16(high))]
        }
    }
    #[inline(always)]
    fn narrow(self, a: [float32x4_t; 4], to: &mut [i8; LANES]) {
        on_cpu! {
            let i = a.map(|x| vcvtnq_s32_f32(x));
            let low = vcombine_s16(vmovn_s32(i[0]), vmovn_s32(i[1]));
            let high = vcombine_s16(vmovn_s32(i[2]), vmovn_s32(i[3]));
            vst1q_s8(to.as_mut_ptr(), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        }
    }

    #[inline(always)]
    fn load_codes(self, from: &[u8; CODES]) -> C {
        let p = from.as_ptr();
        on_cpu!([vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))])
    }
    #[inline(always)]
    fn store_codes(self, x: C, to: &mut [u8; CODES]) {
        let p = to.as_mut_ptr();
        on_cpu! {
            vst1q_u8(p, x[0]);
            vst1q_u8(p.add(16), x[1]);
            vst1q_u8(p.add(32), x[2]);
            vst1q_u8(p.add(48), x[3]);
        }
    }
    #[inline(always)]
    fn nibbles(self, from: &[u8; CODES]) -> (C, C) {
        let both = self.load_codes(from);
        on_cpu! {
            let mask = vdupq_n_u8(15);
            (both.map(|x| vandq_u8(x, mask)), both.map(|x| vshrq_n_u8::<4>(x)))
        }
    }
    #[inline(always)]
    fn add_bits(self, codes: C, bits: &[u8; CODES / 8], value: u8) -> C {
        on_cpu! {
            let bit = vcreate_u8(0x8040_2010_0804_0201);
            let (bit, value) = (vcombine_u8(bit, bit), vdupq_n_u8(value));
            std::array::from_fn(|i| {
                let bytes = vcombine_u8(vdup_n_u8(bits[2 * i]), vdup_n_u8(bits[2 * i + 1]));
                vaddq_u8(codes[i], vandq_u8(vtstq_u8(bytes, bit), value))
            })
        }
    }
    #[inline(always)]
    fn splat_steps(self, from: &[i8; STEPS]) -> C {
        on_cpu! {
            let four = from.as_ptr().cast::<u32>().read_unaligned();
            [vreinterpretq_u8_u32(vdupq_n_u32(four)); 4]
        }
    }
    #[inline(always)]
    fn with_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        if self.has_dot() {
            // SAFETY: `self` says that the CPU has it.
            kernel.run(unsafe { NeonDot::new(self) })
        } else {
            kernel.run(self)
        }
    }
}
