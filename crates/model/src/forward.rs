//! The one forward pass: from tokens to the last layer's output, and from chosen rows of it to logits.
//!
//! It reads the knobs of [`ModelSpec`] and nothing else. There are no phases here: prefill chunks and decode steps are
//! rows like any other.

use folio_kernels::{AttendSpec, Epilogue};

use crate::backend::{Backend, Linear, Norm, Rotation, Step};
use crate::rope::RopeStyle;
use crate::scratch::Scratch;
use crate::spec::{ModelSpec, Placement, Position};

/// Where a token's first vector comes from.
pub(crate) enum Embedding<B: Backend> {
    /// A table of its own.
    Own(B::Matrix),
    /// The rows of the vocabulary head.
    Tied,
}

/// The weights of one layer.
pub(crate) struct Layer<B: Backend> {
    pub(crate) attention_norm: Norm<B>,
    pub(crate) post_attention_norm: Option<Norm<B>>,
    /// None where the MLP shares the attention's.
    pub(crate) mlp_norm: Option<Norm<B>>,
    pub(crate) post_mlp_norm: Option<Norm<B>>,
    pub(crate) head_norms: Option<(Norm<B>, Norm<B>)>,
    pub(crate) qkv: Linear<B>,
    pub(crate) output: Linear<B>,
    pub(crate) up: Linear<B>,
    pub(crate) down: Linear<B>,
    pub(crate) attend: AttendSpec,
}

/// A model in memory.
pub(crate) struct Model<B: Backend> {
    pub(crate) spec: ModelSpec,
    pub(crate) embedding: Embedding<B>,
    /// Already rounded to the weights' width.
    pub(crate) embed_scale: Option<f32>,
    pub(crate) positions: Option<B::Matrix>,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) final_norm: Norm<B>,
    pub(crate) logits: Linear<B>,
    /// Radians per position of each pair of channels that turns.
    pub(crate) frequencies: Vec<f32>,
}

impl<B: Backend> Model<B> {
    /// Computes all tokens of `step`; keys and values go to the cache, the last layer's output to `scratch.x`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        step: &Step,
        scratch: &mut Scratch<B>,
        cache: &mut B::Cache,
    ) {
        self.embed(backend, step, scratch);
        for (number, layer) in self.layers.iter().enumerate() {
            self.layer(backend, step, number, layer, scratch, cache);
        }
    }

    fn embed(&self, backend: &B, step: &Step, scratch: &mut Scratch<B>) {
        let Scratch { x, normed, .. } = scratch;
        let table = match &self.embedding {
            Embedding::Own(table) => table,
            Embedding::Tied => &self.logits.matrix,
        };
        backend.look_up(table, &step.tokens, x);
        if let Some(factor) = self.embed_scale {
            backend.scale(factor, step.tokens.len(), x);
        }
        if let Some(table) = &self.positions {
            backend.add_rows(table, &step.position_rows, normed, x);
        }
    }

    fn layer(
        &self,
        backend: &B,
        step: &Step,
        number: usize,
        layer: &Layer<B>,
        scratch: &mut Scratch<B>,
        cache: &mut B::Cache,
    ) {
        let rows = step.tokens.len();
        let Scratch { x, normed, qkv, attended, up, delta, .. } = scratch;

        backend.norm(&layer.attention_norm, rows, x, normed);
        backend.linear(&layer.qkv, Epilogue::Store, rows, normed, qkv);
        if let (Placement::ParallelSeparate, Some(norm)) = (self.spec.placement, &layer.mlp_norm) {
            // Before attention changes the residual stream that both halves read.
            backend.norm(norm, rows, x, normed);
        }
        backend.rotate_and_store(&self.rotation(layer), step, number, qkv, cache);
        backend.attend(&layer.attend, step, number, qkv, cache, attended);
        self.add(
            backend,
            &layer.output,
            layer.post_attention_norm.as_ref(),
            rows,
            attended,
            delta,
            x,
        );

        if let (Placement::Pre | Placement::PreAndPost, Some(norm)) =
            (self.spec.placement, &layer.mlp_norm)
        {
            backend.norm(norm, rows, x, normed);
        }
        backend.linear(&layer.up, self.up_epilogue(), rows, normed, up);
        self.add(backend, &layer.down, layer.post_mlp_norm.as_ref(), rows, up, delta, x);
    }

    /// Adds a half's output to the residual stream, through its norm where there is one.
    #[allow(clippy::too_many_arguments, reason = "the buffers are borrowed apart on purpose")]
    fn add(
        &self,
        backend: &B,
        linear: &Linear<B>,
        norm: Option<&Norm<B>>,
        rows: usize,
        input: &B::Buffer,
        delta: &mut B::Buffer,
        x: &mut B::Buffer,
    ) {
        match norm {
            None => backend.linear(linear, Epilogue::Add, rows, input, x),
            Some(norm) => {
                backend.linear(linear, Epilogue::Store, rows, input, delta);
                backend.norm_add(norm, rows, delta, x);
            }
        }
    }

    fn up_epilogue(&self) -> Epilogue {
        let activation = self.spec.activation;
        if self.spec.gated { Epilogue::Gated(activation) } else { Epilogue::Activate(activation) }
    }

    fn rotation<'a>(&self, layer: &'a Layer<B>) -> Rotation<'a, B> {
        let style = match &self.spec.position {
            Position::Rope(rope) => rope.style,
            Position::Learned { .. } => RopeStyle::Half,
        };
        Rotation {
            heads: self.spec.heads,
            kv_heads: self.spec.kv_heads,
            head_dim: self.spec.head_dim,
            dims: 2 * self.frequencies.len(),
            style,
            head_norms: layer.head_norms.as_ref(),
        }
    }

    /// Logits of the rows `picks` of `scratch.x`, in `scratch.logits`.
    pub(crate) fn logits(&self, backend: &B, picks: &[usize], scratch: &mut Scratch<B>) {
        let rows = picks.len();
        let Scratch { x, picked, picked_normed, logits, .. } = scratch;
        backend.pick(picks, x, picked);
        backend.norm(&self.final_norm, rows, picked, picked_normed);
        backend.linear(&self.logits, Epilogue::Store, rows, picked_normed, logits);
        if let Some(cap) = self.spec.logit_cap {
            backend.soft_cap(cap, rows, logits);
        }
    }

    /// Fills what follows from `step.positions`: rotations, or rows of the table of positions.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the angle is rounded to f32 where the reference rounds it; positions are far below 2^24"
    )]
    pub(crate) fn place(&self, step: &mut Step) {
        let Step { positions, cos, sin, position_rows, .. } = step;
        cos.clear();
        sin.clear();
        position_rows.clear();
        match self.spec.position {
            Position::Rope(_) => {
                for &position in positions.iter() {
                    for &frequency in &self.frequencies {
                        let angle = f64::from(position as f32 * frequency);
                        cos.push(angle.cos() as f32);
                        sin.push(angle.sin() as f32);
                    }
                }
                position_rows.extend((0..).take(positions.len()));
            }
            Position::Learned { offset } => {
                let offset = offset as u32;
                position_rows.extend(positions.iter().map(|p| p + offset));
            }
        }
    }
}
