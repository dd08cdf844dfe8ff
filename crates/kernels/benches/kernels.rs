//! How fast linear layers are, against what this machine can do in the same run.
//!
//! `cargo bench -p folio-kernels` measures with criterion (throughput in bytes of weights per second for what memory
//! bounds, in operations per second for what arithmetic bounds). First a table of best times is printed, with the share of the
//! read bandwidth, or of the peak of arithmetic in registers, measured just before; best times are what a busy machine can be judged by.
//! Threads: `FOLIO_THREADS`, 2 unless set; instruction set: `FOLIO_ISA`; formats of weights: `FOLIO_FORMATS`, all unless
//! set; `FOLIO_TABLES=1` prints the tables only.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use folio_kernels::{
    Bits, CodeFormat, CodeRow, CodeSource, Context, Dtype, Epilogue, Isa, PackedMatrix, Raw,
    SUPERBLOCK, Scaling, Segment, WeightFormat, linear, measure,
};
use half::f16;

const OUTPUTS: usize = 16384;
const INPUTS: usize = 2048;
const ROWS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 256, 512];

fn context() -> Context {
    let isa = std::env::var("FOLIO_ISA")
        .map_or_else(|_| Isa::detect(), |name| Isa::from_name(&name).expect("FOLIO_ISA"));
    let threads = std::env::var("FOLIO_THREADS").map_or(2, |n| n.parse().expect("FOLIO_THREADS"));
    Context::new(threads, isa).expect("threads")
}

