//! What the header says, as it is written and read: no value of it is trusted before `read` has checked it.

use std::collections::BTreeMap;

use folio_kernels::{Bits, CodeFormat, Dtype, SUPERBLOCK, Scaling};
use serde::{Deserialize, Serialize};

use crate::backend::Form;
use crate::gguf::Kind;
use crate::weights::{MOST_GROUP, MatrixLayout, Quantization, Scheme, Stored};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// Which folio has written it, for people.
    pub(super) made_by: String,
    /// What the floats beside quantised weights were made for.
    pub(super) dtype: Float,
    /// Bytes of everything after the header, from the first page on.
    pub(super) content_bytes: u64,
    pub(super) matrices: BTreeMap<String, Matrix>,
    pub(super) vectors: BTreeMap<String, Vector>,
    /// The tensors of the GGUF file it was, which tell what the metadata leaves open.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) gguf_shapes: BTreeMap<String, Vec<usize>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Matrix {
    /// From the first page of contents.
    pub(super) start: u64,
    pub(super) inputs: usize,
    pub(super) gated: bool,
    pub(super) parts: Vec<Part>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) outputs: usize,
    pub(super) format: Format,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum Format {
    Float(Float),
    Codes { name: String, bits: u8, group: Option<usize>, scaling: ScalingName },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Float {
    Float32,
    Float16,
    Bfloat16,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScalingName {
    Centred,
    Zeros,
    Minima,
    NestedCentred,
    NestedMinima,
}

/// Single-precision numbers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vector {
    /// From the first page of contents.
    pub(super) start: u64,
    pub(super) length: usize,
}

impl From<Dtype> for Float {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::Float32,
            Dtype::F16 => Self::Float16,
            Dtype::Bf16 => Self::Bfloat16,
        }
    }
}

impl From<Float> for Dtype {
    fn from(float: Float) -> Self {
        match float {
            Float::Float32 => Self::F32,
            Float::Float16 => Self::F16,
            Float::Bfloat16 => Self::Bf16,
        }
    }
}

impl From<Stored> for Format {
    fn from(stored: Stored) -> Self {
        let (format, name) = match stored {
            Stored::Floats(dtype) => return Self::Float(dtype.into()),
            Stored::Codes { format, name } => (format, name.to_owned()),
        };
        let bits = match format.bits {
            Bits::Four => 4,
            Bits::Five => 5,
            Bits::Six => 6,
            Bits::Eight => 8,
        };
        let scaling = match format.scaling {
            Scaling::Centred => ScalingName::Centred,
            Scaling::Zeros => ScalingName::Zeros,
            Scaling::Minima => ScalingName::Minima,
            Scaling::NestedCentred => ScalingName::NestedCentred,
            Scaling::NestedMinima => ScalingName::NestedMinima,
        };
        Self::Codes { name, bits, group: format.group, scaling }
    }
}

impl Format {
    /// `None` when there is no such format for so many inputs.
    fn stored(&self, inputs: usize) -> Option<Stored> {
        let (name, bits, group, scaling) = match self {
            Self::Float(float) => return Some(Stored::Floats((*float).into())),
            Self::Codes { name, bits, group, scaling } => (name, bits, *group, scaling),
        };
        let bits = match bits {
            4 => Bits::Four,
            5 => Bits::Five,
            6 => Bits::Six,
            8 => Bits::Eight,
            _ => return None,
        };
        let (scaling, nested) = match scaling {
            ScalingName::Centred => (Scaling::Centred, false),
            ScalingName::Zeros => (Scaling::Zeros, false),
            ScalingName::Minima => (Scaling::Minima, false),
            ScalingName::NestedCentred => (Scaling::NestedCentred, true),
            ScalingName::NestedMinima => (Scaling::NestedMinima, true),
        };
        let divides = group.is_some_and(|group| group > 0 && SUPERBLOCK.is_multiple_of(group));
        let shared = group.unwrap_or(inputs);
        if !(1..=MOST_GROUP).contains(&shared) || (nested && !divides) {
            return None;
        }
        let format = CodeFormat { bits, group, scaling };
        Some(Stored::Codes { format, name: known_name(name) })
    }
}

/// The names that kinds of quantised weights can have.
fn known_name(name: &str) -> &'static str {
    let of_gguf = Kind::all().map(Kind::name);
    let quantised = Quantization::NAMES.into_iter();
    let mut known = of_gguf.chain(quantised).chain(Scheme::NAMES);
    known.find(|known| *known == name).unwrap_or("quantised")
}

impl Matrix {
    pub(super) fn new(layout: &MatrixLayout, start: u64) -> Self {
        let mut parts: Vec<(usize, Stored)> = Vec::new();
        for &(outputs, stored) in &layout.parts {
            match parts.last_mut() {
                Some((sum, last)) if *last == stored => *sum += outputs,
                _ => parts.push((outputs, stored)),
            }
        }
        let part = |(outputs, stored): (usize, Stored)| Part { outputs, format: stored.into() };
        let parts = parts.into_iter().map(part).collect();
        Self { start, inputs: layout.inputs, gated: layout.form == Form::Gated, parts }
    }

    /// `None` when a part is of no known format, or a gated matrix is not two equal halves.
    pub(super) fn layout(&self) -> Option<MatrixLayout> {
        let part = |part: &Part| Some((part.outputs, part.format.stored(self.inputs)?));
        let parts: Vec<_> = self.parts.iter().map(part).collect::<Option<_>>()?;
        let form = if self.gated { Form::Gated } else { Form::Plain };
        let outputs =
            parts.iter().try_fold(0_usize, |sum, (outputs, _)| sum.checked_add(*outputs))?;
        let layout = MatrixLayout { form, inputs: self.inputs, parts };
        let segments = layout.segments();
        let halves = matches!(segments.as_slice(), [gate, up] if gate.outputs == up.outputs);
        (!self.gated || (halves && outputs.is_multiple_of(2))).then_some(layout)
    }
}
