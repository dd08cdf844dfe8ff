//! The operations of the forward pass, cut where every device wants them fused.
//!
//! A backend owns how weights, activations and the cache look on its device; the forward pass only names them. Buffers
//! are allocated once, for the largest step; each operation works on their first `rows` rows. Every operation computes
//! each row in an order that depends on nothing but the row's own length, so that a token's result does not change with
//! its neighbours.

use std::ops::Range;

use folio_core::exec::{DrawFault, Drawn, Score};
use folio_core::plan::StepPlan;
use folio_kernels::{AttendSpec, BatchRow, Epilogue, KvShape, RopeStyle};

use crate::error::ModelError;
use crate::spec::NormSpec;
use crate::weights::{LinearTensors, MatrixLayout};

/// How a matrix will be used, which decides how it is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One output per row.
    Plain,
    /// The upper half of the rows gates the lower.
    Gated,
}

/// What a linear layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To queries, keys and values.
    Qkv,
    /// From attention back to the residual stream.
    Output,
    /// Into the middle of the MLP.
    Up,
    /// Out of it.
    Down,
    /// To the vocabulary.
    Logits,
}

/// A matrix `[outputs, inputs]`, its bias, and what they are for. [`Linear`] is that of a backend.
pub struct LinearWeights<M, V> {
    /// What it is for.
    pub role: Role,
    /// `[outputs, inputs]`
    pub matrix: M,
    /// `[outputs]`
    pub bias: Option<V>,
}

/// A linear layer of a backend. It depends on nothing but the backend's weights, so that a backend around another one
/// shares them.
pub type Linear<B> = LinearWeights<<B as Backend>::Matrix, <B as Backend>::Vector>;

/// A norm: kind, constant and vectors. [`Norm`] is that of a backend.
pub struct NormWeights<V> {
    /// Kind and constant.
    pub spec: NormSpec,
    /// Multiplied.
    pub weight: V,
    /// Added.
    pub bias: Option<V>,
}

/// A norm of a backend.
pub type Norm<B> = NormWeights<<B as Backend>::Vector>;

/// What all layers of one step share.
#[derive(Default)]
pub struct Step {
    /// Input tokens, `[rows]`.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence, `[rows]`.
    pub positions: Vec<u32>,
    /// Each token's row in the tables that positions select: of `cos` and `sin`, or of the learned positions.
    pub position_rows: Vec<u32>,
    /// Cosines of the rotation, `[rows, dims / 2]`; empty without rotation.
    pub cos: Vec<f32>,
    /// Sines, likewise.
    pub sin: Vec<f32>,
    /// Which tokens belong together, where they start, and their block tables.
    pub sequences: Vec<BatchRow>,
    /// The block tables.
    pub blocks: Vec<u32>,
}

/// How queries and keys are prepared in one layer.
pub struct Rotation<'a, B: Backend> {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Channels that turn; 0 when positions are learned.
    pub dims: usize,
    /// Which two of them turn together.
    pub style: RopeStyle,
    /// Norms of each query head and each key head, before the rotation.
    pub head_norms: Option<&'a (Norm<B>, Norm<B>)>,
}

/// Something to make of one row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which row of the logits buffer.
    pub row: usize,
    /// What is wanted.
    pub want: Want,
}

/// What is wanted of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A token for the draw of this number.
    Draw(usize),
    /// The log-probability of the target of this number.
    Score {
        /// Which target.
        target: usize,
        /// How many of the best tokens to report with it.
        alternatives: usize,
    },
}

/// What a [`Task`] gave.
#[derive(Clone, Debug)]
pub enum Answer {
    /// For [`Want::Draw`].
    Draw(Result<Drawn, DrawFault>),
    /// For [`Want::Score`].
    Score(Score),
}

