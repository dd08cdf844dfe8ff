//! GPT-NeoX and Pythia: layer norms, attention and MLP side by side or in turn, a quarter of each head rotated, and
//! query, key and value interleaved head by head in one tensor.

use super::shape::{self, Shape, USUAL, dimension};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::{Names, QkvNames, UpNames};
use crate::rope::{Rope, RopeDefaults};
use crate::spec::{Activation, Biases, ModelSpec, NormKind, Placement, Position, bounds};

const NAMES: Names = Names {
    prefixes: &["gpt_neox."],
    embed: "embed_in",
    positions: None,
    final_norm: "final_layer_norm",
    logits: "embed_out",
    layer: "layers.",
    attention_norm: "input_layernorm",
    post_attention_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    post_mlp_norm: None,
    qkv: QkvNames::Interleaved("attention.query_key_value"),
    query_key_norms: None,
    output: "attention.dense",
    up: UpNames::Plain("mlp.dense_h_to_4h"),
    down: "mlp.dense_4h_to_h",
    transposed: false,
};

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    let shape = Shape::read(config, USUAL)?;
    let parallel = config.flag("use_parallel_residual")?.unwrap_or(true);
    let bias = config.flag("attention_bias")?.unwrap_or(true);
    let rope = Rope::read(config, shape.head_dim, RopeDefaults { partial: 0.25 })?;
    let spec = ModelSpec {
        vocab: shape.vocab,
        hidden: shape.hidden,
        intermediate: dimension(config, "intermediate_size", bounds::WIDTH)?,
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape.heads,
        head_dim: shape.head_dim,
        context: shape.context,
        norm: shape::norm(config, NormKind::Layer, "layer_norm_eps", 1e-5)?,
        placement: if parallel { Placement::ParallelSeparate } else { Placement::Pre },
        position: Position::Rope(rope),
        windows: vec![None; shape.layers],
        query_key_norm: false,
        attention_scale: shape.attention_scale(),
        attention_cap: None,
        logit_cap: None,
        activation: shape::activation(config, "hidden_act", Activation::Gelu)?,
        gated: false,
        biases: Biases { qkv: bias, output: bias, up: true, down: true, logits: false },
        tied: config.flag("tie_word_embeddings")?.unwrap_or(false),
        embed_scale: None,
    };
    Ok((spec, NAMES))
}
