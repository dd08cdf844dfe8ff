//! Mistral: Llama with a sliding window in every layer (version 0.1) or in none, and its own head size.

use super::{llama, shape};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::Names;
use crate::spec::ModelSpec;

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    let mut spec = llama::base(config)?;
    spec.kv_heads = llama::stated_kv_heads(config)?;
    spec.windows = vec![shape::window(config)?; spec.layers];
    Ok((spec, llama::NAMES))
}
