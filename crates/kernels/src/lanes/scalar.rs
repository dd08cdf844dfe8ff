//! The vector as a plain array: runs everywhere, and is what the other instances are compared with.
//!
//! Without hardware FMA `mul_add` is a library call: slow, and exactly as correct.

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Needs nothing of the CPU.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; LANES];

#[inline(always)]
fn map(a: &V, f: impl Fn(f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn map2(a: &V, b: &V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Scalar {
    type V = V;
    const ROWS: usize = 4;
    const FOUR_WIDE: usize = 0;
    const TWO_WIDE: usize = 0;

    #[inline(never)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        kernel()
    }
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        *from
    }
    #[inline(always)]
    fn store(self, x: V, to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> V {
        from.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> V {
        from.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }
    #[inline(always)]
    fn load_bf16_pairs(self, from: &[bf16; 2 * LANES]) -> (V, V) {
        let widen = |x: bf16| f32::from_bits(u32::from(x.to_bits()) << 16);
        (
            std::array::from_fn(|i| widen(from[2 * i])),
            std::array::from_fn(|i| widen(from[2 * i + 1])),
        )
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(&a, &b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(&a, &b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(&a, &b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map2(&a, &b, |a, b| a / b)
    }
    // Sixteen library calls without hardware FMA: not worth copying into every kernel.
    #[inline(never)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(&a, &b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map2(&a, &b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        map(&a, f32::abs)
    }
    #[inline(always)]
    fn copysign(self, a: V, sign: V) -> V {
        map2(&a, &sign, f32::copysign)
    }
    #[inline(always)]
    fn select_gt(self, a: V, b: V, yes: V, no: V) -> V {
        std::array::from_fn(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(never)]
    fn round(self, a: V) -> V {
        map(&a, f32::round_ties_even)
    }
    #[inline(always)]
    fn pow2(self, n: V) -> V {
        map(&n, |n| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "n is whole and small; NaN becomes 0"
            )]
            let exponent = n as i32;
            f32::from_bits((exponent.wrapping_add(127) << 23).cast_unsigned())
        })
    }
    #[inline(always)]
    fn fold_add(self, a: V) -> f32 {
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }
    #[inline(always)]
    fn fold_max(self, a: V) -> f32 {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        let b: [f32; 8] = std::array::from_fn(|i| larger(a[i], a[i + 8]));
        let c: [f32; 4] = std::array::from_fn(|i| larger(b[i], b[i + 4]));
        larger(larger(c[0], c[2]), larger(c[1], c[3]))
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [V; LANES]) {
        let old = *rows;
        *rows = std::array::from_fn(|j| std::array::from_fn(|i| old[i][j]));
    }
    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> V {
        from.map(f32::from)
    }
    #[inline(always)]
    fn unpack_bf16(self, packed: V) -> (V, V) {
        (
            map(&packed, |x| f32::from_bits(x.to_bits() << 16)),
            map(&packed, |x| f32::from_bits(x.to_bits() & 0xFFFF_0000)),
        )
    }
    #[inline(always)]
    fn unpack_i8(self, packed: V) -> [V; 4] {
        std::array::from_fn(|i| {
            map(&packed, |x| f32::from(x.to_bits().to_le_bytes()[i].cast_signed()))
        })
    }
}
