//! Llama 1 to 3.x and the many models of its shape (SmolLM, Yi, TinyLlama): RMS norms, rotation, grouped queries, SwiGLU.

use super::shape::{self, Shape, USUAL, dimension};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::{Names, QkvNames, UpNames};
use crate::rope::{Rope, RopeDefaults};
use crate::spec::{Activation, Biases, ModelSpec, NormKind, Placement, Position, bounds};

/// Names that half of the families share.
pub(super) const NAMES: Names = Names {
    prefixes: &["model."],
    embed: "embed_tokens",
    positions: None,
    final_norm: "norm",
    logits: "lm_head",
    layer: "layers.",
    attention_norm: "input_layernorm",
    post_attention_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    post_mlp_norm: None,
    qkv: QkvNames::Split {
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
    },
    query_key_norms: None,
    output: "self_attn.o_proj",
    up: UpNames::Split { gate: "mlp.gate_proj", up: "mlp.up_proj" },
    down: "mlp.down_proj",
    transposed: false,
};

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    let mut spec = base(config)?;
    // The first Llama had as many key-value heads as heads and did not say so.
    spec.kv_heads = shape::kv_heads(config)?.unwrap_or(spec.heads);
    let attention = config.flag("attention_bias")?.unwrap_or(false);
    let mlp = config.flag("mlp_bias")?.unwrap_or(false);
    spec.biases = Biases { qkv: attention, output: attention, up: mlp, down: mlp, logits: false };
    Ok((spec, NAMES))
}

/// Llama's knobs, from which its relatives change a few. Without biases and windows.
pub(super) fn base(config: &Fields) -> Result<ModelSpec, ModelError> {
    let shape = Shape::read(config, USUAL)?;
    Ok(ModelSpec {
        vocab: shape.vocab,
        hidden: shape.hidden,
        intermediate: dimension(config, "intermediate_size", bounds::WIDTH)?,
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape::kv_heads(config)?.unwrap_or(shape.heads),
        head_dim: shape.head_dim,
        context: shape.context,
        norm: shape::norm(config, NormKind::Rms, "rms_norm_eps", 1e-6)?,
        placement: Placement::Pre,
        position: Position::Rope(Rope::read(
            config,
            shape.head_dim,
            RopeDefaults { partial: 1.0 },
        )?),
        windows: vec![None; shape.layers],
        query_key_norm: false,
        attention_scale: shape.attention_scale(),
        attention_cap: None,
        logit_cap: None,
        activation: shape::activation(config, "hidden_act", Activation::Silu)?,
        gated: true,
        biases: Biases::default(),
        tied: config.flag("tie_word_embeddings")?.unwrap_or(false),
        embed_scale: None,
    })
}

/// Key-value heads, for families whose reference guesses a number of its own when the field is absent.
pub(super) fn stated_kv_heads(config: &Fields) -> Result<usize, ModelError> {
    config.required("num_key_value_heads", shape::kv_heads(config)?)
}
