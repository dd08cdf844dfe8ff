//! From checked tensors to a model in memory, with progress.

use folio_kernels::Dtype;

use crate::backend::{Backend, Form, Linear, LinearWeights, Norm, NormWeights, Role};
use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::forward::{Embedding, Layer, Model};
use crate::memory::MemoryPlan;
use crate::sizes::WeightSizes;
use crate::spec::{ModelSpec, NormKind, NormSpec, Position};
use crate::weights::{
    Keep, Kept, LayerTensors, LinearTensors, MatrixLayout, ModelTensors, NormTensors,
};

/// How far loading has come, in bytes of the weights as they will lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Laid out so far.
    pub done: u64,
    /// All.
    pub total: u64,
}

pub(crate) fn load_model<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    progress: &mut dyn FnMut(Progress),
) -> Result<Model<B>, ModelError> {
    let spec = checkpoint.spec();
    let tensors = checkpoint.tensors()?;
    let keep = plan.keep();
    let loader = Loader { backend, spec, keep };
    let sizes = WeightSizes::new(spec, &checkpoint.inventory().kept(keep));
    let total = sizes.total;
    let mut done = 0;
    let mut report = |bytes: u64| {
        if let Some(files) = checkpoint.stored() {
            files.release();
        }
        done += bytes;
        progress(Progress { done, total });
    };
    report(0);
    let mut layers = Vec::with_capacity(spec.layers);
    let ModelTensors { embed, positions, layers: stored, final_norm, logits } = tensors;
    let table = |tensors: LinearTensors<'_>, kept: Kept| {
        backend.matrix(&tensors, &MatrixLayout::new(&tensors, Form::Plain).kept(kept))
    };
    let embedding =
        if spec.tied { Embedding::Tied } else { Embedding::Own(table(embed, keep.tables())?) };
    let positions = positions.map(|tensors| table(tensors, keep.positions())).transpose()?;
    report(sizes.tables);
    // The largest matrix first, while there is little else: what is read of the file counts as memory, too.
    let logits = loader.linear(Role::Logits, logits, keep.tables(), Form::Plain)?;
    report(sizes.head);
    for ((layer, window), bytes) in stored.into_iter().zip(&spec.windows).zip(sizes.layers) {
        layers.push(loader.layer(layer, *window)?);
        report(bytes);
    }
    let model = Model {
        embed_scale: spec.embed_scale.map(|scale| round(scale, plan.dtype)),
        embedding,
        positions,
        layers,
        final_norm: loader.norm(final_norm),
        logits,
        frequencies: match &spec.position {
            Position::Rope(rope) => rope.frequencies(),
            Position::Learned { .. } => Vec::new(),
        },
        spec: spec.clone(),
    };
    Ok(model)
}

struct Loader<'a, B: Backend> {
    backend: &'a B,
    spec: &'a ModelSpec,
    keep: Keep,
}

impl<B: Backend> Loader<'_, B> {
    fn layer(
        &self,
        tensors: LayerTensors<'_>,
        window: Option<usize>,
    ) -> Result<Layer<B>, ModelError> {
        let spec = self.spec;
        let up = if spec.gated { Form::Gated } else { Form::Plain };
        let linear = |role, tensors, form| self.linear(role, tensors, self.keep.layers(), form);
        Ok(Layer {
            attention_norm: self.norm(tensors.attention_norm),
            post_attention_norm: tensors.post_attention_norm.map(|n| self.norm(n)),
            mlp_norm: tensors.mlp_norm.map(|n| self.norm(n)),
            post_mlp_norm: tensors.post_mlp_norm.map(|n| self.norm(n)),
            head_norms: tensors
                .query_key_norms
                .map(|(query, key)| (self.head_norm(query), self.head_norm(key))),
            qkv: linear(Role::Qkv, tensors.qkv, Form::Plain)?,
            output: linear(Role::Output, tensors.output, Form::Plain)?,
            up: linear(Role::Up, tensors.up, up)?,
            down: linear(Role::Down, tensors.down, Form::Plain)?,
            attend: spec.attend(window),
        })
    }

    fn linear(
        &self,
        role: Role,
        tensors: LinearTensors<'_>,
        kept: Kept,
        form: Form,
    ) -> Result<Linear<B>, ModelError> {
        let layout = MatrixLayout::new(&tensors, form).kept(kept);
        let matrix = self.backend.matrix(&tensors, &layout)?;
        let bias = tensors.bias.map(|bias| self.backend.vector(bias));
        Ok(LinearWeights { role, matrix, bias })
    }

    fn norm(&self, tensors: NormTensors) -> Norm<B> {
        NormWeights {
            spec: self.spec.norm,
            weight: self.backend.vector(tensors.weight),
            bias: tensors.bias.map(|bias| self.backend.vector(bias)),
        }
    }

    /// Heads are always normed by their root mean square, as the reference has it.
    fn head_norm(&self, weight: Vec<f32>) -> Norm<B> {
        let spec = NormSpec { kind: NormKind::Rms, ..self.spec.norm };
        NormWeights { spec, weight: self.backend.vector(weight), bias: None }
    }
}

/// `value` as a number of this kind.
fn round(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => value,
        Dtype::F16 => half::f16::from_f32(value).to_f32(),
        Dtype::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}
