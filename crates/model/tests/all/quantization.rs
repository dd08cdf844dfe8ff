//! `--quantization`: how far each kind moves a trained model, that the kernels compute what the rule says, and what it costs.

use folio_model::{KvDtype, MemoryPlan, Quantization};

use crate::driver::{Driver, Job, Setup, cpu_runner, open, request};
use crate::golden::{cases, shared, zoo};
use crate::oracle::{assert_rounded_alike, short_prompts};

const KINDS: [(Quantization, &str); 4] = [
    (Quantization::Int8, "int8"),
    (Quantization::Int4 { group: 32 }, "int4-g32"),
    (Quantization::Int4 { group: 64 }, "int4-g64"),
    (Quantization::Int4 { group: 128 }, "int4"),
];

/// The mean and the largest difference of prompt log-probabilities from the float model's.
fn drift(model: &std::path::Path, quantization: Quantization) -> (f64, f64) {
    let cases = cases(model);
    let jobs: Vec<_> = cases.iter().map(|case| Job::greedy(&case.prompt, 1)).collect();
    let setup = Setup { quantization: Some(quantization), together: 4, ..Setup::default() };
    let (mut runner, plan) = cpu_runner(&open(model), &setup);
    let outcomes = Driver::new(&mut runner, &plan, 3).run(&jobs, &setup);
    let differences = cases.iter().zip(&outcomes).flat_map(|(case, ours)| {
        let ours = ours.prompt_scores.iter().map(|score| f64::from(score.logprob));
        ours.zip(&case.prompt_logprobs).map(|(a, b)| (a - b).abs())
    });
    let differences: Vec<f64> = differences.collect();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    (mean, differences.into_iter().fold(0.0, f64::max))
}

#[test]
fn trained_models_drift_within_bounds() {
    for model in ["stories260K-llama", "babyllama105-llama"] {
        let Some(folder) = shared(model) else { return };
        let bounds = [0.05, 0.5, 0.6, 0.7];
        for ((quantization, name), bound) in KINDS.into_iter().zip(bounds) {
            let (mean, most) = drift(&folder, quantization);
            println!(
                "{model} {name}: log-probabilities move by {mean:.4} on average, {most:.3} at most"
            );
            assert!(mean < bound, "{model} {name}: {mean}");
        }
    }
}

/// Every family, so also transposed, fused and tied matrices.
#[test]
fn kernels_compute_what_the_rule_says() {
    let long: Vec<u32> = (0..20).map(|i| (i * 31 + 5) % 96).collect();
    let jobs = [short_prompts(96), vec![Job::greedy(&long, 1)]].concat();
    for family in ["gemma2", "gpt2", "gpt-neox", "phi3", "qwen2"] {
        for (quantization, name) in [KINDS[0], KINDS[1]] {
            let setup = Setup {
                quantization: Some(quantization),
                kv_dtype: Some(KvDtype::F32),
                ..Setup::default()
            };
            assert_rounded_alike(&format!("{family} {name}"), &zoo(family), &setup, &jobs);
        }
    }
}

#[test]
fn the_plan_counts_and_names_what_is_kept() {
    let checkpoint = open(&zoo("qwen2"));
    let plan = |quantization| {
        let setup = Setup { quantization, ..Setup::default() };
        MemoryPlan::compute(&checkpoint, &request(&setup)).unwrap()
    };
    let floats = plan(None);
    assert_eq!(floats.weights, "float32");
    let int8 = plan(Some(Quantization::Int8));
    let int4 = plan(Some(Quantization::Int4 { group: 64 }));
    assert_eq!((int8.weights.as_str(), int4.weights.as_str()), ("int8", "int4-g64 + int6"));
    assert!(int8.weight_bytes * 3 < floats.weight_bytes);
    assert!(int4.weight_bytes < int8.weight_bytes);
}
