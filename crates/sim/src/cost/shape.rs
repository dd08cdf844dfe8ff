//! What of a model decides how long its steps take, as plain numbers. Whoever can read a model's configuration fills them in.

use serde::Serialize;

/// See the module's documentation. All counts are for the whole model, on however many devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shape {
    /// What it is called.
    pub name: String,
    /// Bytes of weights that every step reads.
    pub weight_bytes: f64,
    /// Operations of the layers' matrices per token: two for each weight.
    pub layer_flops: f64,
    /// Operations of the vocabulary head per token that is drawn.
    pub head_flops: f64,
    /// Operations of attention per pair of a token and a position, in all layers.
    pub pair_flops: f64,
    /// Keys and values of one position, in all layers, in bytes.
    pub kv_bytes_per_token: f64,
    /// Bytes of one token's activations that all devices of a group exchange per layer, twice.
    pub exchange_bytes: f64,
    /// Layers.
    pub layers: f64,
}

impl Shape {
    /// OPT-13B in float16, on which the paper's figures were measured.
    #[must_use]
    pub fn opt_13b() -> Self {
        let (hidden, layers, vocab) = (5120.0, 40.0, 50272.0);
        let layer_weights = 12.0 * hidden * hidden * layers;
        let head_weights = hidden * vocab;
        Self {
            name: "opt-13b".to_owned(),
            weight_bytes: 2.0 * (layer_weights + head_weights),
            layer_flops: 2.0 * layer_weights,
            head_flops: 2.0 * head_weights,
            pair_flops: 4.0 * hidden * layers,
            kv_bytes_per_token: 2.0 * hidden * layers * 2.0,
            exchange_bytes: 2.0 * hidden,
            layers,
        }
    }
}
