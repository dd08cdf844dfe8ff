//! The CPU backend against the naive one: operation by operation on random shapes, then whole models at every width.

use std::path::Path;

use folio_kernels::{
    Activation, AttendSpec, BatchRow, Bits, CodeFormat, Epilogue, KvShape, Raw, Scaling,
};
use folio_model::backend::{Backend, Form, Linear, Norm, Role, Rotation, Step};
use folio_model::rope::RopeStyle;
use folio_model::spec::{NormKind, NormSpec};
use folio_model::weights::{Elements, LinearTensors, MatrixLayout, Stored as StoredAs, Tensor};
use folio_model::{Cpu, Dtype, Isa, KvDtype, MemoryPlan, Runner};
use proptest::prelude::*;

use crate::driver::{Driver, Job, Outcome, Random, Setup, cpu_runner, open, request};
use crate::golden::{ZOO, cases, shared, variants, zoo};
use crate::naive::{Naive, NaiveMatrix, Rows};
use crate::rounding::Activations;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Random numbers as a file would hold them.
struct Stored {
    dtype: Dtype,
    bytes: Vec<u8>,
    shape: Vec<usize>,
}

impl Stored {
    fn new(random: &mut Random, dtype: Dtype, shape: &[usize]) -> Self {
        let values = (0..shape.iter().product()).map(|_| random.float());
        let bytes = match dtype {
            Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Dtype::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::Bf16 => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        };
        Self { dtype, bytes, shape: shape.to_vec() }
    }

    fn tensor(&self) -> Tensor<'_> {
        let raw = Raw::new(self.dtype, &self.bytes);
        Tensor { file: "random", name: "random".to_owned(), elements: Elements::Floats(raw) }
    }
}

/// The same thing done on both backends.
struct Pair {
    cpu: Cpu,
    naive: Naive,
}

type Buffers = (<Cpu as Backend>::Buffer, Rows);

impl Pair {
    fn new(threads: usize) -> Self {
        Self { cpu: Cpu::new(threads, Isa::detect()).unwrap(), naive: Naive(Activations::Kernels) }
    }

    fn zeros(&self, rows: usize, width: usize) -> Buffers {
        (self.cpu.buffer(rows, width).unwrap(), self.naive.buffer(rows, width).unwrap())
    }

    fn random(&self, random: &mut Random, rows: usize, width: usize) -> Buffers {
        let stored = Stored::new(random, Dtype::F32, &[rows, width]);
        let (mut cpu, mut naive) = self.zeros(rows, width);
        let ids: Vec<u32> = (0..).take(rows).collect();
        let (ours, oracle) = self.tables(&stored, Dtype::F32);
        self.cpu.look_up(&ours, &ids, &mut cpu);
        self.naive.look_up(&oracle, &ids, &mut naive);
        (cpu, naive)
    }

    fn tables(&self, stored: &Stored, dtype: Dtype) -> (<Cpu as Backend>::Matrix, NaiveMatrix) {
        let (rows, inputs) = (stored.shape[0], stored.shape[1]);
        let parts = vec![(stored.tensor(), rows, 0..rows)];
        let tensors = LinearTensors { parts, inputs, transposed: false, bias: None };
        let kept = layout(&tensors, &[StoredAs::Floats(dtype)], Form::Plain);
        (self.cpu.matrix(&tensors, &kept).unwrap(), self.naive.matrix(&tensors, &kept).unwrap())
    }

    fn norms(&self, random: &mut Random, spec: NormSpec, width: usize) -> (Norm<Cpu>, Norm<Naive>) {
        let mut vector = || -> Vec<f32> { (0..width).map(|_| random.float()).collect() };
        let (weight, bias) = (vector(), vector());
        let biased = spec.kind == NormKind::Layer;
        (
            Norm::<Cpu> {
                spec,
                weight: self.cpu.vector(weight.clone()),
                bias: biased.then(|| bias.clone()),
            },
            Norm::<Naive> {
                spec,
                weight: self.naive.vector(weight),
                bias: biased.then(|| self.naive.vector(bias)),
            },
        )
    }
}

fn assert_close((cpu, naive): &Buffers, rows: usize, tolerance: f64) {
    for (number, theirs) in naive.0[..rows].iter().enumerate() {
        let ours = cpu.row(number);
        assert_eq!(ours.len(), theirs.len());
        let scale = theirs.iter().fold(1.0_f64, |most, v| most.max(v.abs()));
        for (column, (&a, &b)) in ours.iter().zip(theirs).enumerate() {
            let error = (f64::from(a) - b).abs() / scale;
            assert!(error <= tolerance, "row {number} column {column}: {a} and {b}");
        }
    }
}

