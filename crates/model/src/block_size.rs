//! Choosing the size of a block: large blocks are attended to faster, small ones waste less.
//!
//! The measurement runs this machine's own attention with the model's heads on a small cache. The choice is a pure function
//! of what was measured and of the lengths that are expected.

use std::hint::black_box;
use std::time::{Duration, Instant};

use folio_kernels::{
    AllocError, AttendSpec, Batch, BatchRow, Context, Isa, KvCache, KvDtype, KvShape, View, attend,
};

use crate::cpu::context;
use crate::error::ModelError;
use crate::spec::ModelSpec;
use crate::step_tokens::numbers;

/// The sizes that are tried, in positions.
pub const CANDIDATES: [usize; 5] = [8, 16, 32, 64, 128];

/// All of the measurement ends about then, and no round of it begins later.
const MOST_TIME: Duration = Duration::from_millis(200);
/// Keys and values of one candidate's cache.
const MOST_BYTES: usize = 8 << 20;
const MOST_ROWS: usize = 32;

/// Prompt and output of a request, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Tokens that come with it.
    pub prompt: u32,
    /// Tokens that are generated.
    pub output: u32,
}

impl Lengths {
    /// The means of the ShareGPT conversations that the PagedAttention paper measured with.
    pub const SHAREGPT: Self = Self { prompt: 161, output: 338 };

    /// Sum over the lengths after each generated token, and of the slots that are empty then in the last block.
    fn used_and_wasted(self, block_size: u64) -> (u128, u128) {
        let (first, last) =
            (u64::from(self.prompt), u64::from(self.prompt) + u64::from(self.output));
        let used = |len: u64| u128::from(len) * u128::from(len + 1) / 2;
        let wasted = |len: u64| {
            let (periods, rest) = (u128::from(len / block_size), u128::from(len % block_size));
            let size = u128::from(block_size);
            periods * (size * (size - 1) / 2) + rest * size - rest * (rest + 1) / 2
        };
        (used(last) - used(first), wasted(last) - wasted(first))
    }
}

/// What was measured of one block size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Positions per block.
    pub block_size: usize,
    /// Nanoseconds of attention for one token, in all layers.
    pub nanos: f64,
}

/// One block size and what speaks for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Positions per block.
    pub block_size: usize,
    /// Nanoseconds of attention for one token, in all layers.
    pub nanos: f64,
    /// Empty slots of last blocks, as a share of the slots that hold something, while the expected requests generate.
    pub waste: f64,
}

impl Candidate {
    /// Time per token, stretched by the memory that is wasted: so much less can run at once. The least is chosen.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.nanos * (1.0 + self.waste)
    }
}

/// All candidates, and the size to take: the one of least cost, of equals the first. `None` where nothing was measured.
#[must_use]
pub fn choose(measured: &[Measured], expected: &[Lengths]) -> (Vec<Candidate>, Option<usize>) {
    let candidates: Vec<Candidate> = measured
        .iter()
        .map(|&Measured { block_size, nanos }| Candidate {
            block_size,
            nanos,
            waste: waste(block_size, expected),
        })
        .collect();
    let least = candidates.iter().min_by(|a, b| a.cost().total_cmp(&b.cost()));
    let chosen = least.map(|candidate| candidate.block_size);
    (candidates, chosen)
}

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn waste(block_size: usize, expected: &[Lengths]) -> f64 {
    let block_size = u64::try_from(block_size).unwrap_or(u64::MAX).max(1);
    let (mut used, mut wasted) = (0, 0);
    for lengths in expected {
        let (more_used, more_wasted) = lengths.used_and_wasted(block_size);
        used += more_used;
        wasted += more_wasted;
    }
    if used == 0 { 0.0 } else { wasted as f64 / used as f64 }
}

/// The context over which a token is generated, on average over all tokens that `expected` requests generate.
#[must_use]
pub fn mean_context(expected: &[Lengths]) -> usize {
    let (mut tokens, mut used) = (0, 0);
    for lengths in expected {
        tokens += u128::from(lengths.output);
        used += lengths.used_and_wasted(1).0;
    }
    usize::try_from(used / tokens.max(1)).unwrap_or(usize::MAX).max(1)
}

