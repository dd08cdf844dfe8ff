//! llama.cpp's own answers to GGUF files, and that what lies between them and ours is how each rounds activations.
//!
//! A rounding that falls the other way changes what is rounded after it, so two computations that agree to the last bits of f32 but
//! one end as far from each other as any two that round: by some hundredths with eight bits, by thousandths with sixteen. A mistake
//! that is smaller cannot be seen in any one answer; it would show in the mean distance from the model that rounds nothing.

use std::path::Path;

use folio_core::exec::Score;
use folio_model::{Checkpoint, KvDtype, MemoryPlan, Runner};
use serde_json::Value as Json;

use crate::driver::{Driver, Job, Outcome, Setup, cpu_runner, open, request};
use crate::golden::shared;
use crate::naive::Naive;
use crate::rounding::Activations;

/// One prompt and what llama.cpp made of it.
struct Case {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    top5: Vec<Vec<(u32, f64)>>,
}

fn cases(file: &Path) -> Vec<Case> {
    let golden: Json = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let id = |v: &Json| u32::try_from(v.as_u64().unwrap()).unwrap();
    let list = |v: &Json| v.as_array().unwrap().clone();
    let pair = |v: &Json| (id(&v[0]), v[1].as_f64().unwrap());
    list(&golden["cases"])
        .iter()
        .map(|case| Case {
            prompt: list(&case["prompt_ids"]).iter().map(id).collect(),
            ids: list(&case["ids"]).iter().map(id).collect(),
            top5: list(&case["top5"])
                .iter()
                .map(|step| list(step).iter().map(pair).collect())
                .collect(),
        })
        .collect()
}

/// llama.cpp's models and their answers.
fn models(folder: &Path) -> Vec<(String, &'static str, Checkpoint, Vec<Case>)> {
    let mut found = Vec::new();
    for model in ["stories260K", "babyllama105", "babyllama361"] {
        for kind in ["F32", "F16", "Q8_0", "Q4_0"] {
            let golden = folder.join(format!("{model}.{kind}.llamacpp_golden.json"));
            if golden.is_file() {
                let checkpoint = open(&folder.join(format!("{model}.{kind}.gguf")));
                found.push((model.to_owned(), kind, checkpoint, cases(&golden)));
            }
        }
    }
    assert_eq!(found.len(), 7);
    found
}

/// As llama.cpp keeps keys and values.
fn setup() -> Setup {
    Setup { kv_dtype: Some(KvDtype::F16), together: 4, ..Setup::default() }
}

fn ours(checkpoint: &Checkpoint, jobs: &[Job]) -> Vec<Outcome> {
    let (mut runner, plan) = cpu_runner(checkpoint, &setup());
    Driver::new(&mut runner, &plan, 5).run(jobs, &setup())
}

fn oracle(activations: Activations, checkpoint: &Checkpoint, jobs: &[Job]) -> Vec<Outcome> {
    let plan = MemoryPlan::compute(checkpoint, &request(&setup())).unwrap();
    let mut runner = Runner::load(Naive(activations), checkpoint, &plan, &mut |_| {}).unwrap();
    Driver::new(&mut runner, &plan, 4).run(jobs, &setup())
}

/// Scores of llama.cpp's first so many tokens.
fn forced(cases: &[Case], steps: usize) -> Vec<Job> {
    let job = |case: &Case| Job::greedy(&[&case.prompt, &case.ids[..steps]].concat(), 1);
    cases.iter().map(job).collect()
}

fn of_its_tokens<'a>(case: &Case, outcome: &'a Outcome) -> &'a [Score] {
    &outcome.prompt_scores[case.prompt.len() - 1..]
}

