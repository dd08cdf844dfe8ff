//! What instruction sets need for quantised weights: products of codes and activations of eight bits, summed exactly.
//!
//! Invariants: integers wrap; `to_float` rounds to nearest, ties to even. With that all instances give the same bits, because
//! sums of integers do not depend on their order.

use super::{LANES, Lanes};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

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

    /// What [`Integers::dot`] takes away from every code, because the instructions at hand want signed numbers. For codes of
    /// fewer than eight bits nothing is taken away.
    const OFFSET: i32;

    /// The most rows of a tile that reads codes as they are stored; for more of them codes are made bytes once for all (see
    /// `products`).
    const FEW: usize = if Self::ROWS < 12 { 4 } else { 8 };

    fn splat_integer(self, x: i32) -> Self::I;
    fn load_integers(self, from: &[i32; LANES]) -> Self::I;
    fn store_integers(self, x: Self::I, to: &mut [i32; LANES]);
    fn multiply(self, a: Self::I, b: Self::I) -> Self::I;
    fn subtract(self, a: Self::I, b: Self::I) -> Self::I;
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
    /// `sums + Σ (code - offset) * step` over the four steps of each lane. `SMALL` promises codes below 128 and makes the
    /// offset zero. Steps are from -127 to 127.
    fn dot<const SMALL: bool>(self, sums: Self::I, codes: Self::C, steps: Self::C) -> Self::I;
}
