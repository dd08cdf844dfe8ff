//! How keys and values are stored.

use bytemuck::Pod;
use half::{bf16, f16};

use crate::dtype::{Dtype, Element};
use crate::lanes::{LANES, Lanes};

/// How a number of a key or value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// A whole number from -127 to 127, times a scale in f32 for each key and each value of a head: its largest magnitude / 127.
    /// Of a key or value with an infinity or NaN in it, every number is NaN.
    Int8,
}

impl KvDtype {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// Size of one number, without scales.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Size of what each key and each value of a head has beside its numbers.
    #[must_use]
    pub const fn scale_bytes(self) -> usize {
        match self {
            Self::Int8 => 4,
            Self::F32 | Self::F16 | Self::Bf16 => 0,
        }
    }

    /// The name that people type: `float32`, `float16`, `bfloat16` or `int8`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }

    /// Positions in a block unless somebody asks for others: as few as paging costs little with (docs/performance.md has how much).
    #[must_use]
    pub const fn default_block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 32,
            Self::Int8 => 128,
        }
    }
}

impl From<Dtype> for KvDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

impl std::fmt::Display for KvDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A storage type of keys and values.
pub(crate) trait KvElement: Pod + Send + Sync {
    /// Numbers that lie in one lane of sixteen, when a row is read as f32: 1, 2 or 4.
    const PACKED: usize;

    /// Sixteen consecutive elements, widened.
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V;
    /// What lies in each lane of a row that was read as f32, widened: the first [`KvElement::PACKED`] vectors count.
    fn unpack<L: Lanes>(l: L, packed: L::V) -> [L::V; 4];
    fn to_f32(self) -> f32;
    /// Rounds a key or value of a head; returns its scale.
    fn narrow(from: &[f32], to: &mut [Self]) -> f32;
}

impl KvElement for f32 {
    const PACKED: usize = 1;

    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load(from)
    }
    #[inline(always)]
    fn unpack<L: Lanes>(_: L, packed: L::V) -> [L::V; 4] {
        [packed; 4]
    }
    fn to_f32(self) -> f32 {
        self
    }
    fn narrow(from: &[f32], to: &mut [Self]) -> f32 {
        to.copy_from_slice(from);
        1.0
    }
}

impl KvElement for f16 {
    // A lane of two halves is not widened faster than sixteen halves.
    const PACKED: usize = 0;

    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load_f16(from)
    }
    #[inline(always)]
    fn unpack<L: Lanes>(_: L, packed: L::V) -> [L::V; 4] {
        [packed; 4]
    }
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn narrow(from: &[f32], to: &mut [Self]) -> f32 {
        <Self as Element>::narrow(from, to);
        1.0
    }
}

impl KvElement for bf16 {
    const PACKED: usize = 2;

    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load_bf16(from)
    }
    #[inline(always)]
    fn unpack<L: Lanes>(l: L, packed: L::V) -> [L::V; 4] {
        let (even, odd) = l.unpack_bf16(packed);
        [even, odd, even, odd]
    }
    fn to_f32(self) -> f32 {
        Element::to_f32(self)
    }
    fn narrow(from: &[f32], to: &mut [Self]) -> f32 {
        <Self as Element>::narrow(from, to);
        1.0
    }
}

impl KvElement for i8 {
    const PACKED: usize = 4;

    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load_i8(from)
    }
    #[inline(always)]
    fn unpack<L: Lanes>(l: L, packed: L::V) -> [L::V; 4] {
        l.unpack_i8(packed)
    }
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
    /// To the nearest whole number of 127ths of the largest magnitude, ties to even.
    fn narrow(from: &[f32], to: &mut [Self]) -> f32 {
        let largest = from.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let finite = from.iter().fold(true, |finite, x| finite & x.is_finite());
        if !finite || largest < SMALLEST {
            to.fill(0);
            return if finite { 0.0 } else { f32::NAN };
        }
        let inverse = 127.0 / largest;
        for (to, x) in to.iter_mut().zip(from) {
            // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number, ties to even, in a loop that vectorises.
            let rounded = (x * inverse + ROUND) - ROUND;
            #[expect(clippy::cast_possible_truncation, reason = "at most 127 in magnitude")]
            {
                *to = rounded as i8;
            }
        }
        largest / 127.0
    }
}

/// Keys and values without a larger number are stored as zeros: the inverse of their scale may not be a number.
const SMALLEST: f32 = 1e-35;
const ROUND: f32 = 12_582_912.0;

/// Runs `$body` with `$E` being the storage type of `$dtype`.
macro_rules! with_kv_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::KvDtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::KvDtype::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::KvDtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
            $crate::KvDtype::Int8 => {
                type $E = i8;
                $body
            }
        }
    };
}
pub(crate) use with_kv_element;
