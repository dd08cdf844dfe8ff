//! Qwen2 and 2.5: Llama with biases on queries, keys and values, and windows only in the later layers, if at all.

use super::{llama, shape};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::Names;
use crate::spec::{Biases, ModelSpec, bounds};

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    let mut spec = llama::base(config)?;
    spec.kv_heads = llama::stated_kv_heads(config)?;
    spec.biases = Biases { qkv: true, ..Biases::default() };
    spec.windows = windows(config, spec.layers)?;
    Ok((spec, llama::NAMES))
}

/// `use_sliding_window` switches the windows on, from layer `max_window_layers` upward.
pub(super) fn windows(config: &Fields, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let on = config.flag("use_sliding_window")?.unwrap_or(false);
    let window = shape::window(config)?.filter(|_| on);
    let first = config.count("max_window_layers", 0..=bounds::CONTEXT)?;
    if window.is_some() && first.is_none() && config.value("layer_types").is_none() {
        return Err(ModelError::config(
            "max_window_layers",
            "is missing, and use_sliding_window needs it",
        ));
    }
    shape::windows(config, layers, window, |layer| first.is_some_and(|first| layer >= first))
}
