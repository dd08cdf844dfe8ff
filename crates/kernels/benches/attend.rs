//! How fast paged attention is, against what this machine can do in the same run.
//!
//! `cargo bench -p folio-kernels --bench attend` prints four tables of best times, which are what a busy machine can be judged by:
//! `decode` (share of the read bandwidth), `blocks` (what paging costs over contiguous memory, by block size), `prefill` (share of
//! the multiply-add peak), `shared` (samples of one prompt against as many sequences of their own). `FOLIO_TABLES=decode,blocks`
//! chooses. Threads: `FOLIO_THREADS`, 2 unless set; instruction set: `FOLIO_ISA`.

#![expect(clippy::print_stdout, reason = "the tables are the result")]

use std::hint::black_box;
use std::time::Instant;

use folio_kernels::{
    AttendSpec, Batch, BatchRow, Context, Isa, KvCache, KvDtype, KvShape, View, attend, measure,
};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const DTYPES: [KvDtype; 4] = KvDtype::ALL;

fn context() -> Context {
    let isa = std::env::var("FOLIO_ISA")
        .map_or_else(|_| Isa::detect(), |name| Isa::from_name(&name).expect("FOLIO_ISA"));
    let threads = std::env::var("FOLIO_THREADS").map_or(2, |n| n.parse().expect("FOLIO_THREADS"));
    Context::new(threads, isa).expect("threads")
}

/// Numbers that are all over the place and the same every time.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x3F80_0000 | state >> 9) - 1.5
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The numbers below `count` in an order that is as good as any.
fn order(count: usize) -> Vec<usize> {
    let chance = numbers(count);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| chance[*a].total_cmp(&chance[*b]));
    order
}

fn seconds(f: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    f();
    begun.elapsed().as_secs_f64()
}

/// Best of as many runs as fit into about `limit` seconds, at least 5.
fn best(limit: f64, mut f: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let (mut least, mut runs) = (f64::INFINITY, 0);
    while runs < 5 || begun.elapsed().as_secs_f64() < limit {
        least = least.min(seconds(&mut f));
        runs += 1;
    }
    least
}

#[expect(clippy::cast_precision_loss, reason = "sizes for a table of three digits")]
fn as_f64(n: usize) -> f64 {
    n as f64
}

/// Some sequences in a cache, and the batch of their last tokens.
struct Work {
    cache: KvCache,
    rows: Vec<BatchRow>,
    blocks: Vec<u32>,
    q: Vec<f32>,
    spec: AttendSpec,
}

impl Work {
    /// `sequences` of `positions` each, of which the last `chunk` are computed; the first `shared` positions are the same blocks.
    fn new(
        ctx: &Context,
        dtype: KvDtype,
        block_size: usize,
        (sequences, positions): (usize, usize),
        chunk: usize,
        shared: usize,
    ) -> Self {
        let each = positions.div_ceil(block_size);
        let common = shared / block_size;
        let blocks = common + sequences * (each - common);
        let shape = KvShape {
            layers: 1,
            blocks,
            block_size,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            dtype,
        };
        let mut cache = KvCache::new(shape).expect("memory");
        // The blocks of a sequence lie anywhere.
        let order = order(blocks);
        let scattered = |i: usize| u32::try_from(order[i]).expect("few blocks");
        let entry = |sequence: usize, i: usize| {
            if i < common { i } else { common + sequence * (each - common) + i - common }
        };
        let table: Vec<u32> = (0..sequences)
            .flat_map(|sequence| (0..each).map(move |i| scattered(entry(sequence, i))))
            .collect();
        let width = KV_HEADS * HEAD_DIM;
        let row =
            |i: usize, start, tokens| BatchRow { start, tokens, blocks: i * each..(i + 1) * each };
        let kv = numbers(positions * width);
        for i in 0..sequences {
            let rows = [row(i, 0, 0..positions)];
            let view = View::dense(&kv, width);
            cache.store(ctx, 0, &Batch { rows: &rows, blocks: &table }, view, view);
        }
        let start = positions - chunk;
        let rows = (0..sequences).map(|i| row(i, start, i * chunk..(i + 1) * chunk)).collect();
        let spec = AttendSpec { heads: HEADS, scale: 0.125, window: None, softcap: None };
        let q = numbers(sequences * chunk * HEADS * HEAD_DIM);
        Self { cache, rows, blocks: table, q, spec }
    }

    fn run(&self, ctx: &Context, out: &mut [f32]) {
        let batch = Batch { rows: &self.rows, blocks: &self.blocks };
        let q = View::dense(&self.q, HEADS * HEAD_DIM);
        attend(ctx, &self.spec, &self.cache, 0, &batch, q, out);
        black_box(out);
    }

    /// Best of some seconds' runs.
    fn best(&self, ctx: &Context, limit: f64) -> f64 {
        let mut out = vec![0.0; self.q.len()];
        best(limit, || self.run(ctx, &mut out))
    }
}

