//! Qwen3: Llama with a norm on every query and key head, and Qwen2's windows.

use super::{llama, qwen2};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::Names;
use crate::spec::{Biases, ModelSpec};

const NAMES: Names =
    Names { query_key_norms: Some(("self_attn.q_norm", "self_attn.k_norm")), ..llama::NAMES };

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    // The reference's own default is 128, not the share of the hidden size; a guess would be wrong either way.
    config.required("head_dim", config.value("head_dim"))?;
    let mut spec = llama::base(config)?;
    spec.kv_heads = llama::stated_kv_heads(config)?;
    let bias = config.flag("attention_bias")?.unwrap_or(false);
    spec.biases = Biases { qkv: bias, output: bias, ..Biases::default() };
    spec.windows = qwen2::windows(config, spec.layers)?;
    spec.query_key_norm = true;
    Ok((spec, NAMES))
}
