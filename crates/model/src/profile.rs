//! Where a step's time goes: a backend around another one that times every operation.
//!
//! Who does not profile runs the backend itself, and there is nothing of this in its way.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use folio_core::plan::StepPlan;
use folio_kernels::{AttendSpec, Epilogue, KvShape};

use crate::backend::{Answer, Backend, Linear, Norm, Role, Rotation, Step, Task};
use crate::error::ModelError;
use crate::weights::{LinearTensors, MatrixLayout};

/// A kind of operation of the forward pass, in the order in which a step comes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Blocks that are copied, or read and written for swapping.
    Blocks,
    /// From tokens to vectors, and gathering the rows that need logits.
    Embed,
    /// Norms that are operations of their own.
    Norm,
    /// The linear layer to queries, keys and values.
    Qkv,
    /// Rotation, and storing keys and values in the cache.
    RotateAndStore,
    /// Attention over the cache.
    Attend,
    /// The linear layer from attention.
    Output,
    /// The linear layer into the MLP, with its activation.
    Up,
    /// The linear layer out of the MLP.
    Down,
    /// The linear layer to the vocabulary.
    Logits,
    /// Choosing tokens and scoring targets.
    Sample,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Blocks,
        Self::Embed,
        Self::Norm,
        Self::Qkv,
        Self::RotateAndStore,
        Self::Attend,
        Self::Output,
        Self::Up,
        Self::Down,
        Self::Logits,
        Self::Sample,
    ];

    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Embed => "embed",
            Self::Norm => "norms",
            Self::Qkv => "qkv",
            Self::RotateAndStore => "rotate, store",
            Self::Attend => "attention",
            Self::Output => "output",
            Self::Up => "up",
            Self::Down => "down",
            Self::Logits => "logits",
            Self::Sample => "sampling",
        }
    }
}

/// Time per [`Operation`], in the order of [`Operation::ALL`].
pub type OperationTimes = [Duration; Operation::ALL.len()];

/// What a profiled executor has measured. Clones are the same profile.
#[derive(Clone, Debug, Default)]
pub struct Profile(Arc<Mutex<OperationTimes>>);

impl Profile {
    /// The times since this was last called.
    #[must_use]
    pub fn take(&self) -> OperationTimes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn time<T>(&self, operation: Operation, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        let took = began.elapsed();
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[operation as usize] += took;
        result
    }
}

/// A backend whose operations are timed.
pub struct Profiled<B> {
    inner: B,
    profile: Profile,
}

impl<B> Profiled<B> {
    /// Times the operations of `inner` into `profile`.
    pub fn new(inner: B, profile: Profile) -> Self {
        Self { inner, profile }
    }
}

impl<B: Backend> Backend for Profiled<B> {
    type Matrix = B::Matrix;
    type Vector = B::Vector;
    type Buffer = B::Buffer;
    type Cache = B::Cache;

    fn matrix(
        &self,
        tensors: &LinearTensors<'_>,
        layout: &MatrixLayout,
    ) -> Result<B::Matrix, ModelError> {
        self.inner.matrix(tensors, layout)
    }

    fn vector(&self, values: Vec<f32>) -> B::Vector {
        self.inner.vector(values)
    }

    fn buffer(&self, rows: usize, width: usize) -> Result<B::Buffer, ModelError> {
        self.inner.buffer(rows, width)
    }

    fn cache(&self, shape: KvShape) -> Result<B::Cache, ModelError> {
        self.inner.cache(shape)
    }

    fn look_up(&self, table: &B::Matrix, ids: &[u32], out: &mut B::Buffer) {
        self.profile.time(Operation::Embed, || self.inner.look_up(table, ids, out));
    }

    fn add_rows(&self, table: &B::Matrix, ids: &[u32], work: &mut B::Buffer, x: &mut B::Buffer) {
        self.profile.time(Operation::Embed, || self.inner.add_rows(table, ids, work, x));
    }

    fn scale(&self, factor: f32, rows: usize, x: &mut B::Buffer) {
        self.profile.time(Operation::Embed, || self.inner.scale(factor, rows, x));
    }

    fn norm(&self, norm: &Norm<Self>, rows: usize, x: &B::Buffer, out: &mut B::Buffer) {
        self.profile.time(Operation::Norm, || self.inner.norm(norm, rows, x, out));
    }

    fn norm_add(&self, norm: &Norm<Self>, rows: usize, x: &B::Buffer, residual: &mut B::Buffer) {
        self.profile.time(Operation::Norm, || self.inner.norm_add(norm, rows, x, residual));
    }

    fn linear(
        &self,
        linear: &Linear<Self>,
        epilogue: Epilogue,
        rows: usize,
        x: &B::Buffer,
        out: &mut B::Buffer,
    ) {
        let operation = match linear.role {
            Role::Qkv => Operation::Qkv,
            Role::Output => Operation::Output,
            Role::Up => Operation::Up,
            Role::Down => Operation::Down,
            Role::Logits => Operation::Logits,
        };
        self.profile.time(operation, || self.inner.linear(linear, epilogue, rows, x, out));
    }

    fn rotate_and_store(
        &self,
        rotation: &Rotation<'_, Self>,
        step: &Step,
        layer: usize,
        qkv: &mut B::Buffer,
        cache: &mut B::Cache,
    ) {
        let Rotation { heads, kv_heads, head_dim, dims, style, head_norms } = *rotation;
        let rotation = Rotation { heads, kv_heads, head_dim, dims, style, head_norms };
        self.profile.time(Operation::RotateAndStore, || {
            self.inner.rotate_and_store(&rotation, step, layer, qkv, cache);
        });
    }

    fn attend(
        &self,
        spec: &AttendSpec,
        step: &Step,
        layer: usize,
        qkv: &B::Buffer,
        cache: &B::Cache,
        out: &mut B::Buffer,
    ) {
        self.profile.time(Operation::Attend, || {
            self.inner.attend(spec, step, layer, qkv, cache, out);
        });
    }

    fn pick(&self, rows: &[usize], x: &B::Buffer, out: &mut B::Buffer) {
        self.profile.time(Operation::Embed, || self.inner.pick(rows, x, out));
    }

    fn soft_cap(&self, cap: f32, rows: usize, x: &mut B::Buffer) {
        self.profile.time(Operation::Logits, || self.inner.soft_cap(cap, rows, x));
    }

    fn answer(
        &mut self,
        logits: &B::Buffer,
        plan: &StepPlan,
        tasks: &[Task],
        answers: &mut Vec<Answer>,
    ) {
        let Self { inner, profile } = self;
        profile.time(Operation::Sample, || inner.answer(logits, plan, tasks, answers));
    }

    fn populate(&self, layer: usize, blocks: Range<usize>, cache: &mut B::Cache) {
        self.inner.populate(layer, blocks, cache);
    }

    fn copy_block(&self, source: u32, destination: u32, cache: &mut B::Cache) {
        self.profile.time(Operation::Blocks, || {
            self.inner.copy_block(source, destination, cache);
        });
    }

    fn read_block(&self, block: u32, cache: &B::Cache, out: &mut [u8]) {
        self.profile.time(Operation::Blocks, || self.inner.read_block(block, cache, out));
    }

    fn write_block(&self, block: u32, bytes: &[u8], cache: &mut B::Cache) {
        self.profile.time(Operation::Blocks, || self.inner.write_block(block, bytes, cache));
    }
}
