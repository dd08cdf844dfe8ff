//! OPT: layer norms before each half, ReLU, learned positions that start at row 2. The 350m variant, with norms after
//! each half and projections around the layers, is refused.

use super::shape::{self, Shape, USUAL, dimension};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::{Names, QkvNames, UpNames};
use crate::spec::{Activation, Biases, ModelSpec, NormKind, NormSpec, Placement, Position, bounds};

const NAMES: Names = Names {
    prefixes: &["model.decoder.", "decoder."],
    embed: "embed_tokens",
    positions: Some("embed_positions"),
    final_norm: "final_layer_norm",
    logits: "lm_head",
    layer: "layers.",
    attention_norm: "self_attn_layer_norm",
    post_attention_norm: None,
    mlp_norm: Some("final_layer_norm"),
    post_mlp_norm: None,
    qkv: QkvNames::Split {
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
    },
    query_key_norms: None,
    output: "self_attn.out_proj",
    up: UpNames::Plain("fc1"),
    down: "fc2",
    transposed: false,
};

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    shape::refuse_flag(config, "do_layer_norm_before", false)?;
    shape::refuse_flag(config, "_remove_final_layer_norm", true)?;
    shape::refuse_flag(config, "layer_norm_elementwise_affine", false)?;
    let shape = Shape::read(config, USUAL)?;
    let projected = config.count("word_embed_proj_dim", 1..=bounds::WIDTH)?;
    if projected.is_some_and(|width| width != shape.hidden) {
        return Err(ModelError::config(
            "word_embed_proj_dim",
            format!(
                "must equal hidden_size ({}); projected embeddings are not supported",
                shape.hidden
            ),
        ));
    }
    let bias = config.flag("enable_bias")?.unwrap_or(true);
    let spec = ModelSpec {
        vocab: shape.vocab,
        hidden: shape.hidden,
        intermediate: dimension(config, "ffn_dim", bounds::WIDTH)?,
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape.heads,
        head_dim: shape.head_dim,
        context: shape.context,
        norm: NormSpec { kind: NormKind::Layer, epsilon: 1e-5 },
        placement: Placement::Pre,
        position: Position::Learned { offset: 2 },
        windows: vec![None; shape.layers],
        query_key_norm: false,
        attention_scale: shape.attention_scale(),
        attention_cap: None,
        logit_cap: None,
        activation: shape::activation(config, "activation_function", Activation::Relu)?,
        gated: false,
        biases: Biases { qkv: bias, output: bias, up: bias, down: bias, logits: false },
        tied: config.flag("tie_word_embeddings")?.unwrap_or(true),
        embed_scale: None,
    };
    Ok((spec, NAMES))
}
