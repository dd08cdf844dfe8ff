//! What a model is, as about twenty knobs: all that the one forward pass may ask.
//!
//! A family file turns `config.json` into a [`ModelSpec`]; nothing below it knows the family's name. A new model may add a
//! variant here, never an `if` on a model's name elsewhere. Invariants, kept by the family files and [`ModelSpec::check`]:
//! every dimension is positive and bounded, key-value heads divide the heads, products of two dimensions fit `usize`, and
//! [`ModelSpec::windows`] has one entry per layer.

pub use folio_kernels::Activation;

use folio_kernels::{AttendSpec, KvDtype, KvShape};

use crate::error::ModelError;
use crate::rope::Rope;
use crate::sizes::wide;

/// Bounds of the dimensions; far above every published model, low enough that products of two cannot overflow.
pub mod bounds {
    /// Tokens in the vocabulary.
    pub const VOCAB: usize = 1 << 22;
    /// Width of the residual stream, of the MLP, and of all heads together.
    pub const WIDTH: usize = 1 << 18;
    /// Layers.
    pub const LAYERS: usize = 1024;
    /// Attention heads.
    pub const HEADS: usize = 1024;
    /// Channels of a head.
    pub const HEAD_DIM: usize = 512;
    /// Positions.
    pub const CONTEXT: usize = 1 << 24;
}

/// How a vector is normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Which statistics.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub epsilon: f32,
}

/// Which statistics a norm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Divide by the root mean square, multiply by the weight.
    Rms,
    /// As [`NormKind::Rms`], multiplied by one plus the weight.
    RmsUnitOffset,
    /// Subtract the mean, divide by the deviation, multiply by the weight, add the bias.
    Layer,
}

/// Where the norms of a layer sit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// `x += attention(norm(x)); x += mlp(norm(x))`
    Pre,
    /// As [`Placement::Pre`] with a norm on what each half adds.
    PreAndPost,
    /// `x += attention(n) + mlp(n)` with one `n = norm(x)`.
    ParallelShared,
    /// `x += attention(norm₁(x)) + mlp(norm₂(x))`
    ParallelSeparate,
}

/// How positions enter.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Queries and keys are rotated.
    Rope(Rope),
    /// A learned row is added to the token's; position `p` has row `p + offset`.
    Learned {
        /// Rows before that of position 0.
        offset: usize,
    },
}

/// Which linear layers have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention's output.
    pub output: bool,
    /// The MLP's input, and its gate.
    pub up: bool,
    /// The MLP's output.
    pub down: bool,
    /// The vocabulary head.
    pub logits: bool,
}

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Tokens `0..vocab` exist.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// All norms of the model are of this kind.
    pub norm: NormSpec,
    /// Where they sit.
    pub placement: Placement,
    /// How positions enter.
    pub position: Position,
    /// Per layer: how many positions back a query sees, itself included; `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// Whether each head's query and key pass an RMS norm before rotation.
    pub query_key_norm: bool,
    /// Multiplies query · key.
    pub attention_scale: f32,
    /// `cap · tanh(score / cap)` before the softmax.
    pub attention_cap: Option<f32>,
    /// `cap · tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Whether the MLP multiplies the activated gate with a second projection.
    pub gated: bool,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// Whether the vocabulary head is the token embedding.
    pub tied: bool,
    /// Multiplies the token embedding; rounded to the weights' width first, as the reference does.
    pub embed_scale: Option<f32>,
}

impl ModelSpec {
    /// How a layer attends whose tokens see `window` positions, or all.
    pub(crate) fn attend(&self, window: Option<usize>) -> AttendSpec {
        AttendSpec {
            heads: self.heads,
            scale: self.attention_scale,
            window,
            softcap: self.attention_cap,
        }
    }

    /// A cache of so many blocks for keys and values of all layers.
    pub(crate) fn kv_shape(&self, blocks: usize, block_size: usize, dtype: KvDtype) -> KvShape {
        let Self { layers, kv_heads, head_dim, .. } = *self;
        KvShape { layers, blocks, block_size, kv_heads, head_dim, dtype }
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of queries, keys and values side by side.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }

    /// Width of what the MLP's first projection makes.
    #[must_use]
    pub fn up_width(&self) -> usize {
        if self.gated { 2 * self.intermediate } else { self.intermediate }
    }

    /// Multiply-adds of one token in the linear layers, without the vocabulary head: as many as these layers have weights.
    #[must_use]
    pub fn layer_products(&self) -> u64 {
        let attention = self.qkv_width() + self.query_width();
        let mlp = self.up_width() + self.intermediate;
        wide(self.layers) * wide(self.hidden) * wide(attention + mlp)
    }

    /// Multiply-adds of one row of logits.
    #[must_use]
    pub fn head_products(&self) -> u64 {
        wide(self.vocab) * wide(self.hidden)
    }

    /// Checks what single fields cannot tell.
    ///
    /// # Errors
    /// Names the field of `config.json` that does not go with the others.
    pub fn check(&self) -> Result<(), ModelError> {
        let Self { heads, kv_heads, head_dim, .. } = self;
        if !heads.is_multiple_of(*kv_heads) {
            return Err(ModelError::config(
                "num_key_value_heads",
                format!("({kv_heads}) must divide the number of attention heads ({heads})"),
            ));
        }
        if !head_dim.is_multiple_of(8) || *head_dim > bounds::HEAD_DIM {
            return Err(ModelError::config(
                "head_dim",
                format!(
                    "(or hidden size divided by heads) is {head_dim}; multiples of 8 up to {} are supported",
                    bounds::HEAD_DIM
                ),
            ));
        }
        if self.query_width() > bounds::WIDTH {
            return Err(ModelError::config(
                "num_attention_heads",
                format!("times the head size must be at most {}", bounds::WIDTH),
            ));
        }
        if let Position::Rope(rope) = &self.position {
            rope.check(*head_dim, self.context)?;
        }
        if self.windows.len() != self.layers {
            return Err(ModelError::config("layer_types", "must have one entry per layer"));
        }
        Ok(())
    }
}
