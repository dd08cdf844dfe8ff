//! How many tokens a step computes at most: enough to use the machine, few enough that nobody waits long for the next token.
//!
//! While prompts are computed, a sequence that generates gets one token per step, so the longest step is the longest pause
//! between two of its tokens. Beyond a few dozen rows a kernel is bound by arithmetic and larger steps gain nothing; so the
//! step is cut where it takes about [`TARGET`], by the rate that this machine's own kernels reach on a piece of the model.

use std::hint::black_box;
use std::time::{Duration, Instant};

use folio_kernels::{Context, Epilogue, Isa, PackedMatrix, Segment, WeightFormat, linear};

use crate::error::ModelError;
use crate::spec::ModelSpec;

/// How long a step may take about: a pause that a reader hardly notices.
pub const TARGET: Duration = Duration::from_millis(250);
/// Fewest tokens. With fewer rows the weights are read too often for what is computed with them.
pub const FEWEST: usize = 64;
/// Most tokens. More would only take memory.
pub const MOST: usize = 2048;

/// Rows of the measured layer: enough to be bound by arithmetic.
const ROWS: usize = 64;
/// Weights of the measured layer, at most: several times a cache of the second level.
const MOST_WEIGHTS: usize = 1 << 21;
/// The measurement is repeated until about then.
const ENOUGH: Duration = Duration::from_millis(5);

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
    /// Tokens per second that the linear layers can compute, by a few milliseconds of one of them.
    ///
    /// # Errors
    /// When threads or a few MiB of memory cannot be had.
    pub fn run(&self) -> Result<f64, ModelError> {
        let machine = |problem: String| ModelError::Machine(problem);
        let kernels = Context::new(self.threads, self.isa)
            .map_err(|e| machine(format!("{} threads cannot be started: {e}", self.threads)))?;
        let inputs = self.spec.hidden;
        let outputs = self.spec.up_width().min(MOST_WEIGHTS / inputs).max(1);
        let segment = Segment { format: self.format, outputs };
        let matrix =
            PackedMatrix::sample(&[segment], inputs).map_err(|e| machine(e.to_string()))?;
        let x = numbers(ROWS * inputs);
        let mut out = vec![0.0; ROWS * outputs];
        let mut best = Duration::MAX;
        let began = Instant::now();
        // The first round warms up. The best counts: what disturbs the start does not last.
        for round in 0.. {
            let start = Instant::now();
            linear(&kernels, &x, &matrix, None, Epilogue::Store, &mut out);
            black_box(&out);
            if round > 0 {
                best = best.min(start.elapsed());
            }
            if round > 1 && began.elapsed() >= ENOUGH {
                break;
            }
        }
        let products = number(ROWS) * number(outputs) * number(inputs);
        let per_token = self.spec.layer_products();
        Ok(products / best.as_secs_f64() / number(usize::try_from(per_token).unwrap_or(usize::MAX)))
    }
}

#[allow(clippy::cast_precision_loss, reason = "for a rate")]
fn number(count: usize) -> f64 {
    count as f64
}

fn numbers(count: usize) -> Vec<f32> {
    (0..16_u8).cycle().take(count).map(|i| f32::from(i) / 16.0 - 0.5).collect()
}
