//! How fast linear layers are, against what this machine can do in the same run.
//!
//! `cargo bench -p folio-kernels` measures with criterion (throughput in bytes of weights per second for what memory
//! bounds, in floating-point operations per second for what arithmetic bounds). First a table of best times is printed, with
//! the share of the measured read bandwidth; best times are what a busy machine can be judged by. Threads: `FOLIO_THREADS`, 2
//! unless set; instruction set: `FOLIO_ISA`.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_kernels::{Context, Dtype, Epilogue, Isa, PackedMatrix, Raw, linear};

const OUTPUTS: usize = 16384;
const INPUTS: usize = 2048;
const ROWS: [usize; 6] = [1, 4, 8, 16, 64, 256];

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

criterion_group!(benches, bench_linear);
criterion_main!(benches);
