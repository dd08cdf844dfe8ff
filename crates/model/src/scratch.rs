//! The buffers of the forward pass: named, allocated once, as large as the largest step.
//!
//! One list of shapes serves the allocation and the memory plan, so that the plan cannot promise less than is used.

use crate::backend::Backend;
use crate::error::ModelError;
use crate::sizes::wide;
use crate::spec::{ModelSpec, Placement, Position};

/// Most bytes of logits that are held at once; more rows than fit are worked off in slices.
const MOST_LOGIT_BYTES: usize = 64 << 20;

/// How large the buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScratchShape {
    tokens: usize,
    logit_rows: usize,
    hidden: usize,
    qkv: usize,
    attended: usize,
    up: usize,
    delta: usize,
    vocab: usize,
    rotated: usize,
}

impl ScratchShape {
    /// For steps of at most `tokens` tokens, of which usually no more than `sequences` need logits.
    #[must_use]
    pub(crate) fn new(spec: &ModelSpec, tokens: usize, sequences: usize) -> Self {
        let affordable = (MOST_LOGIT_BYTES / size_of::<f32>() / spec.vocab).max(1);
        Self {
            tokens,
            logit_rows: sequences.max(16).min(tokens.max(1)).min(affordable),
            hidden: spec.hidden,
            qkv: spec.qkv_width(),
            attended: spec.query_width(),
            up: spec.intermediate,
            delta: if spec.placement == Placement::PreAndPost { spec.hidden } else { 0 },
            vocab: spec.vocab,
            rotated: match &spec.position {
                Position::Rope(rope) => rope.dims,
                Position::Learned { .. } => 0,
            },
        }
    }

    /// Rows of logits that are made at once.
    #[must_use]
    pub(crate) fn logit_rows(&self) -> usize {
        self.logit_rows
    }

    /// Bytes of all buffers and of the step's own tables.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        let per_token = 2 * self.hidden + self.qkv + self.attended + self.up + self.delta;
        // Token, position and row number, then the rotation.
        let step = 3 + self.rotated;
        let per_logit_row = 2 * self.hidden + self.vocab;
        let floats = (wide(per_token) + wide(step))
            .saturating_mul(wide(self.tokens))
            .saturating_add(wide(per_logit_row).saturating_mul(wide(self.logit_rows)));
        floats.saturating_mul(4)
    }
}

/// The buffers.
pub(crate) struct Scratch<B: Backend> {
    /// The residual stream.
    pub(crate) x: B::Buffer,
    /// A norm of it.
    pub(crate) normed: B::Buffer,
    /// Queries, keys and values side by side.
    pub(crate) qkv: B::Buffer,
    /// What attention gathered.
    pub(crate) attended: B::Buffer,
    /// The middle of the MLP.
    pub(crate) up: B::Buffer,
    /// What a half of a layer adds, where it is normed first.
    pub(crate) delta: B::Buffer,
    /// Rows of `x` that need logits.
    pub(crate) picked: B::Buffer,
    /// Their norm.
    pub(crate) picked_normed: B::Buffer,
    /// Their logits.
    pub(crate) logits: B::Buffer,
}

impl<B: Backend> Scratch<B> {
    pub(crate) fn new(backend: &B, shape: &ScratchShape) -> Result<Self, ModelError> {
        let (tokens, rows) = (shape.tokens, shape.logit_rows);
        Ok(Self {
            x: backend.buffer(tokens, shape.hidden)?,
            normed: backend.buffer(tokens, shape.hidden)?,
            qkv: backend.buffer(tokens, shape.qkv)?,
            attended: backend.buffer(tokens, shape.attended)?,
            up: backend.buffer(tokens, shape.up)?,
            delta: backend.buffer(tokens, shape.delta)?,
            picked: backend.buffer(rows, shape.hidden)?,
            picked_normed: backend.buffer(rows, shape.hidden)?,
            logits: backend.buffer(rows, shape.vocab)?,
        })
    }
}
