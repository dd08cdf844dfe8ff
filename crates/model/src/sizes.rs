//! How many bytes a model's weights take once they are laid out, before any of them is read.
//!
//! The memory plan and the loader's progress use the same numbers.

use folio_kernels::{Dtype, WeightFormat};

use crate::spec::{ModelSpec, NormKind, Placement, Position};

/// Bytes of the parts that are loaded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightSizes {
    /// Token embedding of its own, and learned positions.
    pub(crate) tables: u64,
    /// One layer.
    pub(crate) layer: u64,
    /// The final norm and the vocabulary head.
    pub(crate) head: u64,
    /// Everything.
    pub(crate) total: u64,
}

impl WeightSizes {
    /// Sizes with matrices kept as `dtype`; numbers too large to count are [`u64::MAX`].
    #[must_use]
    pub(crate) fn new(spec: &ModelSpec, dtype: Dtype) -> Self {
        let table = |rows: usize| packed(dtype, rows, spec.hidden);
        let positions = match spec.position {
            Position::Learned { offset } => table(spec.context + offset),
            Position::Rope(_) => 0,
        };
        let tables = positions.saturating_add(if spec.tied { 0 } else { table(spec.vocab) });
        let layer = layer_matrices(spec, dtype).saturating_add(layer_vectors(spec));
        let head = packed(dtype, spec.vocab, spec.hidden)
            .saturating_add(vectors(norm_vectors(spec) * spec.hidden))
            .saturating_add(if spec.biases.logits { vectors(spec.vocab) } else { 0 });
        let total = layer.saturating_mul(wide(spec.layers)).saturating_add(tables);
        Self { tables, layer, head, total: total.saturating_add(head) }
    }
}

fn layer_matrices(spec: &ModelSpec, dtype: Dtype) -> u64 {
    let up = if spec.gated {
        packed(dtype, spec.intermediate, spec.hidden).saturating_mul(2)
    } else {
        packed(dtype, spec.intermediate, spec.hidden)
    };
    packed(dtype, spec.qkv_width(), spec.hidden)
        .saturating_add(packed(dtype, spec.hidden, spec.query_width()))
        .saturating_add(up)
        .saturating_add(packed(dtype, spec.hidden, spec.intermediate))
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

fn packed(dtype: Dtype, outputs: usize, inputs: usize) -> u64 {
    WeightFormat::Float(dtype).packed_bytes(outputs, inputs).map_or(u64::MAX, wide)
}

fn vectors(floats: usize) -> u64 {
    wide(floats).saturating_mul(4)
}

pub(crate) fn wide(n: usize) -> u64 {
    n as u64
}
