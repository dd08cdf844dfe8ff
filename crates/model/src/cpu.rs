//! The backend on the CPU: folio's own kernels, called with the shapes of the forward pass.

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use folio_core::plan::StepPlan;
use folio_kernels::{
    self as kernels, AllocError, AttendSpec, Batch, Context, Epilogue, Isa, KvCache, KvShape,
    PackedMatrix, View, ViewMut,
};

use crate::backend::{Answer, Backend, Form, Linear, Norm, Rotation, Step, Task, Want};
use crate::error::ModelError;
use crate::sample::{self, DrawInput, SampleWork};
use crate::spec::NormKind;
use crate::weights::{Elements, LinearTensors, MatrixLayout, PackedPlace, Tensor};

/// A team of threads and the instructions they use.
pub struct Cpu {
    context: Context,
    /// One per thread; a lock is only ever taken by its own.
    work: Vec<Mutex<SampleWork>>,
}

/// Rows of equal width.
pub struct CpuBuffer {
    width: usize,
    values: Vec<f32>,
}

impl Cpu {
    /// Starts the team.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(threads: usize, isa: Isa) -> Result<Self, ModelError> {
        let context = context(threads, isa)?;
        let work = (0..threads).map(|_| Mutex::default()).collect();
        Ok(Self { context, work })
    }

    /// Bytes that the kernels' work space has grown to; the memory plan's bound holds for it.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        self.context.workspace_bytes()
    }
}

/// What answering needs, apart from the team, which must not be shared with its own threads.
struct Answerer<'a> {
    isa: Isa,
    work: &'a [Mutex<SampleWork>],
    plan: &'a StepPlan,
}

impl Answerer<'_> {
    fn answer(&self, row: &[f32], want: Want, thread: usize) -> Answer {
        let plan = self.plan;
        match want {
            Want::Score { target, alternatives } => {
                Answer::Score(sample::score(self.isa, row, plan.targets[target], alternatives))
            }
            Want::Draw(number) => {
                let draw = &plan.draws[number];
                let input = DrawInput {
                    sampling: &plan.samplings[draw.sampling],
                    choice: draw.choice,
                    position: draw.position,
                    history: &plan.history[draw.history.clone()],
                    history_prompt: draw.history_prompt,
                    banned: &plan.banned[draw.banned.clone()],
                    mask: &plan.masks[draw.mask.clone()],
                };
                let mut work = self.work[thread].lock().unwrap_or_else(PoisonError::into_inner);
                Answer::Draw(sample::draw(self.isa, row, &input, &mut work))
            }
        }
    }
}

impl CpuBuffer {
    /// One row, for inspection.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    fn rows(&self, rows: usize) -> &[f32] {
        &self.values[..rows * self.width]
    }

    fn rows_mut(&mut self, rows: usize) -> &mut [f32] {
        &mut self.values[..rows * self.width]
    }
}

/// What kernels run on.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn context(threads: usize, isa: Isa) -> Result<Context, ModelError> {
    Context::new(threads, isa).map_err(|e| {
        ModelError::Machine(format!(
            "{threads} threads cannot be started: {e}; use fewer --threads"
        ))
    })
}

fn kernel_norm(norm: &Norm<Cpu>) -> kernels::Norm<'_> {
    let (weight, eps) = (&norm.weight, norm.spec.epsilon);
    match norm.spec.kind {
        NormKind::Rms => kernels::Norm::Rms { weight, offset: 0.0, eps },
        NormKind::RmsUnitOffset => kernels::Norm::Rms { weight, offset: 1.0, eps },
        NormKind::Layer => kernels::Norm::Layer { weight, bias: norm.bias.as_deref(), eps },
    }
}

fn batch(step: &Step) -> Batch<'_> {
    Batch { rows: &step.sequences, blocks: &step.blocks }
}

impl Backend for Cpu {
    type Matrix = PackedMatrix;
    type Vector = Vec<f32>;
    type Buffer = CpuBuffer;
    type Cache = KvCache;

    fn matrix(
        &self,
        tensors: &LinearTensors<'_>,
        layout: &MatrixLayout,
    ) -> Result<PackedMatrix, ModelError> {
        let (inputs, segments) = (tensors.inputs, layout.segments());
        let gated = layout.form == Form::Gated;
        if let Some((Tensor { file, name, elements: Elements::Packed { matrix, .. } }, ..)) =
            tensors.parts.first()
        {
            let PackedPlace { file: mapped, start } = *matrix;
            return PackedMatrix::from_mapped(mapped, start, &segments, inputs, gated)
                .map_err(|e| ModelError::tensor(file, name, e.to_string()));
        }
        let builder = match segments.as_slice() {
            [gate, up] if gated => {
                PackedMatrix::gated_builder([gate.format, up.format], gate.outputs, inputs)
            }
            segments => PackedMatrix::builder(segments, inputs),
        };
        let mut builder = builder?;
        let mut first = 0;
        for (tensor, stored, rows) in &tensors.parts {
            match &tensor.elements {
                Elements::Floats(raw) if tensors.transposed => {
                    builder.fill_transposed(&self.context, first, *raw, *stored, rows.clone());
                }
                Elements::Floats(raw) => {
                    let source = raw.slice(rows.start * inputs..rows.end * inputs);
                    builder.fill(&self.context, first, source);
                }
                Elements::Codes { source, .. } => {
                    builder.fill_codes(&self.context, first, &**source, rows.clone());
                }
                Elements::Packed { .. } => unreachable!("all parts of a packed matrix are packed"),
            }
            first += rows.len();
        }
        Ok(builder.finish())
    }

