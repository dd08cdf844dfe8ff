//! What instruction sets need for quantised weights beside floats: integers, codes of eight bits, and their products (see `dots`).
//!
//! Invariants: integers wrap; `to_float` rounds to nearest, ties to even. With that all instances give the same bits, because
//! sums of integers do not depend on their order.

use super::dots::DotKernel;
use super::{LANES, Lanes};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

/// Consecutive steps that a product takes at once.
pub(crate) const STEPS: usize = 4;
/// Codes in a register: [`STEPS`] steps of sixteen outputs, `[16][4]`.
pub(crate) const CODES: usize = STEPS * LANES;

/// Integers of [`LANES`] lanes beside the floats.
pub(crate) trait Integers: Lanes {
    /// Sixteen i32.
    type I: Copy;
    /// [`CODES`] bytes.
    type C: Copy;

    /// The most rows of a tile that reads codes as they are stored; for more of them codes are made bytes once for all (see
    /// `products`).
    const FEW: usize = if Self::ROWS < 12 { 4 } else { 8 };

    fn splat_integer(self, x: i32) -> Self::I;
    fn load_integers(self, from: &[i32; LANES]) -> Self::I;
    fn store_integers(self, x: Self::I, to: &mut [i32; LANES]);
    fn multiply(self, a: Self::I, b: Self::I) -> Self::I;
    fn sum(self, a: Self::I, b: Self::I) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::V;
    fn widen_u8(self, from: &[u8; LANES]) -> Self::I;
    fn widen_i8(self, from: &[i8; LANES]) -> Self::I;
    /// Whole numbers from -127 to 127.
    fn narrow(self, a: Self::V, to: &mut [i8; LANES]);

    fn load_codes(self, from: &[u8; CODES]) -> Self::C;
    fn store_codes(self, x: Self::C, to: &mut [u8; CODES]);
    /// The lower and the upper four bits of each byte.
    fn nibbles(self, from: &[u8; CODES]) -> (Self::C, Self::C);
    /// Adds `value` to every code whose bit is set: bit `i % 8` of byte `i / 8` for code `i`.
    fn add_bits(self, codes: Self::C, bits: &[u8; CODES / 8], value: u8) -> Self::C;
    /// The same four steps of an activation for every lane.
    fn splat_steps(self, from: &[i8; STEPS]) -> Self::C;

    /// Runs `kernel` with the fastest way to multiply codes and steps.
    fn with_dots<K: DotKernel>(self, kernel: K) -> K::Output;
}
