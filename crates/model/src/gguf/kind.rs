//! How tensors of a GGUF file are stored: which kinds there are, and which are read.

use folio_kernels::{Bits, CodeFormat, Dtype, SUPERBLOCK, Scaling};

/// A kind that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names under which everybody knows them")]
pub enum Kind {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Four bits, a scale per 32.
    Q4_0,
    /// Four bits, a scale and a minimum per 32.
    Q4_1,
    /// Five bits, a scale per 32.
    Q5_0,
    /// Five bits, a scale and a minimum per 32.
    Q5_1,
    /// Eight bits, a scale per 32.
    Q8_0,
    /// Four bits, scales and minima of six bits per 32, a scale and a minimum for these per 256.
    Q4_K,
    /// As `Q4_K` with five bits.
    Q5_K,
    /// Six bits, scales of eight bits per 16, a scale for these per 256.
    Q6_K,
}

/// The kinds that are read, by their numbers in the file.
const READ: &[(u32, Kind)] = &[
    (0, Kind::F32),
    (1, Kind::F16),
    (2, Kind::Q4_0),
    (3, Kind::Q4_1),
    (6, Kind::Q5_0),
    (7, Kind::Q5_1),
    (8, Kind::Q8_0),
    (12, Kind::Q4_K),
    (13, Kind::Q5_K),
    (14, Kind::Q6_K),
    (30, Kind::BF16),
];

/// Names of the others, for messages.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl Kind {
    /// The kind of this number, or a sentence on why it is not read.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        if let Some((_, kind)) = READ.iter().find(|(n, _)| *n == number) {
            return Ok(*kind);
        }
        let name = OTHERS
            .iter()
            .find(|(n, _)| *n == number)
            .map_or_else(|| format!("a kind of number {number}"), |(_, name)| (*name).to_owned());
        let read: Vec<_> = READ.iter().map(|(_, kind)| kind.name()).collect();
        Err(format!("is stored as {name}, which is not supported; {} are", read.join(", ")))
    }

    /// Every kind.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        READ.iter().map(|(_, kind)| *kind)
    }

    /// What everybody calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Elements and bytes of a block.
    #[must_use]
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (SUPERBLOCK, 144),
            Self::Q5_K => (SUPERBLOCK, 176),
            Self::Q6_K => (SUPERBLOCK, 210),
        }
    }

    /// The float it is, if it is one.
    #[must_use]
    pub const fn float(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::BF16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// The form of its codes, if it has any.
    #[must_use]
    pub const fn codes(self) -> Option<CodeFormat> {
        let (bits, group, scaling) = match self {
            Self::F32 | Self::F16 | Self::BF16 => return None,
            Self::Q4_0 => (Bits::Four, 32, Scaling::Centred),
            Self::Q4_1 => (Bits::Four, 32, Scaling::Minima),
            Self::Q5_0 => (Bits::Five, 32, Scaling::Centred),
            Self::Q5_1 => (Bits::Five, 32, Scaling::Minima),
            Self::Q8_0 => (Bits::Eight, 32, Scaling::Centred),
            Self::Q4_K => (Bits::Four, 32, Scaling::NestedMinima),
            Self::Q5_K => (Bits::Five, 32, Scaling::NestedMinima),
            Self::Q6_K => (Bits::Six, 16, Scaling::NestedCentred),
        };
        Some(CodeFormat { bits, group: Some(group), scaling })
    }
}
