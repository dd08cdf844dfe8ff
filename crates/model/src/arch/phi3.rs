//! Phi-3 and Phi-4: Llama with queries, keys and values in one tensor, gate and up in another, and a window in every
//! layer of some. The 128k variants rotate by `longrope`, which the rope reader refuses by name.

use super::{llama, shape};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::{Names, QkvNames, UpNames};
use crate::spec::{ModelSpec, NormKind};

const NAMES: Names = Names {
    qkv: QkvNames::Fused("self_attn.qkv_proj"),
    up: UpNames::Fused("mlp.gate_up_proj"),
    ..llama::NAMES
};

pub(super) fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    let mut spec = llama::base(config)?;
    spec.norm = shape::norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    spec.windows = vec![shape::window(config)?; spec.layers];
    Ok((spec, NAMES))
}
