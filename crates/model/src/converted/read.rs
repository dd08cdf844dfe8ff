//! A converted model's weights, mapped: the header believed only as far as the file and the configuration agree with it.

use std::sync::Arc;

use folio_kernels::{Dtype, MappedFile};
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::header::{Header, Vector};
use super::items::{EMBED, FINAL_NORM, LOGITS, POSITIONS, ROPE_FACTORS, bias, in_layer, weight};
use super::{ALIGNMENT, FILE, MAGIC, MOST_HEADER_BYTES, PAGE, PREFIX_BYTES, VERSION};
use crate::backend::Form;
use crate::error::ModelError;
use crate::source::{FileBytes, ModelSource};
use crate::spec::{ModelSpec, NormKind, Placement, Position};
use crate::weights::{
    Elements, LayerTensors, LinearTensors, MatrixLayout, ModelTensors, NormTensors, PackedPlace,
    Stored, Tensor,
};

const AGAIN: &str = "convert the model again";

/// A mapped file whose header has been checked.
pub(crate) struct ConvertedFile {
    file: Arc<MappedFile>,
    dtype: Dtype,
    matrices: FxHashMap<String, Section>,
    /// Where vectors start, and how many numbers they have.
    vectors: FxHashMap<String, (usize, usize)>,
    gguf_shapes: FxHashMap<String, Vec<usize>>,
}

/// A matrix of the file.
struct Section {
    /// From the start of the file.
    start: usize,
    layout: MatrixLayout,
}

fn bad(problem: impl std::fmt::Display) -> ModelError {
    ModelError::file(FILE, problem.to_string())
}

fn damaged(problem: impl std::fmt::Display) -> ModelError {
    bad(format!("is damaged: {problem}; {AGAIN}"))
}

impl ConvertedFile {
    /// Maps the file of a folder, or `None` when there is none.
    ///
    /// # Errors
    /// When it is of another version, damaged or truncated.
    pub(crate) fn open(source: &ModelSource) -> Result<Option<Self>, ModelError> {
        if !matches!(source, ModelSource::Folder(_)) {
            return Ok(None);
        }
        let Some(FileBytes::Mapped(file)) = source.map(FILE)? else { return Ok(None) };
        let (header, content) = read_header(&file)?;
        let available = file.len().saturating_sub(content);
        if Ok(header.content_bytes) != u64::try_from(available) {
            return Err(bad(format!(
                "is truncated or damaged: {} bytes of weights are needed, {available} are there; {AGAIN}",
                header.content_bytes
            )));
        }
        file.read_ahead();
        let dtype = header.dtype.into();
        let place = |start: u64, bytes: Option<usize>| {
            let start = usize::try_from(start).ok().filter(|start| start.is_multiple_of(ALIGNMENT));
            let start = start?.checked_add(content)?;
            (start.checked_add(bytes?)? <= file.len()).then_some(start)
        };
        let mut matrices = FxHashMap::default();
        for (name, matrix) in header.matrices {
            let layout = matrix.layout().filter(|layout| all_floats_are(dtype, layout));
            let section = layout.and_then(|layout| {
                let start = place(matrix.start, layout.packed_bytes())?;
                Some(Section { start, layout })
            });
            let section = section.ok_or_else(|| damaged(format!("`{name}` cannot be a matrix")))?;
            matrices.insert(name, section);
        }
        let mut vectors = FxHashMap::default();
        for (name, Vector { start, length }) in header.vectors {
            let start = place(start, length.checked_mul(size_of::<f32>()));
            let start = start.ok_or_else(|| damaged(format!("`{name}` cannot be a vector")))?;
            vectors.insert(name, (start, length));
        }
        let gguf_shapes = header.gguf_shapes.into_iter().collect();
        Ok(Some(Self { file: Arc::new(file), dtype, matrices, vectors, gguf_shapes }))
    }

    /// What the floats were made for.
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape of a tensor of the GGUF file it was.
    pub(crate) fn gguf_shape(&self, tensor: &str) -> Option<Vec<usize>> {
        self.gguf_shapes.get(tensor).cloned()
    }

    /// The factors of the frequencies of the GGUF file it was, if that had any.
    pub(crate) fn rope_factors(&self) -> Result<Option<Vec<f32>>, ModelError> {
        let length = self.vectors.get(ROPE_FACTORS).map(|(_, length)| *length);
        length.map(|length| self.vector(ROPE_FACTORS, length)).transpose()
    }

