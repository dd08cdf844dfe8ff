//! How weights are stored, and where everything lies in a panel of codes. Files of converted models hold the same bytes: what changes here
//! changes their version.
//!
//! A panel of floats is `[steps][16]` (f32, f16) or `[steps / 2][16][2]` (bf16), with `steps` the inputs rounded up to even.
//!
//! A panel of codes is a row of sections, each starting at a multiple of 64 bytes; those that a scaling does not have are empty:
//!
//! | section | elements | |
//! |---|---|---|
//! | scales | `[groups or superblocks][16]` f16 | |
//! | minima | `[groups or superblocks][16]` f16 | `Minima`, `NestedMinima` |
//! | zeros | `[groups][16]` u8 | `Zeros` |
//! | group scales | `[groups][16]` i8 | nested |
//! | group minima | `[groups][16]` u8 | `NestedMinima` |
//! | codes | `[steps / 32]` units | |
//!
//! Every group takes its inputs rounded up to eight steps, and all groups together are rounded up to 32; the codes of steps
//! without an input are zero. A unit is 32 steps. Eight bits: `[8][16][4]` bytes, four steps of a lane side by side. Fewer: `[4][16][4]`
//! bytes, whose lower halves are steps `8 i .. 8 i + 4` and whose upper halves are the four steps after them; then, for
//! each bit above the fourth, `[8][64]` bits in the order of the bytes.

use crate::codes::{Bits, CodeFormat, SUPERBLOCK, Scaling};
use crate::dtype::Dtype;
use crate::lanes::LANES;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// As floating-point numbers.
    Float(Dtype),
    /// As codes.
    Codes(CodeFormat),
}

impl WeightFormat {
    /// Memory that a matrix takes; `None` when the number does not fit. A gated pair takes that of both.
    ///
    /// # Panics
    /// When there is no such format: see [`CodeFormat`].
    #[must_use]
    pub fn packed_bytes(self, outputs: usize, inputs: usize) -> Option<usize> {
        Panel::new(self, inputs)?.bytes().checked_mul(outputs.div_ceil(LANES))
    }
}

/// A part of a matrix that is stored in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// How.
    pub format: WeightFormat,
    /// How many outputs.
    pub outputs: usize,
}

/// Where everything lies in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Panel {
    Float { dtype: Dtype, elements: usize },
    Codes(CodePanel),
}

impl Panel {
    /// `None` when a size does not fit a number.
    pub(crate) fn new(format: WeightFormat, inputs: usize) -> Option<Self> {
        match format {
            WeightFormat::Float(dtype) => {
                let elements = inputs.checked_next_multiple_of(2)?.checked_mul(LANES)?;
                elements.checked_mul(dtype.bytes())?;
                Some(Self::Float { dtype, elements })
            }
            WeightFormat::Codes(format) => CodePanel::new(format, inputs).map(Self::Codes),
        }
    }

    /// Whether its weights are such floats.
    pub(crate) fn holds(&self, wanted: Dtype) -> bool {
        matches!(self, Self::Float { dtype, .. } if *dtype == wanted)
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Float { dtype, elements } => dtype.bytes() * elements,
            Self::Codes(panel) => panel.bytes,
        }
    }
}

/// How inputs are cut into groups, as weights and activations agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grouping {
    pub(crate) inputs: usize,
    /// Inputs of a whole group.
    pub(crate) group: usize,
    pub(crate) groups: usize,
    /// Steps of a group: its inputs rounded up to [`BLOCK`].
    pub(crate) steps: usize,
}

/// Steps that are unpacked together.
pub(crate) const BLOCK: usize = 8;
/// Steps of a unit.
pub(crate) const UNIT: usize = 32;
/// The most inputs that may share a scale: sums of so many products fit 32 bits.
const MOST: usize = 1 << 16;

impl Grouping {
    fn new(format: CodeFormat, inputs: usize) -> Self {
        let group = format.group.unwrap_or(inputs).min(inputs.max(1));
        assert!(format.group != Some(0), "a group of quantised weights has at least one input");
        assert!(group <= MOST, "at most {MOST} inputs may share a scale, not {group}");
        let group = group.max(1);
        Self { inputs, group, groups: inputs.div_ceil(group), steps: group.next_multiple_of(BLOCK) }
    }

    /// The inputs of a group.
    pub(crate) fn range(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group..((group + 1) * self.group).min(self.inputs)
    }

    /// Steps of all groups.
    pub(crate) fn all_steps(&self) -> usize {
        self.groups * self.steps
    }
}

impl Bits {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Five => 5,
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    /// The largest code.
    pub(crate) fn largest(self) -> u8 {
        u8::MAX >> (8 - self.count())
    }

    /// What centred codes are centred on.
    pub(crate) fn centre(self) -> u8 {
        1 << (self.count() - 1)
    }
}

impl Scaling {
    pub(crate) fn is_nested(self) -> bool {
        matches!(self, Self::NestedCentred | Self::NestedMinima)
    }

    pub(crate) fn has_minima(self) -> bool {
        matches!(self, Self::Minima | Self::NestedMinima)
    }
}

/// Where everything lies in a panel of codes: offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodePanel {
    pub(crate) format: CodeFormat,
    pub(crate) grouping: Grouping,
    /// Groups that share a scale.
    pub(crate) nested: usize,
    pub(crate) scales: usize,
    pub(crate) minima: usize,
    pub(crate) zeros: usize,
    pub(crate) group_scales: usize,
    pub(crate) group_minima: usize,
    pub(crate) codes: usize,
    pub(crate) bytes: usize,
}

impl CodePanel {
    fn new(format: CodeFormat, inputs: usize) -> Option<Self> {
        let scaling = format.scaling;
        let grouping = Grouping::new(format, inputs);
        let nested = if scaling.is_nested() {
            let group = format.group.filter(|group| SUPERBLOCK.is_multiple_of(*group));
            SUPERBLOCK / group.expect("nested scales have groups that divide a superblock")
        } else {
            1
        };
        let (groups, outer) = (grouping.groups, grouping.groups.div_ceil(nested));
        let mut end = 0usize;
        let mut section = |there: bool, rows: usize, bytes: usize| {
            let start = end;
            let size = if there { rows.checked_mul(LANES)?.checked_mul(bytes)? } else { 0 };
            end = end.checked_add(size)?.checked_next_multiple_of(64)?;
            Some(start)
        };
        let scales = section(true, outer, 2)?;
        let minima = section(scaling.has_minima(), outer, 2)?;
        let zeros = section(scaling == Scaling::Zeros, groups, 1)?;
        let group_scales = section(scaling.is_nested(), groups, 1)?;
        let group_minima = section(scaling == Scaling::NestedMinima, groups, 1)?;
        let steps = groups.checked_mul(grouping.steps)?.checked_next_multiple_of(UNIT)?;
        // Sixteen codes of eight bits a step is twice as many bytes as bits.
        let codes = section(true, steps / 8, format.bits.count())?;
        Some(Self {
            format,
            grouping,
            nested,
            scales,
            minima,
            zeros,
            group_scales,
            group_minima,
            codes,
            bytes: end,
        })
    }

    /// How many scales an output has.
    pub(crate) fn outer(&self) -> usize {
        self.grouping.groups.div_ceil(self.nested)
    }

    /// Bytes of a unit.
    pub(crate) fn unit_bytes(&self) -> usize {
        UNIT * LANES / 8 * self.format.bits.count()
    }
}
