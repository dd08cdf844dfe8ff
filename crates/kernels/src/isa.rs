//! Which instruction set runs the kernels, and the door from safe code into each of them.
//!
//! Why: kernels are written once, generic over `Lanes`; the macro here instantiates each of them per instruction set, compiled
//! for it (see `Lanes::call`), and makes it a method of [`Isa`]. An `Isa` can only be had for a CPU
//! that has the instructions, so the methods are safe.

use crate::lanes::Lanes;
#[cfg(target_arch = "aarch64")]
use crate::lanes::neon::Neon;
use crate::lanes::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same, but for products of eight bits.
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same, but for products of eight bits.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// The same, but for products of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same, but for products of eight bits.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

/// The wanted instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// Nobody knows the name.
    #[error("there is no instruction set called {0:?}; this machine has: {1}")]
    Unknown(String, String),
    /// Known, but not on this machine.
    #[error("this machine has no {0}; it has: {1}")]
    Missing(&'static str, String),
}

/// Of all machines.
const NAMES: [&str; 8] =
    ["scalar", "avx2", "avx2vnni", "avx512", "avx512vnni", "avx512bf16", "neon", "neondot"];

impl Isa {
    /// The fastest that this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        Self::all_available().pop().unwrap_or(Self(Kind::Scalar))
    }

    /// All that this CPU has: scalar first, the fastest last.
    #[must_use]
    pub fn all_available() -> Vec<Self> {
        let mut all = vec![Self(Kind::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                all.push(Self(Kind::Avx2));
                if has!("avxvnni") {
                    all.push(Self(Kind::Avx2Vnni));
                }
                if has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq") {
                    all.push(Self(Kind::Avx512));
                    if has!("avx512vnni") {
                        all.push(Self(Kind::Avx512Vnni));
                        if has!("avx512bf16") {
                            all.push(Self(Kind::Avx512Bf16));
                        }
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self(Kind::Neon));
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                all.push(Self(Kind::NeonDot));
            }
        }
        all
    }

    /// The instruction set called `name`: `scalar`; `avx2`, `avx2vnni` (with AVX-VNNI), `avx512` (F, VL, BW, DQ), `avx512vnni`,
    /// `avx512bf16`; `neon`, `neondot` (with the dot products of Armv8.2).
    ///
    /// # Errors
    /// When there is none of that name, or this CPU does not have it.
    pub fn from_name(name: &str) -> Result<Self, IsaError> {
        let all = Self::all_available();
        if let Some(isa) = all.iter().find(|isa| isa.name() == name) {
            return Ok(*isa);
        }
        let has = all.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        Err(match NAMES.iter().find(|known| **known == name) {
            Some(known) => IsaError::Missing(known, has),
            None => IsaError::Unknown(name.to_owned(), has),
        })
    }

    /// Its name, as [`Isa::from_name`] knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2Vnni => "avx2vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot => "neondot",
        }
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// For each `fn name(arguments) = generic;` a method of [`Isa`] that runs `generic(token, arguments)`, compiled for
/// that instruction set.
macro_rules! kernels {
    ($lanes:expr, $generic:path, $($arg:ident),*) => {{
        let l = $lanes;
        l.call(#[inline(always)] || $generic(l, $($arg),*))
    }};
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $generic:path;)*) => {
        impl Isa {
            $($(#[$meta])*
            pub(crate) fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                match self.0 {
                    Kind::Scalar => kernels!(Scalar, $generic, $($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2 | Kind::Avx2Vnni => {
                        let vnni = self.0 == Kind::Avx2Vnni;
                        // SAFETY: this `Isa` was made because the CPU has the instructions.
                        kernels!(unsafe { Avx2::new(vnni) }, $generic, $($arg),*)
                    }
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx512 | Kind::Avx512Vnni | Kind::Avx512Bf16 => {
                        let (vnni, bf16) = (self.0 != Kind::Avx512, self.0 == Kind::Avx512Bf16);
                        // SAFETY: as above.
                        kernels!(unsafe { Avx512::new(vnni, bf16) }, $generic, $($arg),*)
                    }
                    #[cfg(target_arch = "aarch64")]
                    Kind::Neon | Kind::NeonDot => {
                        let dot = self.0 == Kind::NeonDot;
                        // SAFETY: as above.
                        kernels!(unsafe { Neon::new(dot) }, $generic, $($arg),*)
                    }
                }
            })*
        }
    };
}

use crate::activation;
use crate::codes::CodeRow;
use crate::format::CodePanel;
use crate::pack::Place;
use crate::{attend, linear, logits, measure, norm, pack_floats, pair_rows, quantise, rope, steps};

kernels! {
    fn deal(rows: usize, places: &[Place]) -> crate::tile::Deal = linear::deal;
    fn linear_task(job: &linear::Job<'_>, task: usize, sums: &mut [f32]) = linear::task;
    fn quantise_steps(job: &steps::StepsJob<'_>, task: usize) = steps::quantise;
    fn quantise_row(panel: &CodePanel, values: &[f32], row: &mut CodeRow) = quantise::quantise;
    fn pair_rows(job: &pair_rows::PairJob<'_>, task: usize) = pair_rows::task;
    fn pack_panel(job: &pack_floats::PanelJob<'_>, panel: &mut [u8]) = pack_floats::panel;
    fn attend_unit(job: &attend::Job<'_>, unit: &attend::Unit, scratch: &mut [f32]) = attend::unit;
    fn softcap_all(cap: f32, x: &mut [f32]) = activation::softcap_all;
    fn scale_all(factor: f32, x: &mut [f32]) = activation::scale_all;
    fn add_all(delta: &[f32], x: &mut [f32]) = activation::add_all;
    fn norm_row(norm: &norm::Norm<'_>, x: &[f32], out: &mut [f32]) = norm::row;
    fn norm_in_place(norm: &norm::Norm<'_>, x: &mut [f32]) = norm::in_place;
    fn norm_add_row(norm: &norm::Norm<'_>, x: &[f32], residual: &mut [f32]) = norm::add_row;
    fn rope_row(rope: &rope::Rope<'_>, position: usize, x: &mut [f32]) = rope::row;
    fn max_of(row: &[f32]) -> f32 = logits::max_of;
    fn argmax_of(row: &[f32]) -> usize = logits::argmax_of;
    fn finite(row: &[f32]) -> bool = logits::finite;
    fn read_streams(data: &[f32]) -> f32 = measure::read;
    fn float_chains(rounds: usize) -> (f32, usize) = measure::float_chains;
    fn pair_chains(rounds: usize) -> (f32, usize) = measure::pair_chains;
    fn integer_chains(rounds: usize) -> (f32, usize) = measure::integer_chains;
    fn exp_sum(subtract: f32, row: &[f32]) -> f32 = logits::exp_sum;
    fn exp_store(subtract: f32, row: &mut [f32]) -> f32 = logits::exp_store;
    #[cfg(test)]
    fn exp_all(x: &mut [f32]) = whole::exp;
    #[cfg(test)]
    fn tanh_all(x: &mut [f32]) = whole::tanh;
    #[cfg(test)]
    fn erf_all(x: &mut [f32]) = whole::erf;
}

/// Whole slices through one function of `math`, for its tests.
#[cfg(test)]
mod whole {
    use crate::lanes::{Lanes, map_lanes};
    use crate::math;

    #[inline(always)]
    pub(super) fn exp<L: Lanes>(l: L, x: &mut [f32]) {
        map_lanes!(l, x, |v| math::exp(l, v));
    }
    #[inline(always)]
    pub(super) fn tanh<L: Lanes>(l: L, x: &mut [f32]) {
        map_lanes!(l, x, |v| math::tanh(l, v));
    }
    #[inline(always)]
    pub(super) fn erf<L: Lanes>(l: L, x: &mut [f32]) {
        map_lanes!(l, x, |v| math::erf(l, v));
    }
}