fn root_mean_square(differences: impl Iterator<Item = f64>) -> f64 {
    let squares: Vec<f64> = differences.map(|x| x * x).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// Every token of llama.cpp's is our best one, or one as good; its log-probability is ours; and we are no further than llama.cpp
/// from the model that rounds nothing.
#[test]
fn llama_cpp_agrees() {
    let Some(folder) = shared("gguf") else { return };
    for (model, kind, checkpoint, cases) in models(&folder) {
        let (all, written) = (cases[0].ids.len(), cases[0].top5.len());
        let ours = ours(&checkpoint, &forced(&cases, all));
        let exact = oracle(Activations::Exact, &checkpoint, &forced(&cases, written));
        let tolerance = match kind {
            "F32" | "F16" => 0.015,
            "Q8_0" => 0.15,
            _ => 0.25,
        };
        let mut triples = Vec::new();
        for ((case, ours), exact) in cases.iter().zip(&ours).zip(&exact) {
            let ours = of_its_tokens(case, ours);
            for (step, score) in ours.iter().enumerate() {
                let behind = f64::from(score.top[0].1 - score.logprob);
                assert!(behind <= tolerance, "{model} {kind}: step {step}, {behind} behind");
            }
            let theirs = case.top5.iter().map(|top| top[0].1);
            let ours = ours.iter().map(|score| f64::from(score.logprob));
            let exact = of_its_tokens(case, exact).iter().map(|score| f64::from(score.logprob));
            triples.extend(theirs.zip(ours).zip(exact).map(|((a, b), c)| (a, b, c)));
        }
        let most =
            triples.iter().map(|(theirs, ours, _)| (theirs - ours).abs()).fold(0.0, f64::max);
        let apart = root_mean_square(triples.iter().map(|(theirs, ours, _)| theirs - ours));
        let our_error = root_mean_square(triples.iter().map(|(_, ours, exact)| ours - exact));
        let their_error = root_mean_square(triples.iter().map(|(theirs, _, exact)| theirs - exact));
        println!(
            "{model} {kind}: {most:.1e} from llama.cpp at most and {apart:.1e} on average; \
             {our_error:.1e} from the model that rounds nothing, llama.cpp {their_error:.1e}"
        );
        assert!(most <= tolerance, "{model} {kind}: {most}");
        assert!(our_error <= 1.25 * their_error, "{model} {kind}: {our_error}, {their_error}");
    }
}

/// How many prompts' next tokens have the log-probabilities that llama.cpp wrote down.
fn reproduced(cases: &[Case], outcomes: &[Outcome]) -> usize {
    let same = |(case, outcome): &(&Case, &Outcome)| {
        let top = &outcome.drawn[0].score.as_ref().unwrap().top;
        let likely = case.top5[0].iter().filter(|(_, logprob)| *logprob > -4.6);
        let ours = |id: u32| top.iter().find(|(token, _)| token.0 == id);
        likely.copied().all(|(id, theirs)| {
            ours(id).is_some_and(|(_, ours)| (f64::from(*ours) - theirs).abs() < 2e-5)
        })
    };
    cases.iter().zip(outcomes).filter(same).count()
}

/// The files mean what we take them for: on the weights as we read them, llama.cpp's rounding gives its answers to the last
/// digit, in prompts so short that no rounding falls the other way. No other rounding does.
#[test]
fn its_rounding_gives_its_answers() {
    let Some(folder) = shared("gguf") else { return };
    for (model, kind, checkpoint, cases) in models(&folder) {
        // What this model is sure of is the same however it is rounded in the others.
        if model != "stories260K" || kind.starts_with('F') {
            continue;
        }
        let jobs: Vec<_> = cases.iter().map(|case| Job::greedy(&case.prompt, 1)).collect();
        let count = |how| reproduced(&cases, &oracle(how, &checkpoint, &jobs));
        let counts = [Activations::LlamaCpp, Activations::Kernels, Activations::Exact].map(count);
        println!("{model} {kind}: {counts:?} of {} reproduced to the last digit", cases.len());
        assert!(counts[0] >= 3 && counts[1..] == [0, 0], "{model} {kind}: {counts:?}");
    }
}