    fn vector(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn buffer(&self, rows: usize, width: usize) -> Result<CpuBuffer, ModelError> {
        let length = rows * width;
        let mut values = Vec::new();
        values
            .try_reserve_exact(length)
            .map_err(|_| AllocError { bytes: Some(length * size_of::<f32>()) })?;
        values.resize(length, 0.0);
        Ok(CpuBuffer { width, values })
    }

    fn cache(&self, shape: KvShape) -> Result<KvCache, ModelError> {
        Ok(KvCache::new(shape)?)
    }

    fn look_up(&self, table: &PackedMatrix, ids: &[u32], out: &mut CpuBuffer) {
        kernels::embed_packed(&self.context, table, ids, out.rows_mut(ids.len()));
    }

    fn add_rows(&self, table: &PackedMatrix, ids: &[u32], work: &mut CpuBuffer, x: &mut CpuBuffer) {
        self.look_up(table, ids, work);
        kernels::add(&self.context, work.rows(ids.len()), x.rows_mut(ids.len()));
    }

    fn scale(&self, factor: f32, rows: usize, x: &mut CpuBuffer) {
        kernels::scale(&self.context, factor, x.rows_mut(rows));
    }

    fn norm(&self, norm: &Norm<Self>, rows: usize, x: &CpuBuffer, out: &mut CpuBuffer) {
        kernels::norm(&self.context, &kernel_norm(norm), x.rows(rows), out.rows_mut(rows));
    }

    fn norm_add(&self, norm: &Norm<Self>, rows: usize, x: &CpuBuffer, residual: &mut CpuBuffer) {
        kernels::norm_add(&self.context, &kernel_norm(norm), x.rows(rows), residual.rows_mut(rows));
    }

    fn linear(
        &self,
        linear: &Linear<Self>,
        epilogue: Epilogue,
        rows: usize,
        x: &CpuBuffer,
        out: &mut CpuBuffer,
    ) {
        let (input, bias) = (x.rows(rows), linear.bias.as_deref());
        kernels::linear(&self.context, input, &linear.matrix, bias, epilogue, out.rows_mut(rows));
    }

    fn rotate_and_store(
        &self,
        rotation: &Rotation<'_, Self>,
        step: &Step,
        layer: usize,
        qkv: &mut CpuBuffer,
        cache: &mut KvCache,
    ) {
        let (stride, rows) = (qkv.width, step.tokens.len());
        let Rotation { heads, kv_heads, head_dim, dims, style, head_norms } = *rotation;
        let queries = 0..heads * head_dim;
        let keys = queries.end..queries.end + kv_heads * head_dim;
        let values = keys.end..keys.end + kv_heads * head_dim;
        let data = qkv.rows_mut(rows);
        if let Some((query_norm, key_norm)) = head_norms {
            for (norm, columns) in [(query_norm, &queries), (key_norm, &keys)] {
                let view = ViewMut::new(data, stride, columns.clone());
                kernels::head_norm(&self.context, &kernel_norm(norm), view);
            }
        }
        if dims > 0 {
            let rope = kernels::Rope { style, head_dim, dims, cos: &step.cos, sin: &step.sin };
            for columns in [queries, keys.clone()] {
                let view = ViewMut::new(data, stride, columns);
                kernels::rope(&self.context, &rope, &step.position_rows, view);
            }
        }
        let (k, v) = (View::new(data, stride, keys), View::new(data, stride, values));
        cache.store(&self.context, layer, &batch(step), k, v);
    }

    fn attend(
        &self,
        spec: &AttendSpec,
        step: &Step,
        layer: usize,
        qkv: &CpuBuffer,
        cache: &KvCache,
        out: &mut CpuBuffer,
    ) {
        let rows = step.tokens.len();
        let queries = View::new(qkv.rows(rows), qkv.width, 0..out.width);
        let out = out.rows_mut(rows);
        kernels::attend(&self.context, spec, cache, layer, &batch(step), queries, out);
    }

    fn pick(&self, rows: &[usize], x: &CpuBuffer, out: &mut CpuBuffer) {
        let width = x.width;
        let targets = out.rows_mut(rows.len()).chunks_exact_mut(width);
        for (&row, target) in rows.iter().zip(targets) {
            target.copy_from_slice(&x.values[row * width..(row + 1) * width]);
        }
    }

    fn soft_cap(&self, cap: f32, rows: usize, x: &mut CpuBuffer) {
        kernels::softcap(&self.context, cap, x.rows_mut(rows));
    }

    fn answer(
        &mut self,
        logits: &CpuBuffer,
        plan: &StepPlan,
        tasks: &[Task],
        answers: &mut Vec<Answer>,
    ) {
        let slots: Vec<OnceLock<Answer>> = tasks.iter().map(|_| OnceLock::new()).collect();
        let width = logits.width;
        let answerer = Answerer { isa: self.context.isa(), work: &self.work, plan };
        self.context.team().for_each(tasks.len(), |thread, number| {
            let task = tasks[number];
            let row = &logits.values[task.row * width..(task.row + 1) * width];
            // Each slot is set once: `for_each` gives every number to one thread.
            let _ = slots[number].set(answerer.answer(row, task.want, thread));
        });
        answers.extend(slots.into_iter().filter_map(OnceLock::into_inner));
    }

    fn populate(&self, layer: usize, blocks: Range<usize>, cache: &mut KvCache) {
        cache.populate(layer, blocks);
    }

    fn copy_block(&self, source: u32, destination: u32, cache: &mut KvCache) {
        cache.copy_block(source, destination);
    }

    fn read_block(&self, block: u32, cache: &KvCache, out: &mut [u8]) {
        cache.read_block(block, out);
    }

    fn write_block(&self, block: u32, bytes: &[u8], cache: &mut KvCache) {
        cache.write_block(block, bytes);
    }
}
