//! Phi-1.5 and Phi-2: attention and MLP side by side after one shared norm, half of each head rotated, biases everywhere.

use super::llama;
use super::shape::{self, Shape, USUAL, dimension};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::{Names, UpNames};
use crate::rope::{Rope, RopeDefaults};
use crate::spec::{Activation, Biases, ModelSpec, NormKind, Placement, Position, bounds};

const NAMES: Names = Names {
    final_norm: "final_layernorm",
    mlp_norm: None,
    output: "self_attn.dense",
    up: UpNames::Plain("mlp.fc1"),
    down: "mlp.fc2",
    ..llama::NAMES
};

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    shape::refuse_flag(config, "qk_layernorm", true)?;
    let shape = Shape::read(config, USUAL)?;
    let spec = ModelSpec {
        vocab: shape.vocab,
        hidden: shape.hidden,
        intermediate: dimension(config, "intermediate_size", bounds::WIDTH)?,
        layers: shape.layers,
        heads: shape.heads,
        kv_heads: shape::kv_heads(config)?.unwrap_or(shape.heads),
        head_dim: shape.head_dim,
        context: shape.context,
        norm: shape::norm(config, NormKind::Layer, "layer_norm_eps", 1e-5)?,
        placement: Placement::ParallelShared,
        position: Position::Rope(Rope::read(
            config,
            shape.head_dim,
            RopeDefaults { partial: 0.5 },
        )?),
        windows: vec![None; shape.layers],
        query_key_norm: false,
        attention_scale: shape.attention_scale(),
        attention_cap: None,
        logit_cap: None,
        activation: shape::activation(config, "hidden_act", Activation::GeluTanh)?,
        gated: false,
        biases: Biases { qkv: true, output: true, up: true, down: true, logits: true },
        tied: config.flag("tie_word_embeddings")?.unwrap_or(false),
        embed_scale: None,
    };
    if spec.tied {
        return Err(ModelError::config("tie_word_embeddings", "= true is not supported for Phi"));
    }
    Ok((spec, NAMES))
}
