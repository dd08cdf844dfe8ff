//! How many tokens a step computes at most: enough to use the machine, few enough that nobody waits long for the next token.
//!
//! While prompts are computed, a sequence that generates gets one token per step, so the longest step is the longest pause
//! between two of its tokens. Beyond a few dozen rows a kernel is bound by arithmetic and larger steps gain nothing; so the
//! step is cut where it takes about [`TARGET`], by the rate that this machine's own kernels reach on one layer of the model.

use std::time::{Duration, Instant};

use folio_kernels::{
    AllocError, Batch, BatchRow, Context, Epilogue, Isa, KvCache, KvDtype, KvShape, PackedMatrix,
    Segment, View, WeightFormat, attend, linear,
};

use crate::cpu::context;
use crate::error::ModelError;
use crate::spec::ModelSpec;

/// How long a step may take about: a pause that a reader hardly notices.
pub const TARGET: Duration = Duration::from_millis(125);
/// Fewest tokens. With fewer rows the weights are read too often for what is computed with them.
pub const FEWEST: usize = 64;
/// Most tokens. More would only take memory.
pub const MOST: usize = 2048;

/// Tokens of the measured layer: enough to be bound by arithmetic.
const ROWS: usize = 64;
/// Positions that the measured tokens see.
const CONTEXT: usize = 512;
/// Weights of each measured matrix, at most: several times a cache of the second level.
const MOST_WEIGHTS: usize = 1 << 21;
/// Each measurement is repeated until about then.
const ENOUGH: Duration = Duration::from_millis(3);

/// The most tokens of a step where `rate` tokens per second are computed and at most `sequences` sequences run: the largest
/// power of two that keeps to [`TARGET`], but at least twice the sequences, so that prompts get on while all others
/// generate.
#[must_use]
pub fn choose(rate: f64, sequences: usize) -> usize {
    let fewest = sequences.saturating_mul(2).clamp(FEWEST, MOST).next_power_of_two();
    let within = |tokens: usize| number(tokens) <= rate * TARGET.as_secs_f64();
    let mut tokens = fewest;
    while tokens < MOST && within(2 * tokens) {
        tokens *= 2;
    }
    // Where even the sequences are more than MOST, they count.
    tokens.max(sequences.saturating_mul(2))
}

/// What is measured, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The model.
    pub spec: &'a ModelSpec,
    /// How most weights of the layers are kept.
    pub format: WeightFormat,
    /// Threads that will compute.
    pub threads: usize,
    /// The instructions to use.
    pub isa: Isa,
}

impl Trial<'_> {
    /// Tokens of a prompt per second that the layers can compute, by some milliseconds of one of them.
    ///
    /// # Errors
    /// When threads or a few MiB of memory cannot be had.
    pub fn run(&self) -> Result<f64, ModelError> {
        let kernels = context(self.threads, self.isa)?;
        let ModelSpec { hidden, intermediate, .. } = *self.spec;
        let matrices = [
            (self.spec.qkv_width(), hidden),
            (hidden, self.spec.query_width()),
            (self.spec.up_width(), hidden),
            (hidden, intermediate),
        ];
        let mut layer = self.attention(&kernels)?;
        for (outputs, inputs) in matrices {
            layer += self.linear(&kernels, outputs, inputs)?;
        }
        Ok(number(ROWS) / (layer * number(self.spec.layers)))
    }

    /// Seconds that a linear layer takes for [`ROWS`] tokens, by a piece of it.
    fn linear(&self, kernels: &Context, outputs: usize, inputs: usize) -> Result<f64, AllocError> {
        let piece = outputs.min(MOST_WEIGHTS / inputs).max(1);
        let segment = Segment { format: self.format, outputs: piece };
        let matrix = PackedMatrix::sample(&[segment], inputs)?;
        let x = numbers(ROWS * inputs);
        let mut out = vec![0.0; ROWS * piece];
        let best = best(|| linear(kernels, &x, &matrix, None, Epilogue::Store, &mut out));
        Ok(best.as_secs_f64() * number(outputs) / number(piece))
    }

    /// Seconds that a layer's attention takes for [`ROWS`] tokens, about [`CONTEXT`] positions from the beginning.
    fn attention(&self, kernels: &Context) -> Result<f64, AllocError> {
        let spec = self.spec;
        let context = CONTEXT.min(spec.context).max(ROWS);
        let shape = KvShape { layers: 1, ..spec.kv_shape(1, context, KvDtype::F32) };
        let mut cache = KvCache::new(shape)?;
        let row = |start, tokens| BatchRow { start, tokens, blocks: 0..1 };
        let entry = numbers(context * spec.kv_width());
        let view = View::dense(&entry, spec.kv_width());
        let all = Batch { rows: &[row(0, 0..context)], blocks: &[0] };
        cache.store(kernels, 0, &all, view, view);
        let attention = spec.attend(None);
        let last = Batch { rows: &[row(context - ROWS, 0..ROWS)], blocks: &[0] };
        let queries = numbers(ROWS * spec.query_width());
        let queries = View::dense(&queries, spec.query_width());
        let mut out = vec![0.0; ROWS * spec.query_width()];
        let best = best(|| attend(kernels, &attention, &cache, 0, &last, queries, &mut out));
        Ok(best.as_secs_f64())
    }
}

/// The shortest time that some work took in about [`ENOUGH`]. What disturbs the start does not last.
fn best(mut work: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    let began = Instant::now();
    // The first round warms up.
    for round in 0.. {
        let start = Instant::now();
        work();
        if round > 0 {
            best = best.min(start.elapsed());
        }
        if round > 1 && began.elapsed() >= ENOUGH {
            break;
        }
    }
    best
}

#[allow(clippy::cast_precision_loss, reason = "for a rate")]
fn number(count: usize) -> f64 {
    count as f64
}

/// Numbers to compute with, hardly any of them zero.
pub(crate) fn numbers(count: usize) -> Vec<f32> {
    (0..16_u8).cycle().take(count).map(|i| f32::from(i) / 16.0 - 0.5).collect()
}
