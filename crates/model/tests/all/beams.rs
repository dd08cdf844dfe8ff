//! Beam search, by the scheduler over a real model, against Hugging Face's `generate(num_beams=…)`: ids, order and scores.
//!
//! `tests/beams` holds searches in which ends fall inside; the golden files of the models hold some that run to the length.

use std::path::{Path, PathBuf};

use folio_core::event::EventKind;
use folio_core::exec::{Executor, StepOutput};
use folio_core::ids::{Salt, Tick, Token};
use folio_core::kv::{Config, Manager};
use folio_core::params::{EarlyStopping, ParamLimits, Params, Requested};
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Limits, Scheduler};
use folio_model::{Cpu, MemoryPlan, Runner};
use serde_json::Value;

use crate::driver::{Setup, cpu_runner, open};
use crate::golden::{shared, zoo};

/// How far a score may be from Hugging Face's, which computes in another order.
const TOLERANCE: f64 = 1e-3;

struct Search {
    runner: Runner<Cpu>,
    plan: MemoryPlan,
    vocab: u32,
}

#[derive(Debug, PartialEq)]
struct Found {
    ids: Vec<u32>,
    score: f64,
}

impl Search {
    fn new(folder: &Path) -> Self {
        let checkpoint = open(folder);
        let setup = Setup { block_size: 4, ..Setup::default() };
        let (runner, plan) = cpu_runner(&checkpoint, &setup);
        Self { runner, plan, vocab: u32::try_from(checkpoint.spec().vocab).unwrap() }
    }

    /// The job of a golden entry.
    fn job(&self, prompt: &Value, entry: &Value, eos: &[u32]) -> Job {
        let asked = Requested {
            n: Some(entry["sequences"].as_array().unwrap().len() as i64),
            use_beam_search: true,
            beam_width: entry["num_beams"].as_i64(),
            length_penalty: entry["length_penalty"].as_f64(),
            early_stopping: Some(match &entry["early_stopping"] {
                Value::Bool(false) => EarlyStopping::Heuristic,
                Value::Bool(true) => EarlyStopping::AtOnce,
                _ => EarlyStopping::Never,
            }),
            max_tokens: entry["max_new_tokens"].as_i64(),
            ..Requested::default()
        };
        let limits = ParamLimits {
            vocab: self.vocab,
            max_n: 16,
            max_logprobs: 5,
            max_logit_bias: 0,
            max_stop_token_ids: 0,
            eos: eos.iter().copied().map(Token).collect(),
        };
        let prompt = ids(prompt).into_iter().map(Token).collect();
        Job::new(prompt, Params::parse(&asked, &limits, 0).unwrap(), Salt(0))
    }

    /// Runs one request and returns its choices and how many steps it took.
    fn run(&mut self, job: Job) -> (Vec<Found>, usize) {
        let MemoryPlan { block_size, blocks, max_model_len, .. } = self.plan;
        let memory = Manager::new(Config {
            block_size: u32::try_from(block_size).unwrap(),
            capacity: u32::try_from(blocks).unwrap(),
            prefix_caching: true,
            secret: 1,
        });
        let limits = Limits {
            max_model_len: u32::try_from(max_model_len).unwrap(),
            max_num_seqs: 16,
            max_num_batched_tokens: 512,
            max_queued: 1,
            vocab: self.vocab,
        };
        let width = u64::from(job.params.width());
        let mut scheduler = Scheduler::new(limits, memory.unwrap());
        scheduler.submit(job, Tick(0)).unwrap();
        let (mut plan, mut out) = (StepPlan::default(), StepOutput::default());
        let (mut events, mut steps) = (Vec::new(), 0);
        while !scheduler.is_idle() {
            scheduler.schedule(Tick(0), &mut plan);
            assert!(plan.ops.len() as u64 <= width, "a beam step copies at most a block per beam");
            assert!(steps == 0 || plan.tokens.len() == plan.rows.len(), "nothing is recomputed");
            out.clear();
            self.runner.execute(&plan, &mut out).unwrap();
            scheduler.commit(&plan, &out, Tick(0), &mut events);
            scheduler.check().unwrap();
            steps += 1;
        }
        assert_eq!(scheduler.stats().kv.used, 0);
        let mut found = Vec::new();
        for event in events {
            match event.kind {
                EventKind::Ranked { scores } => {
                    found.extend(scores.iter().map(|&score| Found { ids: Vec::new(), score }));
                }
                EventKind::Sampled { choice, drawn, .. } => {
                    found[choice as usize].ids.push(drawn.token.0);
                }
                _ => {}
            }
        }
        (found, steps)
    }

