//! What a model's matrices are and how each part of them is stored: enough to count bytes without reading any.

use folio_kernels::{Dtype, Segment};

use super::quantise::Quantization;
use super::resolve::{LinearTensors, ModelTensors};
use super::stored::Stored;
use crate::backend::Form;
use crate::spec::{ModelSpec, Position};

/// One matrix of the forward pass, and how each part of it is stored, in a file or in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixLayout {
    /// How it will be used.
    pub form: Form,
    /// Columns.
    pub inputs: usize,
    /// From the top: how many outputs, and how they are stored.
    pub parts: Vec<(usize, Stored)>,
}

impl MatrixLayout {
    /// As the files have it.
    #[must_use]
    pub fn new(tensors: &LinearTensors<'_>, form: Form) -> Self {
        let parts =
            tensors.parts.iter().map(|(tensor, _, rows)| (rows.len(), tensor.elements.stored()));
        Self { form, inputs: tensors.inputs, parts: parts.collect() }
    }

    /// As it lies in memory.
    pub(crate) fn kept(&self, keep: Kept) -> Self {
        let parts = self.parts.iter().map(|&(outputs, stored)| (outputs, keep.part(stored)));
        Self { form: self.form, inputs: self.inputs, parts: parts.collect() }
    }

    /// Neighbouring parts of one format together; of a gated matrix always the gate and the rest.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        for &(outputs, stored) in &self.parts {
            let format = stored.format();
            match segments.last_mut() {
                Some(last) if last.format == format => last.outputs += outputs,
                _ => segments.push(Segment { format, outputs }),
            }
        }
        match (self.form, segments.as_slice()) {
            (Form::Gated, [both]) => vec![Segment { outputs: both.outputs / 2, ..*both }; 2],
            _ => segments,
        }
    }

    /// What it takes in memory; `None` when the number is too large.
    #[must_use]
    pub fn packed_bytes(&self) -> Option<usize> {
        let bytes = |segment: &Segment| segment.format.packed_bytes(segment.outputs, self.inputs);
        self.segments().iter().try_fold(0_usize, |sum, segment| sum.checked_add(bytes(segment)?))
    }
}

/// What becomes of stored matrices in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Of floats that are not quantised.
    pub(crate) dtype: Dtype,
    /// Of floats that are.
    pub(crate) floats: Option<Stored>,
}

impl Kept {
    /// Codes stay as they are.
    pub(crate) fn part(&self, stored: Stored) -> Stored {
        match stored {
            Stored::Codes { .. } => stored,
            Stored::Floats(_) => self.floats.unwrap_or(Stored::Floats(self.dtype)),
        }
    }
}

/// What all matrices become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) dtype: Dtype,
    pub(crate) quantization: Option<Quantization>,
}

impl Keep {
    /// Matrices of layers.
    pub(crate) fn layers(self) -> Kept {
        Kept { dtype: self.dtype, floats: self.quantization.map(Quantization::of_layers) }
    }

    /// The embedding and the vocabulary head.
    pub(crate) fn tables(self) -> Kept {
        Kept { dtype: self.dtype, floats: self.quantization.map(Quantization::of_tables) }
    }

    /// Learned positions, which are small.
    pub(crate) fn positions(self) -> Kept {
        Kept { dtype: self.dtype, floats: None }
    }
}

/// All matrices of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inventory {
    /// The token embedding; `None` when it is the vocabulary head.
    pub(crate) embed: Option<MatrixLayout>,
    pub(crate) positions: Option<MatrixLayout>,
    pub(crate) layers: Vec<[MatrixLayout; 4]>,
    pub(crate) head: MatrixLayout,
    /// Of a converted model: what its floats were made for. Its matrices lie in memory as they do in the file.
    pub(crate) converted: Option<Dtype>,
}

impl Inventory {
    pub(crate) fn new(tensors: &ModelTensors<'_>, spec: &ModelSpec) -> Self {
        let plain = |tensors: &LinearTensors<'_>| MatrixLayout::new(tensors, Form::Plain);
        let up = if spec.gated { Form::Gated } else { Form::Plain };
        Self {
            embed: (!spec.tied).then(|| plain(&tensors.embed)),
            positions: tensors.positions.as_ref().map(plain),
            layers: tensors
                .layers
                .iter()
                .map(|layer| {
                    let up = MatrixLayout::new(&layer.up, up);
                    [plain(&layer.qkv), plain(&layer.output), up, plain(&layer.down)]
                })
                .collect(),
            head: plain(&tensors.logits),
            converted: None,
        }
    }

