//! GPT-2: layer norms, learned positions, biases everywhere, and matrices stored transposed (Conv1D).

use super::shape::{self, Shape, ShapeFields};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::{Names, QkvNames, UpNames};
use crate::spec::{Activation, Biases, ModelSpec, NormKind, Placement, Position, bounds};

const NAMES: Names = Names {
    // The first checkpoints were saved without the head, hence without the prefix.
    prefixes: &["transformer.", ""],
    embed: "wte",
    positions: Some("wpe"),
    final_norm: "ln_f",
    logits: "lm_head",
    layer: "h.",
    attention_norm: "ln_1",
    post_attention_norm: None,
    mlp_norm: Some("ln_2"),
    post_mlp_norm: None,
    qkv: QkvNames::Fused("attn.c_attn"),
    query_key_norms: None,
    output: "attn.c_proj",
    up: UpNames::Plain("mlp.c_fc"),
    down: "mlp.c_proj",
    transposed: true,
};

const FIELDS: ShapeFields =
    ShapeFields { hidden: "n_embd", layers: "n_layer", heads: "n_head", context: "n_positions" };

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    shape::refuse_flag(config, "add_cross_attention", true)?;
    shape::refuse_flag(config, "scale_attn_by_inverse_layer_idx", true)?;
    let shape = Shape::read(config, FIELDS)?;
    let scaled = config.flag("scale_attn_weights")?.unwrap_or(true);
    let spec = ModelSpec {
        vocab: shape.vocab,
        hidden: shape.hidden,
        intermediate: config.count("n_inner", 1..=bounds::WIDTH)?.unwrap_or(4 * shape.hidden),
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape.heads,
        head_dim: shape.head_dim,
        context: shape.context,
        norm: shape::norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?,
        placement: Placement::Pre,
        position: Position::Learned { offset: 0 },
        windows: vec![None; shape.layers],
        query_key_norm: false,
        attention_scale: if scaled { shape.attention_scale() } else { 1.0 },
        attention_cap: None,
        logit_cap: None,
        activation: shape::activation(config, "activation_function", Activation::GeluTanh)?,
        gated: false,
        biases: Biases { qkv: true, output: true, up: true, down: true, logits: false },
        tied: config.flag("tie_word_embeddings")?.unwrap_or(true),
        embed_scale: None,
    };
    Ok((spec, NAMES))
}