    /// Everything the forward pass needs, as the configuration wants it.
    ///
    /// # Errors
    /// Names what is missing or has another shape.
    pub(crate) fn tensors(&self, spec: &ModelSpec) -> Result<ModelTensors<'_>, ModelError> {
        let table = |name: &str, rows| self.linear(name, (rows, spec.hidden), Form::Plain, false);
        let positions = match spec.position {
            Position::Learned { offset } => Some(table(POSITIONS, spec.context + offset)?),
            Position::Rope(_) => None,
        };
        Ok(ModelTensors {
            embed: table(if spec.tied { LOGITS } else { EMBED }, spec.vocab)?,
            positions,
            layers: (0..spec.layers).map(|n| self.layer(spec, n)).collect::<Result<_, _>>()?,
            final_norm: self.norm(spec, FINAL_NORM)?,
            logits: self.linear(
                LOGITS,
                (spec.vocab, spec.hidden),
                Form::Plain,
                spec.biases.logits,
            )?,
        })
    }

    fn layer(&self, spec: &ModelSpec, layer: usize) -> Result<LayerTensors<'_>, ModelError> {
        let name = |name: &str| in_layer(layer, name);
        let norm =
            |there: bool, what: &str| there.then(|| self.norm(spec, &name(what))).transpose();
        let linear = |what: &str, outputs, inputs, form, biased| {
            self.linear(&name(what), (outputs, inputs), form, biased)
        };
        let post = spec.placement == Placement::PreAndPost;
        let up = if spec.gated { Form::Gated } else { Form::Plain };
        let (hidden, biases) = (spec.hidden, &spec.biases);
        let query_key_norms = if spec.query_key_norm {
            let vector = |what: &str| self.vector(&name(what), spec.head_dim);
            Some((vector("query_norm")?, vector("key_norm")?))
        } else {
            None
        };
        Ok(LayerTensors {
            attention_norm: self.norm(spec, &name("attention_norm"))?,
            post_attention_norm: norm(post, "post_attention_norm")?,
            mlp_norm: norm(spec.placement != Placement::ParallelShared, "mlp_norm")?,
            post_mlp_norm: norm(post, "post_mlp_norm")?,
            query_key_norms,
            qkv: linear("qkv", spec.qkv_width(), hidden, Form::Plain, biases.qkv)?,
            output: linear("output", hidden, spec.query_width(), Form::Plain, biases.output)?,
            up: linear("up", spec.up_width(), hidden, up, biases.up)?,
            down: linear("down", hidden, spec.intermediate, Form::Plain, biases.down)?,
        })
    }

    fn norm(&self, spec: &ModelSpec, name: &str) -> Result<NormTensors, ModelError> {
        let layer_norm = spec.norm.kind == NormKind::Layer;
        let bias = layer_norm.then(|| self.vector(&bias(name), spec.hidden)).transpose()?;
        Ok(NormTensors { weight: self.vector(&weight(name), spec.hidden)?, bias })
    }

    fn linear(
        &self,
        name: &str,
        (outputs, inputs): (usize, usize),
        form: Form,
        biased: bool,
    ) -> Result<LinearTensors<'_>, ModelError> {
        let missing = || ModelError::tensor(FILE, name, format!("is missing; {AGAIN}"));
        let Section { start, layout } = self.matrices.get(name).ok_or_else(missing)?;
        let stored: usize = layout.parts.iter().map(|(outputs, _)| outputs).sum();
        if (stored, layout.inputs, layout.form) != (outputs, inputs, form) {
            let problem = format!(
                "has shape {:?}, but by the model's configuration it must have {:?}; {AGAIN}",
                [stored, layout.inputs],
                [outputs, inputs]
            );
            return Err(ModelError::tensor(FILE, name, problem));
        }
        let parts = layout.parts.iter().map(|&(outputs, stored)| {
            let matrix = PackedPlace { file: &self.file, start: *start };
            let elements = Elements::Packed { matrix, stored };
            (Tensor { file: FILE, name: name.to_owned(), elements }, outputs, 0..outputs)
        });
        let bias = biased.then(|| self.vector(&bias(name), outputs)).transpose()?;
        Ok(LinearTensors { parts: parts.collect(), inputs, transposed: false, bias })
    }

    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError> {
        let wrong = |problem: String| ModelError::tensor(FILE, name, format!("{problem}; {AGAIN}"));
        let (start, stored) =
            *self.vectors.get(name).ok_or_else(|| wrong("is missing".to_owned()))?;
        if stored != length {
            return Err(wrong(format!("has {stored} numbers instead of {length}")));
        }
        let bytes = self.file.get(start..start + length * size_of::<f32>()).unwrap_or_default();
        let (numbers, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if values.len() == length && values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(wrong("contains NaN or infinity".to_owned()))
    }
}

fn all_floats_are(dtype: Dtype, layout: &MatrixLayout) -> bool {
    layout.parts.iter().all(|(_, stored)| match stored {
        Stored::Floats(kind) => *kind == dtype,
        Stored::Codes { .. } => true,
    })
}

/// The header, and where contents begin.
fn read_header(file: &[u8]) -> Result<(Header, usize), ModelError> {
    let Some((prefix, rest)) = file.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(bad(format!("is truncated: it has {} bytes; {AGAIN}", file.len())));
    };
    let field = |at: usize| {
        let bytes = prefix.get(at..).and_then(<[u8]>::first_chunk::<8>);
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    if !prefix.starts_with(&MAGIC) {
        return Err(bad(format!("is not a converted model; {AGAIN}")));
    }
    let (version, length, checksum) = (field(8), field(16), field(24));
    if version != u64::from(VERSION) {
        return Err(bad(format!(
            "has layout {version}, this folio reads {VERSION}; convert the original model again with this folio"
        )));
    }
    let length = usize::try_from(length).ok().filter(|&length| length <= MOST_HEADER_BYTES);
    let header = length.and_then(|length| rest.get(..length));
    let header = header.ok_or_else(|| damaged("it is too short for its header"))?;
    if xxh3_64(header) != checksum {
        return Err(damaged("the checksum of its header differs"));
    }
    let content = (PREFIX_BYTES + header.len()).next_multiple_of(PAGE);
    let header = serde_json::from_slice(header).map_err(damaged)?;
    Ok((header, content))
}