/// What is measured, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The model.
    pub spec: &'a ModelSpec,
    /// Kind of keys and values.
    pub kv_dtype: KvDtype,
    /// Threads that will compute.
    pub threads: usize,
    /// The instructions to use.
    pub isa: Isa,
    /// Positions that a generated token sees; longer ones are cut to what a small cache holds.
    pub context: usize,
}

impl Trial<'_> {
    /// Measures every candidate, in turns, in about a fifth of a second.
    ///
    /// # Errors
    /// When threads or a few MiB of memory cannot be had.
    pub fn run(&self) -> Result<Vec<Measured>, ModelError> {
        let began = Instant::now();
        let kernels = context(self.threads, self.isa)?;
        let mut decodes = Vec::with_capacity(CANDIDATES.len());
        for block_size in CANDIDATES {
            decodes.push(Decode::new(self, &kernels, block_size)?);
        }
        let mut best = [Duration::MAX; CANDIDATES.len()];
        // The first round warms up. Turns, so that a disturbance does not hit one candidate alone.
        for round in 0.. {
            for (decode, best) in decodes.iter_mut().zip(&mut best) {
                let start = Instant::now();
                decode.attend(&kernels);
                let took = start.elapsed();
                if round == 0 || took < *best {
                    *best = took;
                }
            }
            if began.elapsed() >= MOST_TIME {
                break;
            }
        }
        let measured = decodes.iter().zip(best).map(|(decode, best)| Measured {
            block_size: decode.cache.shape().block_size,
            nanos: decode.nanos_per_token(best, self.spec.layers),
        });
        Ok(measured.collect())
    }
}

/// One layer's attention for some sequences that generate a token each, their blocks scattered over the cache.
struct Decode {
    spec: AttendSpec,
    cache: KvCache,
    rows: Vec<BatchRow>,
    blocks: Vec<u32>,
    queries: Vec<f32>,
    out: Vec<f32>,
}

impl Decode {
    fn new(trial: &Trial<'_>, kernels: &Context, block_size: usize) -> Result<Self, AllocError> {
        let spec = trial.spec;
        let width = spec.kv_width();
        let shape = KvShape { layers: 1, ..spec.kv_shape(1, block_size, trial.kv_dtype) };
        let most = shape.position_bytes().map_or(1, |bytes| (MOST_BYTES / bytes).max(1));
        let context = trial.context.clamp(1, most);
        let rows = (most / context).clamp(1, MOST_ROWS);
        let each = context.div_ceil(block_size);
        let mut cache = KvCache::new(KvShape { blocks: rows * each, ..shape })?;
        let blocks = scattered(rows * each);
        let row =
            |i: usize, start, tokens| BatchRow { start, tokens, blocks: i * each..(i + 1) * each };
        // Real numbers everywhere, so that memory is really there and no shortcut for zeros is measured.
        let entry = numbers(context * width);
        for i in 0..rows {
            let batch = Batch { rows: &[row(i, 0, 0..context)], blocks: &blocks };
            let view = View::dense(&entry, width);
            cache.store(kernels, 0, &batch, view, view);
        }
        let queries = rows * spec.query_width();
        Ok(Self {
            spec: spec.attend(None),
            cache,
            rows: (0..rows).map(|i| row(i, context - 1, i..i + 1)).collect(),
            blocks,
            queries: numbers(queries),
            out: vec![0.0; queries],
        })
    }

    fn attend(&mut self, kernels: &Context) {
        let width = self.spec.heads * self.cache.shape().head_dim;
        let batch = Batch { rows: &self.rows, blocks: &self.blocks };
        let queries = View::dense(&self.queries, width);
        attend(kernels, &self.spec, &self.cache, 0, &batch, queries, &mut self.out);
        black_box(&self.out);
    }

    #[allow(clippy::cast_precision_loss, reason = "a time")]
    fn nanos_per_token(&self, took: Duration, layers: usize) -> f64 {
        took.as_nanos() as f64 / self.rows.len() as f64 * layers as f64
    }
}

/// The numbers below `count` in an order without neighbours, as blocks lie after a while.
fn scattered(count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).take(count).collect();
    order.sort_by_key(|&block| block.wrapping_mul(2_654_435_769));
    order
}
