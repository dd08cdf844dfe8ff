//! The families: each file turns `config.json` into knobs and tensor names, and contains nothing else.
//!
//! A checkpoint is served only when its architecture is in [`FAMILIES`]; a family is there only when golden answers pin it.

mod gemma2;
pub(crate) mod gguf;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod shape;

use crate::error::ModelError;
use crate::fields::Fields;
use crate::names::Names;
use crate::spec::ModelSpec;

/// A way to read a configuration.
pub struct Family {
    /// The name in `architectures`.
    pub architecture: &'static str,
    /// The name in `model_type`.
    pub model_type: &'static str,
    read: fn(&Fields) -> Result<(ModelSpec, Names), ModelError>,
}

/// What is served.
pub const FAMILIES: &[Family] = &[
    Family { architecture: "LlamaForCausalLM", model_type: "llama", read: llama::read },
    Family { architecture: "MistralForCausalLM", model_type: "mistral", read: mistral::read },
    Family { architecture: "Qwen2ForCausalLM", model_type: "qwen2", read: qwen2::read },
    Family { architecture: "Qwen3ForCausalLM", model_type: "qwen3", read: qwen3::read },
    Family { architecture: "Gemma2ForCausalLM", model_type: "gemma2", read: gemma2::read },
    Family { architecture: "PhiForCausalLM", model_type: "phi", read: phi::read },
    Family { architecture: "Phi3ForCausalLM", model_type: "phi3", read: phi3::read },
    Family { architecture: "GPT2LMHeadModel", model_type: "gpt2", read: gpt2::read },
    Family { architecture: "OPTForCausalLM", model_type: "opt", read: opt::read },
    Family { architecture: "GPTNeoXForCausalLM", model_type: "gpt_neox", read: gpt_neox::read },
];

/// Knobs and names of the model that `config` describes.
///
/// # Errors
/// When the architecture is not served, or a field is missing, out of range or asks for what is not served.
pub fn read(config: &Fields) -> Result<(ModelSpec, Names), ModelError> {
    let family = family(config)?;
    let (spec, names) = (family.read)(config)?;
    spec.check()?;
    Ok((spec, names))
}

fn family(config: &Fields) -> Result<&'static Family, ModelError> {
    let named = config.texts("architectures")?.and_then(|list| list.first().copied());
    let found = match named {
        Some(architecture) => FAMILIES.iter().find(|f| f.architecture == architecture),
        None => {
            let model_type = config.text("model_type")?;
            FAMILIES.iter().find(|f| Some(f.model_type) == model_type)
        }
    };
    found.ok_or_else(|| {
        let named = named.or(config.text("model_type").ok().flatten());
        let supported: Vec<_> = FAMILIES.iter().map(|f| f.architecture).collect();
        ModelError::Unsupported(format!(
            "config.json: the architecture {} is not supported; these are: {}",
            named.map_or_else(|| "(none is named)".to_owned(), |n| format!("`{n}`")),
            supported.join(", ")
        ))
    })
}