/// Each part kept as asked.
fn layout(tensors: &LinearTensors<'_>, kept: &[StoredAs], form: Form) -> MatrixLayout {
    let mut layout = MatrixLayout::new(tensors, form);
    for ((_, stored), kept) in layout.parts.iter_mut().zip(kept) {
        *stored = *kept;
    }
    layout
}

fn rotation<B: Backend>(
    (heads, kv_heads, head_dim): (usize, usize, usize),
    dims: usize,
    style: RopeStyle,
    head_norms: Option<&(Norm<B>, Norm<B>)>,
) -> Rotation<'_, B> {
    Rotation { heads, kv_heads, head_dim, dims, style, head_norms }
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(DTYPES.to_vec())
}

/// How a matrix may be kept: as floats, or as codes in groups of which the last may be short.
fn kept() -> impl Strategy<Value = StoredAs> {
    let groups = prop::sample::select(vec![None, Some(8), Some(20), Some(32)]);
    let bits = prop::sample::select(vec![Bits::Four, Bits::Five, Bits::Six, Bits::Eight]);
    let codes = (bits, groups).prop_map(|(bits, group)| {
        let format = CodeFormat { bits, group, scaling: Scaling::Centred };
        StoredAs::Codes { format, name: "codes" }
    });
    prop_oneof![dtype().prop_map(StoredAs::Floats), codes]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn linear_layers(
        seed in 0..u64::MAX, rows in 1..40_usize, inputs in 1..90_usize, half in 1..50_usize,
        stored in dtype(), kept in [kept(), kept()], transposed: bool, biased: bool,
        threads in 1..3_usize,
    ) {
        let (random, pair) = (&mut Random(seed), Pair::new(threads));
        let outputs = 2 * half;
        // The matrix is the last rows of one tensor above the first of another.
        let taken = [(outputs + 3, 3..3 + half), (outputs, 0..half)];
        let tensors: Vec<_> = taken
            .iter()
            .map(|(all, _)| {
                let shape = if transposed { [inputs, *all] } else { [*all, inputs] };
                Stored::new(random, stored, &shape)
            })
            .collect();
        let parts = tensors.iter().zip(&taken).map(|(t, (all, r))| (t.tensor(), *all, r.clone()));
        let tensors = LinearTensors { parts: parts.collect(), inputs, transposed, bias: None };
        let bias: Option<Vec<f32>> = biased.then(|| (0..outputs).map(|_| random.float()).collect());
        let x = pair.random(random, rows, inputs);
        let epilogues = [
            Epilogue::Store,
            Epilogue::Add,
            Epilogue::Activate(Activation::Gelu),
            Epilogue::Activate(Activation::Relu),
            Epilogue::Gated(Activation::Silu),
            Epilogue::Gated(Activation::GeluTanh),
        ];
        for epilogue in epilogues {
            let gated = matches!(epilogue, Epilogue::Gated(_));
            let form = if gated { Form::Gated } else { Form::Plain };
            let mut out = pair.random(random, rows, if gated { half } else { outputs });
            let layout = layout(&tensors, &kept, form);
            let cpu = Linear::<Cpu> {
                role: Role::Up,
                matrix: pair.cpu.matrix(&tensors, &layout).unwrap(),
                bias: bias.clone(),
            };
            assert_eq!(Some(cpu.matrix.bytes().len()), layout.packed_bytes());
            let naive = Linear::<Naive> {
                role: Role::Up,
                matrix: pair.naive.matrix(&tensors, &layout).unwrap(),
                bias: bias.clone().map(|b| pair.naive.vector(b)),
            };
            pair.cpu.linear(&cpu, epilogue, rows, &x.0, &mut out.0);
            pair.naive.linear(&naive, epilogue, rows, &x.1, &mut out.1);
            assert_close(&out, rows, 1e-5);
        }
    }

    #[test]
    fn norms_and_rows(
        seed in 0..u64::MAX, rows in 1..30_usize, width in 2..200_usize,
        kind in prop::sample::select(vec![NormKind::Rms, NormKind::RmsUnitOffset, NormKind::Layer]),
        kept in dtype(),
    ) {
        let (random, pair) = (&mut Random(seed), Pair::new(1));
        let norm = pair.norms(random, NormSpec { kind, epsilon: 1e-5 }, width);
        let x = pair.random(random, rows, width);
        let mut out = pair.zeros(rows, width);
        pair.cpu.norm(&norm.0, rows, &x.0, &mut out.0);
        pair.naive.norm(&norm.1, rows, &x.1, &mut out.1);
        assert_close(&out, rows, 1e-5);
        pair.cpu.norm_add(&norm.0, rows, &x.0, &mut out.0);
        pair.naive.norm_add(&norm.1, rows, &x.1, &mut out.1);
        assert_close(&out, rows, 1e-5);

        let table = Stored::new(random, Dtype::F32, &[17, width]);
        let ids: Vec<u32> = (0..rows).map(|_| u32::try_from(random.below(17)).unwrap()).collect();
        let mut work = pair.zeros(rows, width);
        let (cpu, naive) = pair.tables(&table, kept);
        pair.cpu.add_rows(&cpu, &ids, &mut work.0, &mut out.0);
        pair.naive.add_rows(&naive, &ids, &mut work.1, &mut out.1);
        pair.cpu.scale(0.7, rows, &mut out.0);
        pair.naive.scale(0.7, rows, &mut out.1);
        pair.cpu.soft_cap(1.5, rows, &mut out.0);
        pair.naive.soft_cap(1.5, rows, &mut out.1);
        assert_close(&out, rows, 1e-5);

        let picks: Vec<usize> = (0..rows).map(|_| random.below(rows)).collect();
        pair.cpu.pick(&picks, &out.0, &mut work.0);
        pair.naive.pick(&picks, &out.1, &mut work.1);
        assert_close(&work, rows, 1e-5);
    }

    #[test]
    fn rotation_cache_and_attention(
        seed in 0..u64::MAX, kv_heads in 1..4_usize, group in 1..4_usize, octets in 1..5_usize,
        block_size in 1..20_usize, head_normed: bool, threads in 1..3_usize,
        window in prop::option::of(1..30_usize), softcap in prop::option::of(0.5..50.0_f32),
        rotated in 0..3_usize, interleaved: bool,
        kept in prop::sample::select(KvDtype::ALL.to_vec()),
    ) {
        let style = if interleaved { RopeStyle::Interleaved } else { RopeStyle::Half };
        let (random, pair) = (&mut Random(seed), Pair::new(threads));
        let (heads, head_dim) = (kv_heads * group, 8 * octets);
        let dims = [0, head_dim / 2, head_dim][rotated];
        let spec = AttendSpec { heads, scale: 0.3, window, softcap };
        let shape = KvShape { layers: 2, kv_heads, head_dim, blocks: 160, block_size, dtype: kept };
        let mut caches = (pair.cpu.cache(shape).unwrap(), pair.naive.cache(shape).unwrap());
        let head_norm = NormSpec { kind: NormKind::Rms, epsilon: 1e-6 };
        let queries = pair.norms(random, head_norm, head_dim);
        let keys = pair.norms(random, head_norm, head_dim);
        let norms = ((queries.0, keys.0), (queries.1, keys.1));
        let (width, total) = (heads * head_dim, (heads + 2 * kv_heads) * head_dim);
        let mut free: Vec<u32> = (0..160).collect();
        random.shuffle(&mut free);
        let tables: Vec<Vec<u32>> =
            (0..3).map(|_| free.split_off(free.len() - 50_usize.div_ceil(block_size))).collect();
        let mut done = [0; 3];
        for layer_turn in 0..4 {
            let step = ragged_step(random, &tables, &mut done, dims);
            let (rows, layer) = (step.tokens.len(), layer_turn % 2);
            let mut qkv = pair.random(random, rows, total);
            let mut out = pair.zeros(rows, width);
            // Both layers get every step, so that the past is there.
            for layer in [1 - layer, layer] {
                let mut copy = pair.random(random, rows, total);
                std::mem::swap(&mut copy, &mut qkv);
                let base = (heads, kv_heads, head_dim);
                let turned = rotation(base, dims, style, head_normed.then_some(&norms.0));
                pair.cpu.rotate_and_store(&turned, &step, layer, &mut qkv.0, &mut caches.0);
                let turned = rotation(base, dims, style, head_normed.then_some(&norms.1));
                pair.naive.rotate_and_store(&turned, &step, layer, &mut qkv.1, &mut caches.1);
            }
            pair.cpu.attend(&spec, &step, layer, &qkv.0, &caches.0, &mut out.0);
            pair.naive.attend(&spec, &step, layer, &qkv.1, &caches.1, &mut out.1);
            // Where keys are computed first, those near the middle of two 16-bit numbers may round either way.
            let computed = dims > 0 || head_normed;
            let tolerance = match kept {
                KvDtype::F16 if computed => 2e-3,
                KvDtype::Bf16 if computed => 1.5e-2,
                KvDtype::Int8 if computed => 3e-2,
                _ => 2e-5,
            };
            assert_close(&out, rows, tolerance);
        }
    }
}

