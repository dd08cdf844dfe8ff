//! What the family files share: dimensions, activations and windows, read once and bounded.

use crate::error::ModelError;
use crate::fields::Fields;
use crate::spec::{Activation, NormKind, NormSpec, bounds};

/// The dimensions every family has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) context: usize,
}

/// What a family calls them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShapeFields {
    pub(super) hidden: &'static str,
    pub(super) layers: &'static str,
    pub(super) heads: &'static str,
    pub(super) context: &'static str,
}

/// The names most families use.
pub(super) const USUAL: ShapeFields = ShapeFields {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    context: "max_position_embeddings",
};

/// A whole number that must be set.
pub(super) fn dimension(config: &Fields, field: &str, most: usize) -> Result<usize, ModelError> {
    let value = config.count(field, 1..=most)?;
    config.required(field, value)
}

impl Shape {
    /// Reads the dimensions; a head has `head_dim` channels, or its share of the hidden size.
    pub(super) fn read(config: &Fields, names: ShapeFields) -> Result<Self, ModelError> {
        check_dtype(config)?;
        let hidden = dimension(config, names.hidden, bounds::WIDTH)?;
        let heads = dimension(config, names.heads, bounds::HEADS)?;
        let head_dim = match config.count("head_dim", 1..=bounds::HEAD_DIM)? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(ModelError::config(
                    names.heads,
                    format!("({heads}) must divide {} ({hidden})", names.hidden),
                ));
            }
        };
        Ok(Self {
            vocab: dimension(config, "vocab_size", bounds::VOCAB)?,
            hidden,
            layers: dimension(config, names.layers, bounds::LAYERS)?,
            heads,
            head_dim,
            context: dimension(config, names.context, bounds::CONTEXT)?,
        })
    }

    /// `1 / √head_dim`.
    pub(super) fn attention_scale(&self) -> f32 {
        inverse_root(self.head_dim)
    }
}

/// `1 / √n`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "n is a bounded dimension; f32 is the kernels' width"
)]
pub(super) fn inverse_root(n: usize) -> f32 {
    (1.0 / (n as f64).sqrt()) as f32
}

/// What is stored decides the width of the weights; the field is read so that exotic kinds are refused by name.
fn check_dtype(config: &Fields) -> Result<(), ModelError> {
    for field in ["dtype", "torch_dtype"] {
        match config.text(field)? {
            None | Some("float32" | "float16" | "bfloat16") => {}
            Some(other) => {
                return Err(ModelError::config(
                    field,
                    format!(
                        "is `{other}`, which is not supported; float32, float16 and bfloat16 are"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Key and value heads where the family has its own number of them.
pub(super) fn kv_heads(config: &Fields) -> Result<Option<usize>, ModelError> {
    config.count("num_key_value_heads", 1..=bounds::HEADS)
}

/// The norm of the whole model.
#[allow(clippy::cast_possible_truncation, reason = "f32 is the kernels' width")]
pub(super) fn norm(
    config: &Fields,
    kind: NormKind,
    field: &str,
    default: f64,
) -> Result<NormSpec, ModelError> {
    let epsilon = config.positive(field, 1.0)?.unwrap_or(default) as f32;
    Ok(NormSpec { kind, epsilon })
}

/// The activation in `field`.
pub(super) fn activation(
    config: &Fields,
    field: &str,
    default: Activation,
) -> Result<Activation, ModelError> {
    match config.text(field)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some(other) => Err(ModelError::config(
            field,
            format!(
                "is `{other}`, which is not supported; silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast and relu are"
            ),
        )),
    }
}

/// The width of the sliding window, if one is set.
pub(super) fn window(config: &Fields) -> Result<Option<usize>, ModelError> {
    config.count("sliding_window", 1..=bounds::CONTEXT)
}

/// One entry per layer from `layer_types`, or from the family's older rule `slides` where that list is absent.
pub(super) fn windows(
    config: &Fields,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let Some(types) = config.texts("layer_types")? else {
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    if types.len() != layers {
        return Err(ModelError::config(
            "layer_types",
            format!("must have one entry per layer ({layers}), not {}", types.len()),
        ));
    }
    types
        .iter()
        .map(|kind| match *kind {
            "full_attention" => Ok(None),
            "sliding_attention" => Ok(window),
            other => Err(ModelError::config(
                "layer_types",
                format!("has `{other}`, which is not supported; full_attention and sliding_attention are"),
            )),
        })
        .collect()
}

/// Refuses a flag that asks for a variant no golden answer pins.
pub(super) fn refuse_flag(config: &Fields, field: &str, refused: bool) -> Result<(), ModelError> {
    if config.flag(field)? == Some(refused) {
        return Err(ModelError::config(field, format!("= {refused} is not supported")));
    }
    Ok(())
}
