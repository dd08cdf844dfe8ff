//! How many bytes a model's weights take once they are laid out, before any of them is read.
//!
//! The memory plan and the loader's progress use the same numbers.

use crate::spec::{ModelSpec, NormKind, Placement};
use crate::weights::{Inventory, MatrixLayout};

/// Bytes of the parts that are loaded one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightSizes {
    /// Token embedding of its own, and learned positions.
    pub(crate) tables: u64,
    /// Each layer.
    pub(crate) layers: Vec<u64>,
    /// The final norm and the vocabulary head.
    pub(crate) head: u64,
    /// Everything.
    pub(crate) total: u64,
}

impl WeightSizes {
    /// Sizes of what is kept like this; numbers too large to count are [`u64::MAX`].
    #[must_use]
    pub(crate) fn new(spec: &ModelSpec, kept: &Inventory) -> Self {
        let tables = sum(kept.embed.iter().chain(&kept.positions).map(matrix_bytes));
        let vectors_of_layer = layer_vectors(spec);
        let layers: Vec<u64> = kept
            .layers
            .iter()
            .map(|layer| sum(layer.iter().map(matrix_bytes)).saturating_add(vectors_of_layer))
            .collect();
        let head = matrix_bytes(&kept.head)
            .saturating_add(vectors(norm_vectors(spec) * spec.hidden))
            .saturating_add(if spec.biases.logits { vectors(spec.vocab) } else { 0 });
        let total = sum(layers.iter().copied().chain([tables, head]));
        Self { tables, layers, head, total }
    }
}

fn sum(parts: impl Iterator<Item = u64>) -> u64 {
    parts.fold(0, u64::saturating_add)
}

fn matrix_bytes(matrix: &MatrixLayout) -> u64 {
    matrix.packed_bytes().map_or(u64::MAX, wide)
}

fn layer_vectors(spec: &ModelSpec) -> u64 {
    let norms = match spec.placement {
        Placement::Pre | Placement::ParallelSeparate => 2,
        Placement::PreAndPost => 4,
        Placement::ParallelShared => 1,
    };
    let biases = &spec.biases;
    let floats = [
        (true, norms * norm_vectors(spec) * spec.hidden),
        (spec.query_key_norm, 2 * spec.head_dim),
        (biases.qkv, spec.qkv_width()),
        (biases.output, spec.hidden),
        (biases.up, spec.up_width()),
        (biases.down, spec.hidden),
    ];
    vectors(floats.iter().filter(|(there, _)| *there).map(|(_, n)| n).sum())
}

fn norm_vectors(spec: &ModelSpec) -> usize {
    if spec.norm.kind == NormKind::Layer { 2 } else { 1 }
}

fn vectors(floats: usize) -> u64 {
    wide(floats).saturating_mul(4)
}

pub(crate) fn wide(n: usize) -> u64 {
    n as u64
}