/// Whether criterion is left out: `FOLIO_TABLES=1`.
fn tables_only() -> bool {
    std::env::var_os("FOLIO_TABLES").is_some()
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

#[expect(clippy::cast_precision_loss, reason = "sizes for a table of three digits")]
fn as_f64(n: usize) -> f64 {
    n as f64
}

/// Formats and their names.
fn formats() -> Vec<(&'static str, WeightFormat)> {
    let codes = |bits, group, scaling| WeightFormat::Codes(CodeFormat { bits, group, scaling });
    vec![
        ("f32", WeightFormat::Float(Dtype::F32)),
        ("f16", WeightFormat::Float(Dtype::F16)),
        ("bf16", WeightFormat::Float(Dtype::Bf16)),
        ("int8", codes(Bits::Eight, None, Scaling::Centred)),
        ("int8-g128", codes(Bits::Eight, Some(128), Scaling::Centred)),
        ("int8-g32", codes(Bits::Eight, Some(32), Scaling::Centred)),
        ("int4-g128", codes(Bits::Four, Some(128), Scaling::Centred)),
        ("int4-g128-zeros", codes(Bits::Four, Some(128), Scaling::Zeros)),
        ("int4-g32", codes(Bits::Four, Some(32), Scaling::Centred)),
        ("q4k", codes(Bits::Four, Some(32), Scaling::NestedMinima)),
        ("q5k", codes(Bits::Five, Some(32), Scaling::NestedMinima)),
        ("q6k", codes(Bits::Six, Some(16), Scaling::NestedCentred)),
    ]
}

/// Weights whose values do not matter: floats of a small range, codes of any.
struct Any(CodeFormat);

impl CodeSource for Any {
    fn format(&self) -> CodeFormat {
        self.0
    }
    fn outputs(&self) -> usize {
        OUTPUTS
    }
    fn inputs(&self) -> usize {
        INPUTS
    }
    fn read(&self, _first: usize, rows: &mut [CodeRow]) {
        let groups = INPUTS.div_ceil(self.0.group.unwrap_or(INPUTS));
        let scaling = self.0.scaling;
        let nested = matches!(scaling, Scaling::NestedCentred | Scaling::NestedMinima);
        let minima = matches!(scaling, Scaling::Minima | Scaling::NestedMinima);
        let outer = if nested { INPUTS.div_ceil(SUPERBLOCK) } else { groups };
        let count = |there: bool, count: usize| if there { count } else { 0 };
        for row in rows {
            row.codes = vec![9; INPUTS];
            row.scales = vec![f16::from_f32_const(0.01); outer];
            row.minima = vec![f16::from_f32_const(0.1); count(minima, outer)];
            row.zeros = vec![8; count(scaling == Scaling::Zeros, groups)];
            row.group_scales = vec![3; count(nested, groups)];
            row.group_minima = vec![2; count(nested && minima, groups)];
        }
    }
}

/// Two matrices, used in turn so that none stays in a cache.
fn matrices(ctx: &Context, format: WeightFormat) -> [PackedMatrix; 2] {
    let segment = Segment { format, outputs: OUTPUTS };
    std::array::from_fn(|_| {
        let mut builder = PackedMatrix::builder(&[segment], INPUTS).expect("memory");
        match format {
            WeightFormat::Float(_) => {
                builder.fill(ctx, 0, Raw::from_f32(&numbers(OUTPUTS * INPUTS)));
            }
            WeightFormat::Codes(codes) => builder.fill_codes(ctx, 0, &Any(codes), 0..OUTPUTS),
        }
        builder.finish()
    })
}

/// What the machine can do, measured now.
struct Limits {
    bandwidth: f64,
    f32_peak: f64,
    bf16_peak: f64,
    int8_peak: f64,
}

impl Limits {
    fn new(ctx: &Context) -> Self {
        let limits = Self {
            bandwidth: measure::read_bandwidth(ctx).expect("memory"),
            f32_peak: measure::f32_peak(ctx),
            bf16_peak: measure::bf16_peak(ctx),
            int8_peak: measure::int8_peak(ctx),
        };
        println!(
            "{ctx:?}: reads {:.1} GB/s, {:.0} GFLOP/s of f32, {:.0} of bf16, {:.0} GOP/s of int8 in registers",
            limits.bandwidth / 1e9,
            limits.f32_peak / 1e9,
            limits.bf16_peak / 1e9,
            limits.int8_peak / 1e9
        );
        limits
    }
}

fn bench_linear(c: &mut Criterion) {
    let ctx = context();
    let limits = Limits::new(&ctx);
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    let wanted = std::env::var("FOLIO_FORMATS").unwrap_or_default();
    let wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    for (name, format) in formats().into_iter().filter(|(name, _)| wanted(name)) {
        let matrices = matrices(&ctx, format);
        for rows in ROWS {
            let x = numbers(rows * INPUTS);
            let mut y = vec![0.0; rows * OUTPUTS];
            let mut run =
                |i: usize| linear(&ctx, &x, &matrices[i % 2], None, Epilogue::Store, &mut y);
            let seconds = best((400 / rows).clamp(6, 60), &mut run);
            let (bytes, operations) = (matrices[0].bytes().len(), 2 * rows * INPUTS * OUTPUTS);
            let peak = match format {
                WeightFormat::Float(Dtype::Bf16) => limits.bf16_peak,
                WeightFormat::Float(_) => limits.f32_peak,
                WeightFormat::Codes(_) => limits.int8_peak,
            };
            println!(
                "{name:16} {rows:4} rows: {:7.3} ms, {:6.1} GB/s ({:3.0} % of reading), {:6.0} GOP/s ({:3.0} % of peak)",
                seconds * 1e3,
                as_f64(bytes) / seconds / 1e9,
                as_f64(bytes) / seconds / limits.bandwidth * 100.0,
                as_f64(operations) / seconds / 1e9,
                as_f64(operations) / seconds / peak * 100.0
            );
            if tables_only() {
                continue;
            }
            let work = |n: usize| u64::try_from(n).expect("a size");
            group.throughput(if rows <= 4 {
                Throughput::Bytes(work(bytes))
            } else {
                Throughput::Elements(work(operations))
            });
            let mut i = 0;
            group.bench_function(BenchmarkId::new(name, rows), |b| {
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
