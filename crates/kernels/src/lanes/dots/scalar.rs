//! Plain products.

use super::Dots;
use crate::lanes::Lanes;
use crate::lanes::integers::STEPS;
use crate::lanes::integers::scalar::{C, I};
use crate::lanes::scalar::Scalar;

impl Dots for Scalar {
    type Lanes = Self;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn lanes(self) -> Self {
        self
    }
    #[inline(always)]
    fn call<R>(self, kernel: impl FnOnce() -> R) -> R {
        Lanes::call(self, kernel)
    }
    // Sixty-four products: not worth copying into every kernel.
    #[inline(never)]
    fn dot<const SMALL: bool>(self, sums: I, codes: C, steps: C) -> I {
        let product = |i: usize| i32::from(codes[i]) * i32::from(steps[i].cast_signed());
        std::array::from_fn(|i| {
            let four: i32 = (0..STEPS).map(|j| product(STEPS * i + j)).sum();
            sums[i].wrapping_add(four)
        })
    }
}
