//! Where a family keeps its tensors, as data, and the rules by which they become the matrices of the forward pass.
//!
//! The forward pass knows one linear layer for queries, keys and values and one for the MLP's first half. Checkpoints
//! store them split, fused, interleaved by head or transposed; [`Names`] says which, and [`LinearRule`] is the result: a
//! matrix as a list of row ranges of stored tensors. Everything here is pure; files are not looked at.

use std::ops::Range;

use crate::spec::{ModelSpec, Position};

/// How queries, keys and values are stored.
#[derive(Clone, Copy, Debug)]
pub enum QkvNames {
    /// Three tensors.
    Split {
        /// Queries.
        query: &'static str,
        /// Keys.
        key: &'static str,
        /// Values.
        value: &'static str,
    },
    /// One tensor: all queries, then all keys, then all values.
    Fused(&'static str),
    /// One tensor: query, key and value of the first head, then of the second, and so on.
    Interleaved(&'static str),
}

/// How the MLP's first half is stored.
#[derive(Clone, Copy, Debug)]
pub enum UpNames {
    /// One projection, not gated.
    Plain(&'static str),
    /// Two tensors.
    Split {
        /// The half that is activated.
        gate: &'static str,
        /// The half that is multiplied with it.
        up: &'static str,
    },
    /// One tensor: the gate, then the other half.
    Fused(&'static str),
}

/// The tensor names of a family, without `.weight` and `.bias`.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// What may stand before all names but [`Names::logits`], in order of preference.
    pub prefixes: &'static [&'static str],
    /// Token embedding, `[vocab, hidden]`.
    pub embed: &'static str,
    /// Learned positions, `[context + offset, hidden]`.
    pub positions: Option<&'static str>,
    /// The norm before the vocabulary head.
    pub final_norm: &'static str,
    /// The vocabulary head when it is not tied; never prefixed.
    pub logits: &'static str,
    /// Before the layer's number and a dot.
    pub layer: &'static str,
    /// The norm before attention.
    pub attention_norm: &'static str,
    /// The norm on what attention adds.
    pub post_attention_norm: Option<&'static str>,
    /// The norm before the MLP; none where it shares the attention's.
    pub mlp_norm: Option<&'static str>,
    /// The norm on what the MLP adds.
    pub post_mlp_norm: Option<&'static str>,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// The norms of each query head and of each key head.
    pub query_key_norms: Option<(&'static str, &'static str)>,
    /// The attention's output.
    pub output: &'static str,
    /// The MLP's first half.
    pub up: UpNames,
    /// The MLP's second half.
    pub down: &'static str,
    /// Whether the layers' matrices are stored `[inputs, outputs]` (Conv1D) instead of `[outputs, inputs]`.
    pub transposed: bool,
}

/// Some rows of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name without `.weight`.
    pub tensor: String,
    /// How many outputs the stored tensor has.
    pub stored: usize,
    /// Which of them are taken.
    pub rows: Range<usize>,
}

/// One matrix of the forward pass, `[outputs, inputs]`, and its bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearRule {
    /// Its rows, top to bottom.
    pub parts: Vec<Part>,
    /// Its columns.
    pub inputs: usize,
    /// Whether the stored tensors are `[inputs, outputs]`.
    pub transposed: bool,
    /// Whether each stored tensor has a `.bias` beside its `.weight`.
    pub bias: bool,
}

impl Names {
    /// The full name of a tensor of layer `layer`, under `prefix`.
    #[must_use]
    pub fn in_layer(&self, prefix: &str, layer: usize, name: &str) -> String {
        format!("{prefix}{}{layer}.{name}", self.layer)
    }

    /// The token embedding.
    #[must_use]
    pub fn embed(&self, spec: &ModelSpec, prefix: &str) -> LinearRule {
        table(format!("{prefix}{}", self.embed), spec.vocab, spec.hidden)
    }

    /// The learned positions; none where the family or the model has none.
    #[must_use]
    pub fn positions(&self, spec: &ModelSpec, prefix: &str) -> Option<LinearRule> {
        let (Position::Learned { offset }, Some(name)) = (&spec.position, self.positions) else {
            return None;
        };
        Some(table(format!("{prefix}{name}"), spec.context + offset, spec.hidden))
    }

    /// Queries, keys and values of a layer as one matrix: all queries, all keys, all values.
    #[must_use]
    pub fn qkv(&self, spec: &ModelSpec, prefix: &str, layer: usize) -> LinearRule {
        let full = |name| self.in_layer(prefix, layer, name);
        let (query, kv, all) = (spec.query_width(), spec.kv_width(), spec.qkv_width());
        let parts = match self.qkv {
            QkvNames::Split { query: q, key, value } => {
                vec![whole(full(q), query), whole(full(key), kv), whole(full(value), kv)]
            }
            QkvNames::Fused(name) => vec![whole(full(name), all)],
            QkvNames::Interleaved(name) => {
                let dim = spec.head_dim;
                let tensor = full(name);
                (0..3)
                    .flat_map(|which| (0..spec.heads).map(move |head| (3 * head + which) * dim))
                    .map(|from| Part {
                        tensor: tensor.clone(),
                        stored: all,
                        rows: from..from + dim,
                    })
                    .collect()
            }
        };
        self.rule(parts, spec.hidden, spec.biases.qkv)
    }

    /// The attention's output.
    #[must_use]
    pub fn output(&self, spec: &ModelSpec, prefix: &str, layer: usize) -> LinearRule {
        let part = whole(self.in_layer(prefix, layer, self.output), spec.hidden);
        self.rule(vec![part], spec.query_width(), spec.biases.output)
    }

    /// The MLP's first half: the gate, if any, above the rest.
    #[must_use]
    pub fn up(&self, spec: &ModelSpec, prefix: &str, layer: usize) -> LinearRule {
        let full = |name| self.in_layer(prefix, layer, name);
        let parts = match self.up {
            UpNames::Plain(name) => vec![whole(full(name), spec.intermediate)],
            UpNames::Split { gate, up } => {
                vec![whole(full(gate), spec.intermediate), whole(full(up), spec.intermediate)]
            }
            UpNames::Fused(name) => vec![whole(full(name), 2 * spec.intermediate)],
        };
        self.rule(parts, spec.hidden, spec.biases.up)
    }

    /// The MLP's second half.
    #[must_use]
    pub fn down(&self, spec: &ModelSpec, prefix: &str, layer: usize) -> LinearRule {
        let part = whole(self.in_layer(prefix, layer, self.down), spec.hidden);
        self.rule(vec![part], spec.intermediate, spec.biases.down)
    }

    /// The vocabulary head: its own tensor, or the token embedding when tied.
    #[must_use]
    pub fn logits(&self, spec: &ModelSpec, prefix: &str) -> LinearRule {
        let own = table(self.logits.to_owned(), spec.vocab, spec.hidden);
        let rule = if spec.tied { self.embed(spec, prefix) } else { own };
        LinearRule { bias: spec.biases.logits, ..rule }
    }

    fn rule(&self, parts: Vec<Part>, inputs: usize, bias: bool) -> LinearRule {
        LinearRule { parts, inputs, transposed: self.transposed, bias }
    }
}

fn table(tensor: String, rows: usize, width: usize) -> LinearRule {
    LinearRule { parts: vec![whole(tensor, rows)], inputs: width, transposed: false, bias: false }
}

fn whole(tensor: String, outputs: usize) -> Part {
    Part { tensor, stored: outputs, rows: 0..outputs }
}

impl LinearRule {
    /// Rows of the matrix.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.parts.iter().map(|p| p.rows.len()).sum()
    }
}
