//! Gemma-2: norms before and after each half with weights stored minus one, soft-capped scores and logits, a window in
//! every other layer, a query scale of its own, and token embeddings multiplied by the root of the hidden size.

use super::llama;
use super::shape::{self, inverse_root};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::Names;
use crate::spec::{Activation, Biases, ModelSpec, NormKind, NormSpec, Placement, bounds};

const NAMES: Names = Names {
    post_attention_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    post_mlp_norm: Some("post_feedforward_layernorm"),
    ..llama::NAMES
};

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a bounded width")]
pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    shape::refuse_flag(config, "use_bidirectional_attention", true)?;
    config.required("head_dim", config.value("head_dim"))?;
    let mut spec = llama::base(config)?;
    spec.kv_heads = llama::stated_kv_heads(config)?;
    spec.norm = NormSpec { kind: NormKind::RmsUnitOffset, ..spec.norm };
    spec.placement = Placement::PreAndPost;
    spec.activation = shape::activation(config, "hidden_activation", Activation::GeluTanh)?;
    let bias = config.flag("attention_bias")?.unwrap_or(false);
    spec.biases = Biases { qkv: bias, output: bias, ..Biases::default() };
    let window = match shape::window(config)? {
        None if config.is_null("sliding_window") => None,
        None => Some(4096),
        some => some,
    };
    // Before `layer_types` was written, even layers slid.
    spec.windows = shape::windows(config, spec.layers, window, |layer| layer.is_multiple_of(2))?;
    let scalar = config.count("query_pre_attn_scalar", 1..=bounds::WIDTH)?.unwrap_or(256);
    spec.attention_scale = inverse_root(scalar);
    spec.attention_cap = cap(config, "attn_logit_softcapping", 50.0)?;
    spec.logit_cap = cap(config, "final_logit_softcapping", 30.0)?;
    spec.tied = config.flag("tie_word_embeddings")?.unwrap_or(true);
    spec.embed_scale = Some((spec.hidden as f64).sqrt() as f32);
    Ok((spec, NAMES))
}

/// Here `null` means none and absence the default.
#[allow(clippy::cast_possible_truncation, reason = "f32 is the kernels' width")]
fn cap(config: &Fields, field: &str, default: f32) -> Result<Option<f32>, ModelError> {
    if config.is_null(field) {
        return Ok(None);
    }
    Ok(Some(config.positive(field, 1e6)?.map_or(default, |cap| cap as f32)))
}
