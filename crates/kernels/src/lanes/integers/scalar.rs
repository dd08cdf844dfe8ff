//! Plain integers.

use super::{CODES, Integers, LANES, STEPS};
use crate::lanes::dots::DotKernel;
use crate::lanes::scalar::Scalar;

pub(crate) type I = [i32; LANES];
pub(crate) type C = [u8; CODES];

impl Integers for Scalar {
    type I = I;
    type C = C;

    #[inline(always)]
    fn splat_integer(self, x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    fn load_integers(self, from: &[i32; LANES]) -> I {
        *from
    }
    #[inline(always)]
    fn store_integers(self, x: I, to: &mut [i32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn multiply(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn sum(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "rounds to nearest, as is wanted")]
    fn to_float(self, a: I) -> [f32; LANES] {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; LANES]) -> I {
        from.map(i32::from)
    }
    #[inline(always)]
    fn widen_i8(self, from: &[i8; LANES]) -> I {
        from.map(i32::from)
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers from -127 to 127")]
    fn narrow(self, a: [f32; LANES], to: &mut [i8; LANES]) {
        *to = a.map(|x| x as i8);
    }

    #[inline(always)]
    fn load_codes(self, from: &[u8; CODES]) -> C {
        *from
    }
    #[inline(always)]
    fn store_codes(self, x: C, to: &mut [u8; CODES]) {
        *to = x;
    }
    #[inline(always)]
    fn nibbles(self, from: &[u8; CODES]) -> (C, C) {
        (from.map(|x| x & 15), from.map(|x| x >> 4))
    }
    #[inline(always)]
    fn add_bits(self, codes: C, bits: &[u8; CODES / 8], value: u8) -> C {
        std::array::from_fn(|i| codes[i].wrapping_add((bits[i / 8] >> (i % 8) & 1) * value))
    }
    #[inline(always)]
    fn splat_steps(self, from: &[i8; STEPS]) -> C {
        std::array::from_fn(|i| from[i % STEPS].cast_unsigned())
    }
    #[inline(always)]
    fn with_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}