/// A device that can run the forward pass.
///
/// # Panics
/// Operations may panic when shapes disagree: that is a mistake of the forward pass, never of an input.
pub trait Backend: Send + Sized {
    /// A matrix, laid out for [`Backend::linear`] and [`Backend::look_up`].
    type Matrix: Send;
    /// A vector of weights.
    type Vector: Send;
    /// Activations, `[rows, width]`.
    type Buffer: Send;
    /// The paged cache.
    type Cache: Send;

    /// Lays out a matrix as `layout` says; codes are kept exactly, floats are rounded or quantised.
    ///
    /// # Errors
    /// When memory is short.
    fn matrix(
        &self,
        tensors: &LinearTensors<'_>,
        layout: &MatrixLayout,
    ) -> Result<Self::Matrix, ModelError>;

    /// Takes a vector over.
    fn vector(&self, values: Vec<f32>) -> Self::Vector;

    /// A buffer of zeros.
    ///
    /// # Errors
    /// When memory is short.
    fn buffer(&self, rows: usize, width: usize) -> Result<Self::Buffer, ModelError>;

    /// An empty cache.
    ///
    /// # Errors
    /// When memory is short.
    fn cache(&self, shape: KvShape) -> Result<Self::Cache, ModelError>;

    /// `out[i] = table[ids[i]]`
    fn look_up(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Buffer);

    /// `x[i] += table[ids[i]]`; `work` is overwritten.
    fn add_rows(
        &self,
        table: &Self::Matrix,
        ids: &[u32],
        work: &mut Self::Buffer,
        x: &mut Self::Buffer,
    );

    /// `x *= factor`
    fn scale(&self, factor: f32, rows: usize, x: &mut Self::Buffer);

    /// `out = norm(x)`
    fn norm(&self, norm: &Norm<Self>, rows: usize, x: &Self::Buffer, out: &mut Self::Buffer);

    /// `residual += norm(x)`
    fn norm_add(
        &self,
        norm: &Norm<Self>,
        rows: usize,
        x: &Self::Buffer,
        residual: &mut Self::Buffer,
    );

    /// `out = epilogue(x · matrixᵀ + bias)`
    fn linear(
        &self,
        linear: &Linear<Self>,
        epilogue: Epilogue,
        rows: usize,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
    );

    /// Prepares queries and keys in place in `qkv`, then stores keys and values in the cache.
    fn rotate_and_store(
        &self,
        rotation: &Rotation<'_, Self>,
        step: &Step,
        layer: usize,
        qkv: &mut Self::Buffer,
        cache: &mut Self::Cache,
    );

    /// `out` = attention of the queries in `qkv` over the cache, through the block tables.
    fn attend(
        &self,
        spec: &AttendSpec,
        step: &Step,
        layer: usize,
        qkv: &Self::Buffer,
        cache: &Self::Cache,
        out: &mut Self::Buffer,
    );

    /// `out[i] = x[rows[i]]`
    fn pick(&self, rows: &[usize], x: &Self::Buffer, out: &mut Self::Buffer);

    /// `x = cap · tanh(x / cap)`
    fn soft_cap(&self, cap: f32, rows: usize, x: &mut Self::Buffer);

    /// Chooses tokens and scores targets; `answers` gets one entry per task, in order.
    fn answer(
        &mut self,
        logits: &Self::Buffer,
        plan: &StepPlan,
        tasks: &[Task],
        answers: &mut Vec<Answer>,
    );

    /// Takes the memory of one layer of these blocks from the system before they are written, where that is not done
    /// when a cache is made. What they hold stays.
    fn populate(&self, layer: usize, blocks: Range<usize>, cache: &mut Self::Cache);

    /// Copies a block over another, in every layer.
    fn copy_block(&self, source: u32, destination: u32, cache: &mut Self::Cache);

    /// Copies a block of all layers out of the cache; `out` is [`crate::MemoryPlan::kv_bytes_per_block`] long.
    fn read_block(&self, block: u32, cache: &Self::Cache, out: &mut [u8]);

    /// Overwrites a block of all layers with bytes that [`Backend::read_block`] gave.
    fn write_block(&self, block: u32, bytes: &[u8], cache: &mut Self::Cache);
}