    /// Of a model of which only the configuration is there, with all weights stored as floats of one kind.
    pub(crate) fn of_floats(spec: &ModelSpec, dtype: Dtype) -> Self {
        let matrix = |form, outputs, inputs| MatrixLayout {
            form,
            inputs,
            parts: vec![(outputs, Stored::Floats(dtype))],
        };
        let table = |rows| matrix(Form::Plain, rows, spec.hidden);
        let up = if spec.gated { Form::Gated } else { Form::Plain };
        let layer = [
            matrix(Form::Plain, spec.qkv_width(), spec.hidden),
            matrix(Form::Plain, spec.hidden, spec.query_width()),
            matrix(up, spec.up_width(), spec.hidden),
            matrix(Form::Plain, spec.hidden, spec.intermediate),
        ];
        Self {
            embed: (!spec.tied).then(|| table(spec.vocab)),
            positions: match spec.position {
                Position::Learned { offset } => Some(table(spec.context + offset)),
                Position::Rope(_) => None,
            },
            layers: vec![layer; spec.layers],
            head: table(spec.vocab),
            converted: None,
        }
    }

    /// As they lie in memory.
    pub(crate) fn kept(&self, keep: Keep) -> Self {
        Self {
            embed: self.embed.as_ref().map(|matrix| matrix.kept(keep.tables())),
            positions: self.positions.as_ref().map(|matrix| matrix.kept(keep.positions())),
            layers: self
                .layers
                .iter()
                .map(|layer| layer.each_ref().map(|matrix| matrix.kept(keep.layers())))
                .collect(),
            head: self.head.kept(keep.tables()),
            converted: self.converted,
        }
    }

    fn matrices(&self) -> impl Iterator<Item = &MatrixLayout> {
        let tables = self.embed.iter().chain(&self.positions).chain([&self.head]);
        self.layers.iter().flatten().chain(tables)
    }

    /// Numbers of the largest matrix.
    pub(crate) fn largest(&self) -> usize {
        let weights = |matrix: &MatrixLayout| {
            let outputs: usize = matrix.parts.iter().map(|(outputs, _)| outputs).sum();
            outputs.saturating_mul(matrix.inputs)
        };
        self.matrices().map(weights).max().unwrap_or(0)
    }

    /// Kinds and how many weights are of each, the commonest first.
    fn kinds(&self) -> Vec<(Stored, usize)> {
        kinds(self.matrices())
    }

    /// The kind that most weights of the layers are of.
    pub(crate) fn of_layers(&self) -> Option<Stored> {
        kinds(self.layers.iter().flatten()).first().map(|(kind, _)| *kind)
    }

    /// The kinds of weights by name, such as `Q4_K + Q6_K`.
    pub(crate) fn names(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (kind, _) in self.kinds() {
            if !names.contains(&kind.name()) {
                names.push(kind.name());
            }
        }
        names.join(" + ")
    }

    /// The kind that most floats are of; half precision where there are none.
    pub(crate) fn dtype(&self) -> Dtype {
        let floats = self.kinds().into_iter().find_map(|(kind, _)| match kind {
            Stored::Floats(dtype) => Some(dtype),
            Stored::Codes { .. } => None,
        });
        self.converted.or(floats).unwrap_or(Dtype::F16)
    }

    /// What all matrices become when these are asked for.
    ///
    /// # Errors
    /// Why that cannot be had.
    pub(crate) fn keep(
        &self,
        dtype: Option<Dtype>,
        quantization: Option<Quantization>,
    ) -> Result<Keep, String> {
        if let Some(converted) = self.converted {
            if quantization.is_some() {
                return Err("the model has been converted and is served as it is; leave out --quantization, or convert \
                            the original again with it"
                    .to_owned());
            }
            if dtype.is_some_and(|dtype| dtype != converted) {
                let name = converted.name();
                return Err(format!(
                    "the model has been converted for {name} and is served as it is; leave out --dtype, or convert the \
                     original again with it"
                ));
            }
        }
        if let (Some(name), Some(_)) = (self.quantised(), quantization) {
            return Err(format!(
                "the weights are already quantised ({name}) and are served as they are; leave out --quantization"
            ));
        }
        Ok(Keep { dtype: dtype.unwrap_or(self.dtype()), quantization })
    }

    /// The names of what is stored as codes, if anything is.
    fn quantised(&self) -> Option<&'static str> {
        self.kinds().into_iter().find_map(|(kind, _)| match kind {
            Stored::Codes { name, .. } => Some(name),
            Stored::Floats(_) => None,
        })
    }
}

/// Kinds and how many weights are of each, the commonest first.
fn kinds<'a>(matrices: impl Iterator<Item = &'a MatrixLayout>) -> Vec<(Stored, usize)> {
    let mut kinds: Vec<(Stored, usize)> = Vec::new();
    for matrix in matrices {
        for &(outputs, stored) in &matrix.parts {
            let weights = outputs.saturating_mul(matrix.inputs);
            match kinds.iter_mut().find(|(kind, _)| *kind == stored) {
                Some((_, sum)) => *sum = sum.saturating_add(weights),
                None => kinds.push((stored, weights)),
            }
        }
    }
    kinds.sort_by_key(|(_, weights)| std::cmp::Reverse(*weights));
    kinds
}