/// The next few tokens of each of three sequences.
fn ragged_step(random: &mut Random, tables: &[Vec<u32>], done: &mut [usize], dims: usize) -> Step {
    let mut step = Step::default();
    for (table, done) in tables.iter().zip(done) {
        let (start, count) = (*done, 1 + random.below(12));
        *done += count;
        let tokens = step.tokens.len()..step.tokens.len() + count;
        let blocks = step.blocks.len()..step.blocks.len() + table.len();
        step.tokens.extend(std::iter::repeat_n(0, count));
        step.positions.extend((u32::try_from(start).unwrap()..).take(count));
        step.blocks.extend(table);
        step.sequences.push(BatchRow { start, tokens, blocks });
    }
    step.position_rows.extend((0..).take(step.tokens.len()));
    for _ in 0..step.tokens.len() * dims / 2 {
        let angle = 7.0 * random.float();
        step.cos.push(angle.cos());
        step.sin.push(angle.sin());
    }
    step
}

/// What the kernels and the oracle make of the same jobs.
fn both(folder: &Path, setup: &Setup, jobs: &[Job]) -> [Vec<Outcome>; 2] {
    let checkpoint = open(folder);
    let (mut runner, plan) = cpu_runner(&checkpoint, setup);
    let ours = Driver::new(&mut runner, &plan, 3).run(jobs, setup);
    let plan = MemoryPlan::compute(&checkpoint, &request(setup)).unwrap();
    let mut naive =
        Runner::load(Naive(Activations::Kernels), &checkpoint, &plan, &mut |_| {}).unwrap();
    [ours, Driver::new(&mut naive, &plan, 4).run(jobs, setup)]
}