/// Bytes of keys and values that are read.
fn bytes(dtype: KvDtype, positions: usize) -> f64 {
    as_f64(2 * positions * KV_HEADS * (HEAD_DIM * dtype.bytes() + dtype.scale_bytes()))
}

fn decode(ctx: &Context, cases: &[(usize, usize)]) {
    println!("\ndecode: sequences x positions, GB/s of keys and values (share of reading)");
    for dtype in DTYPES {
        for &(sequences, positions) in cases {
            let block_size = dtype.default_block_size();
            let work = Work::new(ctx, dtype, block_size, (sequences, positions), 1, 0);
            // In turns, because a machine that others share is not equally fast all the time.
            let (mut time, mut bandwidth) = (f64::INFINITY, 0.0_f64);
            for _ in 0..3 {
                time = time.min(work.best(ctx, 0.15));
                bandwidth = bandwidth.max(measure::read_bandwidth(ctx).expect("memory"));
            }
            let rate = bytes(dtype, sequences * positions) / time;
            println!(
                "{dtype:9} {sequences:2} x {positions:5}: {:8.3} ms {:5.1} GB/s ({:3.0} % of {:.1})",
                time * 1e3,
                rate / 1e9,
                rate / bandwidth * 100.0,
                bandwidth / 1e9
            );
        }
    }
}

fn blocks(ctx: &Context) {
    const SIZES: [usize; 7] = [1, 8, 16, 32, 64, 128, 256];
    println!("\nblocks: 8 x 4096, % more time than in contiguous memory, by block size {SIZES:?}");
    let time = |work: &Work, least: &mut f64| {
        let mut out = vec![0.0; work.q.len()];
        *least = least.min(seconds(|| work.run(ctx, &mut out)));
    };
    for dtype in DTYPES {
        let contiguous = Work::new(ctx, dtype, 4096, (8, 4096), 1, 0);
        let paged = SIZES.map(|size| Work::new(ctx, dtype, size, (8, 4096), 1, 0));
        let (mut base, mut least) = (f64::INFINITY, [f64::INFINITY; SIZES.len()]);
        // In turns, so that a disturbance does not hit one alone.
        for _ in 0..50 {
            time(&contiguous, &mut base);
            for (work, least) in paged.iter().zip(&mut least) {
                time(work, least);
            }
        }
        let more: Vec<String> =
            least.iter().map(|least| format!("{:+5.0}", (least / base - 1.0) * 100.0)).collect();
        println!("{dtype:9} contiguous {:7.3} ms: {}", base * 1e3, more.join(" "));
    }
}

fn prefill(ctx: &Context) {
    println!("\nprefill: chunk at the end of a context, GFLOP/s");
    for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8] {
        for chunk in [256, 512] {
            for positions in [512, 2048, 8192] {
                let work =
                    Work::new(ctx, dtype, dtype.default_block_size(), (1, positions), chunk, 0);
                let time = work.best(ctx, 0.3);
                // Every token sees what is before it and itself.
                let pairs = chunk * (positions - chunk) + chunk * (chunk + 1) / 2;
                let rate = as_f64(4 * pairs * HEADS * HEAD_DIM) / time;
                println!(
                    "{dtype:9} {chunk:3} of {positions:4}: {:8.3} ms {:4.0} GFLOP/s",
                    time * 1e3,
                    rate / 1e9
                );
            }
        }
    }
}

fn shared(ctx: &Context) {
    println!(
        "\nshared: 8 samples after a common prefix, time against the same with prefixes of their own"
    );
    for dtype in DTYPES {
        for (prefix, own) in [(2048, 256), (2048, 32), (512, 128)] {
            let block_size = dtype.default_block_size();
            let make = |shared| Work::new(ctx, dtype, block_size, (8, prefix + own), 1, shared);
            let (apart, together) = (make(0), make(prefix));
            let (apart, together) = (apart.best(ctx, 0.5), together.best(ctx, 0.5));
            println!(
                "{dtype:9} 8 x ({prefix} + {own:3}): {:.3} ms, apart {:.3} ms: {:.2}",
                together * 1e3,
                apart * 1e3,
                together / apart
            );
        }
    }
}

fn main() {
    let ctx = context();
    println!("{ctx:?}, reads {:.1} GB/s", measure::read_bandwidth(&ctx).expect("memory") / 1e9);
    let tables = std::env::var("FOLIO_TABLES").unwrap_or("decode,blocks,prefill,shared".into());
    for table in tables.split(',') {
        match table {
            "decode" => decode(&ctx, &[(1, 256), (1, 1024), (1, 16384), (8, 4096), (64, 1024)]),
            "tune" => decode(&ctx, &[(8, 4096)]),
            "blocks" => blocks(&ctx),
            "prefill" => prefill(&ctx),
            "shared" => shared(&ctx),
            other => panic!("no table {other:?}"),
        }
    }
}
