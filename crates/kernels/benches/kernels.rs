//! How fast linear layers and paged attention are, against what this machine can do in the same run.
//!
//! `cargo bench -p folio-kernels` measures with criterion (throughput in bytes of weights or KV per second for what memory
//! bounds, in floating-point operations per second for what arithmetic bounds). First a table of best times is printed, with
//! the share of the measured read bandwidth; best times are what a busy machine can be judged by. Threads: `FOLIO_THREADS`, 2
//! unless set; instruction set: `FOLIO_ISA`.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_kernels::{
    AttendSpec, Batch, BatchRow, Context, Dtype, Epilogue, Isa, KvCache, KvShape, PackedMatrix,
    Raw, View, attend, linear,
};

const OUTPUTS: usize = 16384;
const INPUTS: usize = 2048;
const ROWS: [usize; 6] = [1, 4, 8, 16, 64, 256];
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;

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

/// Best of many runs, in seconds.
fn best(runs: usize, mut f: impl FnMut(usize)) -> f64 {
    let time = |i| {
        let begun = Instant::now();
        f(i);
        begun.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

/// Bytes per second that all threads read together from memory, in eight streams each.
fn read_bandwidth(ctx: &Context) -> f64 {
    let data = vec![1u64; 32 << 20];
    let threads = ctx.team().threads();
    let seconds = best(40, |_| {
        ctx.team().run(|thread| {
            let share = &data[thread * (data.len() / threads)..][..data.len() / threads];
            let streams: Vec<&[u64]> = share.chunks_exact(share.len() / 8).collect();
            let mut sums = [0u64; 8];
            for i in (0..streams[0].len()).step_by(8) {
                for (sum, stream) in sums.iter_mut().zip(&streams) {
                    *sum = stream[i..i + 8].iter().fold(*sum, |a, b| a.wrapping_add(*b));
                }
            }
            std::hint::black_box(sums);
        });
    });
    as_f64(data.len() * 8) / seconds
}

#[expect(clippy::cast_precision_loss, reason = "sizes for a table of three digits")]
fn as_f64(n: usize) -> f64 {
    n as f64
}

/// Two matrices, used in turn so that none stays in a cache.
fn matrices(ctx: &Context, dtype: Dtype) -> [PackedMatrix; 2] {
    let weights = numbers(OUTPUTS * INPUTS);
    std::array::from_fn(|_| {
        let mut builder = PackedMatrix::builder(dtype, OUTPUTS, INPUTS).expect("memory");
        builder.fill(ctx, 0, Raw::from_f32(&weights));
        builder.finish()
    })
}

/// A cache with `sequences` of `positions` each, and the batch of their next tokens.
struct Decode {
    cache: KvCache,
    rows: Vec<BatchRow>,
    blocks: Vec<u32>,
    q: Vec<f32>,
    spec: AttendSpec,
}

impl Decode {
    fn new(
        ctx: &Context,
        dtype: Dtype,
        block_size: usize,
        sequences: usize,
        positions: usize,
    ) -> Self {
        let each = positions.div_ceil(block_size);
        let blocks = sequences * each;
        let shape = KvShape {
            layers: 1,
            blocks,
            block_size,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            dtype,
        };
        let mut cache = KvCache::new(shape).expect("memory");
        // A fixed odd stride scatters the blocks of a sequence.
        let scattered = |i: usize| u32::try_from(i * 7919 % blocks).expect("few blocks");
        let table: Vec<u32> = (0..blocks).map(scattered).collect();
        let width = KV_HEADS * HEAD_DIM;
        let row =
            |i: usize, start, tokens| BatchRow { start, tokens, blocks: i * each..(i + 1) * each };
        let kv = numbers(positions * width);
        for i in 0..sequences {
            let rows = [row(i, 0, 0..positions)];
            let view = View::dense(&kv, width);
            cache.store(ctx, 0, &Batch { rows: &rows, blocks: &table }, view, view);
        }
        let rows = (0..sequences).map(|i| row(i, positions - 1, i..i + 1)).collect();
        let spec =
            AttendSpec { heads: HEADS, scale: 0.125, window: None, softcap: None, alibi: None };
        Self { cache, rows, blocks: table, q: numbers(sequences * HEADS * HEAD_DIM), spec }
    }

    fn run(&self, ctx: &Context, out: &mut [f32]) {
        let batch = Batch { rows: &self.rows, blocks: &self.blocks };
        let q = View::dense(&self.q, HEADS * HEAD_DIM);
        attend(ctx, &self.spec, &self.cache, 0, &batch, q, out);
    }
}

/// KV type, block size, sequences, positions.
const DECODES: [(Dtype, usize, usize, usize); 5] = [
    (Dtype::F32, 16, 1, 16384),
    (Dtype::Bf16, 32, 1, 1024),
    (Dtype::Bf16, 32, 1, 16384),
    (Dtype::Bf16, 16, 8, 4096),
    (Dtype::F16, 32, 64, 1024),
];

fn bench_linear(c: &mut Criterion) {
    let ctx = context();
    let bandwidth = read_bandwidth(&ctx);
    println!("{ctx:?}, reads {:.1} GB/s", bandwidth / 1e9);
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    for dtype in [Dtype::Bf16, Dtype::F32] {
        let matrices = matrices(&ctx, dtype);
        for rows in ROWS {
            let x = numbers(rows * INPUTS);
            let mut y = vec![0.0; rows * OUTPUTS];
            let mut run =
                |i: usize| linear(&ctx, &x, &matrices[i % 2], None, Epilogue::Store, &mut y);
            let seconds = best((400 / rows).clamp(6, 60), &mut run);
            let (bytes, operations) =
                (as_f64(matrices[0].bytes()), as_f64(2 * rows * INPUTS * OUTPUTS));
            println!(
                "{dtype} {OUTPUTS} x {INPUTS}, {rows} rows: {:.2} ms, {:.1} GB/s ({:.0} % of reading), {:.0} GFLOP/s",
                seconds * 1e3,
                bytes / seconds / 1e9,
                bytes / seconds / bandwidth * 100.0,
                operations / seconds / 1e9
            );
            let work = if rows <= 4 { matrices[0].bytes() } else { 2 * rows * INPUTS * OUTPUTS };
            let work = u64::try_from(work).expect("a size");
            group.throughput(if rows <= 4 {
                Throughput::Bytes(work)
            } else {
                Throughput::Elements(work)
            });
            let mut i = 0;
            group.bench_function(BenchmarkId::new(dtype.name(), rows), |b| {
                b.iter(|| {
                    i += 1;
                    run(i);
                });
            });
        }
    }
}

fn bench_attend(c: &mut Criterion) {
    let ctx = context();
    let bandwidth = read_bandwidth(&ctx);
    println!("{ctx:?}, reads {:.1} GB/s", bandwidth / 1e9);
    let mut group = c.benchmark_group("attend");
    group.sample_size(10);
    for (dtype, block_size, sequences, positions) in DECODES {
        let decode = Decode::new(&ctx, dtype, block_size, sequences, positions);
        let mut out = vec![0.0; sequences * HEADS * HEAD_DIM];
        let bytes = 2 * sequences * positions * KV_HEADS * HEAD_DIM * dtype.bytes();
        let seconds = best(40, |_| decode.run(&ctx, &mut out));
        let rate = as_f64(bytes) / seconds;
        println!(
            "{dtype} blocks of {block_size}, {sequences} x {positions}: {:.2} ms, {:.1} GB/s ({:.0} % of reading)",
            seconds * 1e3,
            rate / 1e9,
            rate / bandwidth * 100.0
        );
        group.throughput(Throughput::Bytes(u64::try_from(bytes).expect("a size")));
        let name = format!("{sequences}x{positions}/blocks-of-{block_size}");
        group.bench_function(BenchmarkId::new(dtype.name(), name), |b| {
            b.iter(|| decode.run(&ctx, &mut out));
        });
    }
}

criterion_group!(benches, bench_linear, bench_attend);
criterion_main!(benches);