/// That the kernels give prompts the oracle's log-probabilities where activations are rounded, too.
///
/// The oracle rounds by the same rule, but what it rounds differs in the last bits of f32, so that a number near the middle of
/// two steps may go the other way: one in some ten thousand. It moves the rest of its prompt, and no other.
pub(crate) fn assert_rounded_alike(name: &str, folder: &Path, setup: &Setup, jobs: &[Job]) {
    let [ours, theirs] = both(folder, setup, jobs);
    let largest = |(ours, theirs): (&Outcome, &Outcome)| {
        let pairs = ours.prompt_scores.iter().zip(&theirs.prompt_scores);
        pairs.map(|(a, b)| (a.logprob - b.logprob).abs()).fold(0.0, f32::max)
    };
    let mut largest: Vec<f32> = ours.iter().zip(&theirs).map(largest).collect();
    largest.sort_by(f32::total_cmp);
    let (most, of_most) = (largest[jobs.len() - 1], largest[jobs.len() * 3 / 4]);
    println!(
        "{name}: {of_most:.1e} from the oracle in three quarters of the prompts, {most:.1e} in all"
    );
    assert!(of_most < 1e-5 && most < 0.05, "{name}: {largest:?}");
}

/// Prompts of two or three tokens.
pub(crate) fn short_prompts(vocab: usize) -> Vec<Job> {
    let random = &mut Random(17);
    let mut prompt = |length| (0..length).map(|_| random.below(vocab) as u32).collect::<Vec<_>>();
    (0..16).map(|number| Job::greedy(&prompt(2 + number % 2), 1)).collect()
}

/// The largest deviation of log-probabilities, at every prompt token and the top five of greedy steps.
fn deviation(folder: &Path, setup: &Setup, jobs: &[Job]) -> f64 {
    let [ours, theirs] = both(folder, setup, jobs);
    let mut most = 0.0_f64;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.ids(), theirs.ids());
        let ours = ours.prompt_scores.iter().chain(ours.drawn.iter().flat_map(|d| &d.score));
        let theirs = theirs.prompt_scores.iter().chain(theirs.drawn.iter().flat_map(|d| &d.score));
        for (ours, theirs) in ours.zip(theirs) {
            let tops = ours.top.iter().zip(&theirs.top).map(|(a, b)| (a.1, b.1));
            for (a, b) in tops.chain([(ours.logprob, theirs.logprob)]) {
                most = most.max(f64::from((a - b).abs()));
            }
        }
    }
    most
}

