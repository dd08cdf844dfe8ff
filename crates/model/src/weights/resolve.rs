//! From names and rules to the tensors themselves: everything the forward pass needs, found and checked.

use std::ops::Range;

use folio_kernels::Raw;

use super::files::WeightFiles;
use super::stored::Tensor;
use crate::error::ModelError;
use crate::names::{LinearRule, Names};
use crate::spec::{ModelSpec, NormKind};

/// A linear layer as it is stored: row ranges of tensors, in the order of the matrix to build.
pub struct LinearTensors<'a> {
    /// Stored tensor, how many outputs it has, and which of them are taken.
    pub parts: Vec<(Tensor<'a>, usize, Range<usize>)>,
    /// Columns of the matrix.
    pub inputs: usize,
    /// Whether the stored tensors are `[inputs, outputs]`.
    pub transposed: bool,
    /// The bias, gathered in the matrix' order of rows.
    pub bias: Option<Vec<f32>>,
}

/// A norm's vectors.
pub struct NormTensors {
    /// Multiplied.
    pub weight: Vec<f32>,
    /// Added; layer norms only.
    pub bias: Option<Vec<f32>>,
}

/// One layer.
pub struct LayerTensors<'a> {
    /// Before attention.
    pub attention_norm: NormTensors,
    /// On what attention adds.
    pub post_attention_norm: Option<NormTensors>,
    /// Before the MLP.
    pub mlp_norm: Option<NormTensors>,
    /// On what the MLP adds.
    pub post_mlp_norm: Option<NormTensors>,
    /// Weights of the norms of each query head and of each key head.
    pub query_key_norms: Option<(Vec<f32>, Vec<f32>)>,
    /// Queries, keys, values.
    pub qkv: LinearTensors<'a>,
    /// The attention's output.
    pub output: LinearTensors<'a>,
    /// The MLP's first half.
    pub up: LinearTensors<'a>,
    /// The MLP's second half.
    pub down: LinearTensors<'a>,
}

/// The whole model.
pub struct ModelTensors<'a> {
    /// The token embedding, `[vocab, hidden]`.
    pub embed: LinearTensors<'a>,
    /// The learned positions, `[context + offset, hidden]`.
    pub positions: Option<LinearTensors<'a>>,
    /// In order.
    pub layers: Vec<LayerTensors<'a>>,
    /// Before the vocabulary head.
    pub final_norm: NormTensors,
    /// The vocabulary head; shares the embedding's tensor when tied.
    pub logits: LinearTensors<'a>,
}

impl<'a> ModelTensors<'a> {
    /// Finds and checks everything.
    ///
    /// # Errors
    /// Names the first tensor that is missing, shaped or stored otherwise, or not finite where that is checked (norms and
    /// biases; checking every weight would mean reading them all twice).
    pub fn resolve(
        files: &'a WeightFiles,
        spec: &ModelSpec,
        names: &Names,
    ) -> Result<Self, ModelError> {
        let embed = |prefix: &str| format!("{prefix}{}.weight", names.embed);
        let prefix = names.prefixes.iter().find(|p| files.contains(&embed(p)));
        let prefix = prefix.or(names.prefixes.first()).copied().unwrap_or_default();
        let finder = Finder { files, spec, names, prefix };
        let positions = names.positions(spec, prefix);
        Ok(Self {
            embed: finder.linear(&names.embed(spec, prefix))?,
            positions: positions.map(|rule| finder.linear(&rule)).transpose()?,
            layers: (0..spec.layers).map(|n| finder.layer(n)).collect::<Result<_, _>>()?,
            final_norm: finder.norm(&format!("{prefix}{}", names.final_norm))?,
            logits: finder.linear(&names.logits(spec, prefix))?,
        })
    }
}

struct Finder<'a, 'b> {
    files: &'a WeightFiles,
    spec: &'b ModelSpec,
    names: &'b Names,
    prefix: &'b str,
}

impl<'a> Finder<'a, '_> {
    fn layer(&self, layer: usize) -> Result<LayerTensors<'a>, ModelError> {
        let Self { spec, names, prefix, .. } = *self;
        let full = |name: &str| names.in_layer(prefix, layer, name);
        let norm = |name: Option<&str>| name.map(|n| self.norm(&full(n))).transpose();
        let query_key_norms = match names.query_key_norms {
            Some((query, key)) if spec.query_key_norm => Some((
                self.vector(&format!("{}.weight", full(query)), spec.head_dim)?,
                self.vector(&format!("{}.weight", full(key)), spec.head_dim)?,
            )),
            _ => None,
        };
        Ok(LayerTensors {
            attention_norm: self.norm(&full(names.attention_norm))?,
            post_attention_norm: norm(names.post_attention_norm)?,
            mlp_norm: norm(names.mlp_norm)?,
            post_mlp_norm: norm(names.post_mlp_norm)?,
            query_key_norms,
            qkv: self.linear(&names.qkv(spec, prefix, layer))?,
            output: self.linear(&names.output(spec, prefix, layer))?,
            up: self.linear(&names.up(spec, prefix, layer))?,
            down: self.linear(&names.down(spec, prefix, layer))?,
        })
    }

    fn norm(&self, name: &str) -> Result<NormTensors, ModelError> {
        let hidden = self.spec.hidden;
        let bias = match self.spec.norm.kind {
            NormKind::Layer => Some(self.vector(&format!("{name}.bias"), hidden)?),
            NormKind::Rms | NormKind::RmsUnitOffset => None,
        };
        Ok(NormTensors { weight: self.vector(&format!("{name}.weight"), hidden)?, bias })
    }

    fn linear(&self, rule: &LinearRule) -> Result<LinearTensors<'a>, ModelError> {
        let mut parts = Vec::with_capacity(rule.parts.len());
        let mut bias = rule.bias.then(Vec::new);
        for part in &rule.parts {
            let weights =
                self.files.matrix(&part.tensor, part.stored, rule.inputs, rule.transposed)?;
            parts.push((weights, part.stored, part.rows.clone()));
            if let Some(bias) = &mut bias {
                let name = format!("{}.bias", part.tensor);
                let tensor = self.files.tensor(&name, &[part.stored])?;
                bias.extend(finite(&tensor, &tensor.floats()?.slice(part.rows.clone()))?);
            }
        }
        Ok(LinearTensors { parts, inputs: rule.inputs, transposed: rule.transposed, bias })
    }

    fn vector(&self, name: &str, width: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.files.tensor(name, &[width])?;
        finite(&tensor, &tensor.floats()?)
    }
}

fn finite(tensor: &Tensor<'_>, raw: &Raw<'_>) -> Result<Vec<f32>, ModelError> {
    let values = raw.to_f32();
    if values.iter().all(|v| v.is_finite()) {
        return Ok(values);
    }
    Err(ModelError::tensor(tensor.file, &tensor.name, "contains NaN or infinity"))
}
