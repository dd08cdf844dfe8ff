//! Every family against the answers of Hugging Face transformers (float32, eager attention).

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::driver::{Driver, Job, Outcome, Setup, cpu_runner, open};

pub(crate) fn zoo(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/arch-zoo").join(family)
}

/// A folder of real models beside the project, where there is one.
pub(crate) fn shared(model: &str) -> Option<PathBuf> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/models").join(model);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: ../shared is absent");
    None
}

/// One prompt and its answers.
pub(crate) struct Case {
    pub(crate) prompt: Vec<u32>,
    pub(crate) prompt_logprobs: Vec<f64>,
    pub(crate) greedy: Vec<u32>,
    pub(crate) greedy_logprobs: Vec<f64>,
    pub top5: Vec<Vec<(u32, f64)>>,
    pub(crate) gaps: Vec<f64>,
}

pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let list = |v: &Value| v.as_array().unwrap().clone();
    let ids = |v: &Value| -> Vec<u32> {
        list(v).iter().map(|x| u32::try_from(x.as_u64().unwrap()).unwrap()).collect()
    };
    let floats = |v: &Value| -> Vec<f64> { list(v).iter().filter_map(Value::as_f64).collect() };
    list(&golden["cases"])
        .iter()
        .map(|case| Case {
            prompt: ids(&case["prompt_ids"]),
            prompt_logprobs: floats(&case["prompt_logprobs"]),
            greedy: ids(&case["greedy_ids"]),
            greedy_logprobs: floats(&case["greedy_logprobs"]),
            top5: list(&case["top5_first8"])
                .iter()
                .map(|step| {
                    let pair = |p: &Value| {
                        (u32::try_from(p[0].as_u64().unwrap()).unwrap(), p[1].as_f64().unwrap())
                    };
                    list(step).iter().map(pair).collect()
                })
                .collect(),
            gaps: floats(&case["top1_top2_gap"]),
        })
        .collect()
}

/// The largest deviation from the answers, and how many greedy ids were compared.
#[derive(Debug, Default)]
pub(crate) struct Deviation {
    pub(crate) logprob: f64,
    pub(crate) compared: usize,
    pub(crate) total: usize,
}

impl Deviation {
    fn see(&mut self, ours: f32, theirs: f64) {
        let difference = (f64::from(ours) - theirs).abs();
        assert!(!difference.is_nan());
        self.logprob = self.logprob.max(difference);
    }

    pub(crate) fn compare(&mut self, case: &Case, ours: &Outcome, tolerance: f64) {
        assert_eq!(ours.prompt_scores.len(), case.prompt_logprobs.len());
        for (score, &theirs) in ours.prompt_scores.iter().zip(&case.prompt_logprobs) {
            self.see(score.logprob, theirs);
        }
        self.total += case.greedy.len();
        for (step, drawn) in ours.drawn.iter().enumerate() {
            let score = drawn.score.as_ref().unwrap();
            // Near ties may order differently, so alternatives are compared by rank, and their ids where ranks are clear.
            for (rank, &(id, theirs)) in case.top5.get(step).into_iter().flatten().enumerate() {
                let (token, logprob) = score.top[rank];
                self.see(logprob, theirs);
                let clear = case.top5[step].iter().enumerate().all(|(other, &(_, logprob))| {
                    other == rank || (logprob - theirs).abs() > 2.0 * tolerance
                });
                // The fifth may trade places with a sixth that is not listed.
                assert!(token.0 == id || !clear || rank == 4, "step {step} rank {rank}");
            }
            if case.gaps[step] <= 2.0 * tolerance {
                break;
            }
            assert_eq!(drawn.token.0, case.greedy[step], "step {step}, gap {}", case.gaps[step]);
            self.see(score.logprob, case.greedy_logprobs[step]);
            self.compared += 1;
        }
    }
}

pub(crate) fn jobs(cases: &[Case]) -> Vec<Job> {
    cases.iter().map(|case| Job::greedy(&case.prompt, case.greedy.len())).collect()
}

fn check(folder: &Path, golden: &Path, setup: &Setup, tolerance: f64) -> Deviation {
    let (mut runner, plan) = cpu_runner(&open(folder), setup);
    let cases = cases(golden);
    let outcomes = Driver::new(&mut runner, &plan, 7).run(&jobs(&cases), setup);
    let mut deviation = Deviation::default();
    for (case, ours) in cases.iter().zip(&outcomes) {
        deviation.compare(case, ours, tolerance);
    }
    let name = folder.file_name().unwrap().to_string_lossy();
    println!(
        "{name}: largest deviation {:.1e}, {} of {} greedy ids compared",
        deviation.logprob, deviation.compared, deviation.total
    );
    assert!(deviation.logprob <= tolerance, "{name}: {deviation:?}");
    deviation
}

fn check_zoo(family: &str) {
    let folder = zoo(family);
    check(&folder, &folder, &Setup { together: 4, ..Setup::default() }, 1e-4);
}

pub(crate) fn variants() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/variants");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

#[test]
fn the_switches_that_the_zoo_leaves_alone() {
    assert_eq!(variants().len(), 10);
    for folder in variants() {
        check(&folder, &folder, &Setup { together: 3, ..Setup::default() }, 1e-4);
    }
}

macro_rules! families {
    ($($test:ident = $family:literal),* $(,)?) => {
        pub(crate) const ZOO: &[&str] = &[$($family),*];

        $(#[test] fn $test() { check_zoo($family); })*
    };
}

families! {
    gemma2 = "gemma2",
    gpt_neox = "gpt-neox",
    gpt2 = "gpt2",
    llama3 = "llama3-ropescaled",
    mistral = "mistral-swa16",
    opt = "opt",
    phi = "phi",
    phi3 = "phi3",
    qwen2 = "qwen2",
    qwen3 = "qwen3",
}

#[test]
fn trained_models_in_f32() {
    for model in ["stories260K-llama", "stories260K-mistral-swa48", "babyllama105-llama"] {
        let Some(folder) = shared(model) else { return };
        check(&folder, &folder, &Setup { together: 4, ..Setup::default() }, 1e-4);
    }
    let (Some(folder), Some(golden)) =
        (shared("stories260K-llama-sharded"), shared("stories260K-llama"))
    else {
        return;
    };
    check(&folder, &golden, &Setup::default(), 1e-4);
}