#[test]
fn whole_models_at_every_width() {
    let folders = ZOO.iter().map(|family| zoo(family)).chain(variants());
    for (number, folder) in folders.enumerate() {
        let prompt: Vec<u32> = (0..25).map(|i| (i * 31 + 5) % 96).collect();
        for dtype in DTYPES {
            let setup = Setup {
                dtype: Some(dtype),
                kv_dtype: Some(KvDtype::F32),
                block_size: 1 + number,
                chunk: 9,
                ..Setup::default()
            };
            let name = folder.file_name().unwrap().to_string_lossy();
            if dtype == Dtype::Bf16 {
                let jobs = [short_prompts(96), vec![Job::greedy(&prompt, 1)]].concat();
                assert_rounded_alike(&format!("{name} in {dtype}"), &folder, &setup, &jobs);
            } else {
                let most = deviation(&folder, &setup, &[Job::greedy(&prompt, 3)]);
                assert!(most < 1e-4, "{name} in {dtype}: {most}");
            }
        }
    }
}

/// How far rounding to sixteen bits moves a trained model, and that nothing else moves it.
///
/// Rounded weights alone move log-probabilities further than the tolerance for f32, so the oracle runs on the same
/// rounded weights. Of keys and values rounded after they are computed, and of activations beside bf16, those near the middle of two
/// numbers may go either way, which is a part of the rounding's own effect (up to 8e-3 for f16, 4e-2 for bf16 on these cases).
#[test]
fn trained_models_in_sixteen_bits() {
    for (model, dtype) in
        [("stories260K-llama-bf16", Dtype::Bf16), ("stories260K-llama-f16", Dtype::F16)]
    {
        let (Some(folder), Some(golden)) = (shared(model), shared("stories260K-llama")) else {
            return;
        };
        assert_eq!(open(&folder).stored_dtype(), dtype);
        let cases = cases(&golden);
        let jobs: Vec<_> = cases.iter().take(3).map(|case| Job::greedy(&case.prompt, 8)).collect();
        for (kv_dtype, tolerance) in [(KvDtype::F32, 1e-4), (dtype.into(), 1e-2)] {
            let setup = Setup { kv_dtype: Some(kv_dtype), ..Setup::default() };
            let what = format!("{model}, keys and values in {kv_dtype}");
            if dtype == Dtype::Bf16 {
                assert_rounded_alike(&what, &folder, &setup, &short_prompts(512));
            } else {
                let rounded = deviation(&folder, &setup, &jobs);
                println!("{what}: {rounded:.1e} from the oracle on the same rounded numbers");
                assert!(rounded < tolerance);
            }
            let (mut runner, plan) = cpu_runner(&open(&folder), &setup);
            let outcomes = Driver::new(&mut runner, &plan, 3).run(&jobs, &setup);
            let scores = cases.iter().zip(&outcomes).flat_map(|(case, ours)| {
                let ours = ours.prompt_scores.iter().map(|score| f64::from(score.logprob));
                ours.zip(&case.prompt_logprobs).map(|(a, b)| (a - b).abs())
            });
            let rounding = scores.fold(0.0_f64, f64::max);
            println!("{what}: {rounding:.1e} from the f32 model");
            assert!(rounding < 0.1, "{what}: {rounding}");
        }
    }
}

/// How far keys and values in int8 move log-probabilities from those with keys and values in f32. Trained weights where they are
/// at hand; they forgive less than random ones.
#[test]
fn keys_and_values_in_int8_move_little() {
    let prompt: Vec<u32> = (0..200).map(|i| (i * 31 + 5) % 96).collect();
    let folders =
        [Some(zoo("llama3-ropescaled")), Some(zoo("gemma2")), shared("stories260K-llama")];
    for folder in folders.into_iter().flatten() {
        let checkpoint = open(&folder);
        let scores = |kv_dtype| {
            let setup = Setup { kv_dtype: Some(kv_dtype), chunk: 60, ..Setup::default() };
            let (mut runner, plan) = cpu_runner(&checkpoint, &setup);
            let outcome = Driver::new(&mut runner, &plan, 3)
                .run(&[Job::greedy(&prompt, 1)], &setup)
                .pop()
                .unwrap();
            outcome.prompt_scores.iter().map(|score| f64::from(score.logprob)).collect::<Vec<_>>()
        };
        let (exact, int8) = (scores(KvDtype::F32), scores(KvDtype::Int8));
        let differences = exact.iter().zip(&int8).map(|(a, b)| (a - b).abs());
        let most = differences.clone().fold(0.0, f64::max);
        let mean = differences.sum::<f64>() / f64::from(u32::try_from(exact.len()).unwrap());
        let name = folder.file_name().unwrap().to_string_lossy();
        println!("{name}: log-probabilities move by {mean:.1e} in the mean, {most:.1e} at most");
        assert!(mean > 0.0 && mean < 0.02 && most < 0.3, "{name}: {mean:.1e}, {most:.1e}");
    }
}
