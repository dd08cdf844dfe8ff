//! Element types and tensors as they lie in files: bytes of little-endian elements at any alignment.
//!
//! Why bytes: a tensor inside a mapped file need not be aligned to its element, and this machine need not agree with the
//! file's byte order. [`Raw`] reads element by element, so neither matters. `Element` is what a packed matrix and the KV
//! cache are generic over.

use std::ops::Range;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::lanes::{LANES, Lanes};

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Size of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name that people type: `float32`, `float16` or `bfloat16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor in a file.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Raw<'a> {
    /// Little-endian elements.
    ///
    /// # Panics
    /// When `bytes` is not a whole number of elements.
    #[must_use]
    pub fn new(dtype: Dtype, bytes: &'a [u8]) -> Self {
        assert!(
            bytes.len().is_multiple_of(dtype.bytes()),
            "{} bytes are not a whole number of {dtype} elements",
            bytes.len()
        );
        Self { dtype, bytes }
    }

    /// Numbers of this machine (of little-endian byte order, as all that folio runs on).
    #[must_use]
    pub fn from_f32(values: &'a [f32]) -> Self {
        Self { dtype: Dtype::F32, bytes: bytemuck::cast_slice(values) }
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How many elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements in `range`.
    ///
    /// # Panics
    /// When the range is not inside the tensor.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let size = self.dtype.bytes();
        Self { dtype: self.dtype, bytes: &self.bytes[range.start * size..range.end * size] }
    }

    /// All elements, widened.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.widen_into(&mut out);
        out
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Widens into `out`, which has as many elements.
    pub(crate) fn widen_into(&self, out: &mut [f32]) {
        assert_eq!(self.len(), out.len(), "as many places as elements");
        fn each<E: Element>(bytes: &[u8], out: &mut [f32]) {
            for (bytes, out) in bytes.chunks_exact(size_of::<E>()).zip(out) {
                *out = E::read(bytes).to_f32();
            }
        }
        match self.dtype {
            Dtype::F32 => each::<f32>(self.bytes, out),
            Dtype::F16 => each::<f16>(self.bytes, out),
            Dtype::Bf16 => each::<bf16>(self.bytes, out),
        }
    }
}

/// A storage type that arithmetic widens from.
pub(crate) trait Element: Pod + Send + Sync {
    const DTYPE: Dtype;

    /// From exactly the bytes of one little-endian element.
    fn read(bytes: &[u8]) -> Self;
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Sixteen consecutive elements, widened.
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V;

    /// Rounds a slice.
    fn narrow(from: &[f32], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::from_f32(*from);
        }
    }

    /// Where output channel `lane` of step `k` is inside a panel.
    fn panel_index(k: usize, lane: usize) -> usize {
        k * LANES + lane
    }
}

/// One whose steps lie one after another in panels, so that a register tile takes them so.
pub(crate) trait Stepwise: Element {}

impl Stepwise for f32 {}
impl Stepwise for f16 {}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self::from_bits(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load(from)
    }
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self::from_bits(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load_f16(from)
    }
    fn narrow(from: &[f32], to: &mut [Self]) {
        // With hardware conversion where there is one; it rounds alike.
        to.convert_from_f32_slice(from);
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self::from_bits(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        // Without the branch of the library's conversion, so that loops over it vectorise.
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        let kept = if x.is_nan() { (bits >> 16) | 0x40 } else { rounded };
        let [low, high, ..] = kept.to_le_bytes();
        Self::from_bits(u16::from_le_bytes([low, high]))
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, from: &[Self; LANES]) -> L::V {
        l.load_bf16(from)
    }
    /// Steps are stored in pairs, `[k / 2][16][2]`, as products of pairs want them; a shift and a mask widen a whole register of both.
    #[inline(always)]
    fn panel_index(k: usize, lane: usize) -> usize {
        (k / 2) * 2 * LANES + 2 * lane + k % 2
    }
}

/// Runs `$body` with `$E` being the storage type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::Dtype::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::Dtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_element;