    fn compare(&mut self, what: &str, prompt: &Value, entry: &Value, eos: &[u32]) {
        let (found, steps) = self.run(self.job(prompt, entry, eos));
        let wanted = entry["sequences"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len(), "{what}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert_eq!(found.ids, ids(&wanted["ids"]), "{what}: {entry}");
            let score = wanted["score"].as_f64().unwrap();
            let tolerance = TOLERANCE * score.abs().max(1.0);
            assert!((found.score - score).abs() <= tolerance, "{what}: {} {score}", found.score);
        }
        if let Some(wanted) = entry["steps"].as_u64() {
            assert_eq!(steps as u64, wanted, "{what}: the search stops when theirs does");
        }
    }
}

fn ids(list: &Value) -> Vec<u32> {
    let list = list.as_array().unwrap().iter();
    list.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn searches_with_ends_inside_find_what_hugging_face_finds() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/beams/beams.json");
    let mut entries = 0;
    for model in read(&file)["models"].as_array().unwrap() {
        let name = model["model"].as_str().unwrap();
        let mut search = Search::new(&zoo(name));
        for prompt in model["prompts"].as_array().unwrap() {
            for entry in prompt["entries"].as_array().unwrap() {
                search.compare(name, &prompt["prompt_ids"], entry, &ids(&entry["eos"]));
                entries += 1;
            }
        }
    }
    assert_eq!(entries, 208);
}

/// All entries of a golden file.
fn compare_file(folder: &Path, file: &str) -> usize {
    let mut search = Search::new(folder);
    let eos = match &read(&folder.join("config.json"))["eos_token_id"] {
        Value::Null => Vec::new(),
        Value::Array(_) => ids(&read(&folder.join("config.json"))["eos_token_id"]),
        one => vec![u32::try_from(one.as_u64().unwrap()).unwrap()],
    };
    let golden = read(&folder.join(file));
    let mut entries = 0;
    for case in golden["cases"].as_array().unwrap() {
        for entry in case["beam"].as_array().into_iter().flatten() {
            let mut entry = entry.clone();
            if entry["max_new_tokens"].is_null() {
                entry["max_new_tokens"] = golden["max_new_tokens"].clone();
            }
            search.compare(&folder.display().to_string(), &case["prompt_ids"], &entry, &eos);
            entries += 1;
        }
    }
    entries
}

#[test]
fn every_family_searches_as_hugging_face_does() {
    let families = std::fs::read_dir(zoo("")).unwrap().map(|entry| entry.unwrap().path());
    let served = |folder: &PathBuf| folder.file_name().is_some_and(|name| name != "mixtral");
    let entries: usize = families.filter(served).map(|f| compare_file(&f, "golden.json")).sum();
    assert!(entries >= 50, "{entries}");
}

#[test]
fn trained_models_search_as_hugging_face_does() {
    for (model, file) in [
        ("stories260K-llama", "golden.json"),
        ("stories260K-mistral-swa48", "golden.json"),
        ("stories260K-llama-eosdot", "golden_beam.json"),
        ("babyllama105-llama", "golden.json"),
    ] {
        let Some(folder) = shared(model) else { return };
        assert!(compare_file(&folder, file) > 0);
    }
}
