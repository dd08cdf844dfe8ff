//! How much memory sharing saves, as the paper defines it (§6.3): blocks saved ÷ blocks without sharing, by a real model.
//!
//! ```text
//! cargo run --release -p folio-model --example sharing -- MODEL NAME=LENGTHS.csv[:PROMPT[:OUTPUT]]...
//! ```
//!
//! `PROMPT` and `OUTPUT` name the columns of a file of lengths; without `OUTPUT` they are drawn from an exponential
//! distribution with mean 338. Prompts are the model's own text. Requests run 48 sequences at a time, as many tokens as the
//! file says, whatever the model would rather do. Every eighth step the scheduler's report is added up. Prints a Markdown table.

#![allow(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program that prints a table, and draws lengths"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use folio_core::exec::{Executor, StepOutput};
use folio_core::ids::{Salt, Tick, Token};
use folio_core::kv::{Config, Manager};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Limits, Scheduler};
use folio_model::{Checkpoint, Cpu, Isa, MemoryPlan, MemoryRequest, ModelSource, Runner};
use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn Error>>;

const CONTEXT: u32 = 2048;
const BLOCK: u32 = 16;
const SEQUENCES: u32 = 48;
/// Sequences to generate in each run, all requests together.
const WORK: u32 = 480;
const MEAN_OUTPUT: f64 = 338.0;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let model =
        arguments.next().ok_or("a model folder, then NAME=LENGTHS.csv:PROMPT[:OUTPUT]...")?;
    let folder = longer_context(Path::new(&model))?;
    let checkpoint = Checkpoint::open(&ModelSource::Folder(folder.clone()))?;
    let vocab = u32::try_from(checkpoint.spec().vocab)?;
    let mut bench = Bench { checkpoint, vocab, text: Vec::new() };
    bench.text = bench.write_text()?;
    println!("| lengths (mean prompt, output) | decoding | 2 | 4 | 6 |\n|---|---|---|---|---|");
    for argument in arguments {
        let (name, file) = argument.split_once('=').ok_or("NAME=LENGTHS.csv:PROMPT[:OUTPUT]")?;
        let lengths = lengths(file)?;
        let mean = |of: fn(&(u32, u32)) -> u32| {
            lengths.iter().map(|l| f64::from(of(l))).sum::<f64>() / lengths.len() as f64
        };
        let facts = format!("{name} ({:.0}, {:.0})", mean(|l| l.0), mean(|l| l.1));
        for beams in [false, true] {
            let mut row = String::new();
            for width in [2, 4, 6] {
                row += &format!(" {:.1} % |", 100.0 * bench.saved(&lengths, width, beams)?);
            }
            println!("| {facts} | {} |{row}", if beams { "beam width" } else { "parallel n" });
        }
    }
    fs::remove_dir_all(folder)?;
    Ok(())
}

struct Bench {
    checkpoint: Checkpoint,
    vocab: u32,
    /// The model's own text, from which prompts are cut.
    text: Vec<Token>,
}

impl Bench {
    fn load(&self, capacity: u32) -> Outcome<(Runner<Cpu>, Scheduler<Manager>)> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let bytes_of_a_block = |plan: &MemoryPlan| plan.kv_bytes_per_block;
        let mut request = MemoryRequest {
            dtype: None,
            quantization: None,
            kv_dtype: None,
            block_size: Some(BLOCK as usize),
            kv_cache_memory_bytes: None,
            available_bytes: 4 << 30,
            max_model_len: None,
            max_num_seqs: SEQUENCES as usize,
            max_num_batched_tokens: 512,
            threads,
            swap: None,
            pinned_prefixes: &[],
        };
        let plan = MemoryPlan::compute(&self.checkpoint, &request)?;
        request.kv_cache_memory_bytes = Some(bytes_of_a_block(&plan) * u64::from(capacity));
        let plan = MemoryPlan::compute(&self.checkpoint, &request)?;
        let cpu = Cpu::new(threads, Isa::detect())?;
        let runner = Runner::load(cpu, &self.checkpoint, &plan, &mut |_| {})?;
        let memory =
            Manager::new(Config { block_size: BLOCK, capacity, prefix_caching: false, secret: 1 })?;
        let limits = Limits {
            max_model_len: CONTEXT,
            max_num_seqs: SEQUENCES,
            max_num_batched_tokens: 512,
            max_queued: u32::MAX,
            vocab: self.vocab,
        };
        Ok((runner, Scheduler::new(limits, memory)))
    }

    fn job(&self, prompt: Vec<Token>, output: u32, width: u32, beams: bool) -> Outcome<Job> {
        let asked = Requested {
            n: Some(i64::from(width)),
            use_beam_search: beams,
            max_tokens: Some(i64::from(output)),
            ignore_eos: true,
            seed: Some(i64::try_from(prompt.len())?),
            ..Requested::default()
        };
        let limits = ParamLimits { max_n: SEQUENCES, ..ParamLimits::plain(self.vocab, Vec::new()) };
        let params = Params::parse(&asked, &limits, 0).map_err(|bad| bad.problem)?;
        Ok(Job::new(prompt, params, Salt(0)))
    }

    /// Forty samples of the model, one after the other.
    fn write_text(&self) -> Outcome<Vec<Token>> {
        let (mut runner, mut scheduler) = self.load(4096)?;
        for first in 0..40 {
            scheduler.submit(self.job(vec![Token(first % self.vocab)], 400, 1, false)?, Tick(0))?;
        }
        let mut text = Vec::new();
        run(&mut scheduler, &mut runner, |_, out| {
            text.extend(out.draws.iter().flatten().map(|drawn| drawn.token));
        })?;
        Ok(text)
    }

    /// Blocks saved by sharing ÷ blocks without sharing, over all reports.
    fn saved(&self, lengths: &[(u32, u32)], width: u32, beams: bool) -> Outcome<f64> {
        let (mut runner, mut scheduler) = self.load(SEQUENCES * CONTEXT / BLOCK)?;
        let requests = lengths.iter().cycle().take((WORK / width) as usize);
        for (number, &(prompt, output)) in requests.enumerate() {
            let from = number * 97 % (self.text.len() - CONTEXT as usize);
            let prompt = self.text[from..from + prompt as usize].to_vec();
            scheduler.submit(self.job(prompt, output, width, beams)?, Tick(0))?;
        }
        let (mut steps, mut saved, mut held) = (0_u64, 0, 0);
        run(&mut scheduler, &mut runner, |scheduler, _| {
            steps += 1;
            if steps.is_multiple_of(8) {
                let report = scheduler.inspect();
                saved += report.saved.samples + report.saved.beams;
                held += report.stats.held;
            }
        })?;
        Ok(saved as f64 / (held as f64).max(1.0))
    }
}

/// Steps until everybody has ended; `see` looks at each.
fn run(
    scheduler: &mut Scheduler<Manager>,
    runner: &mut Runner<Cpu>,
    mut see: impl FnMut(&Scheduler<Manager>, &StepOutput),
) -> Outcome<()> {
    let (mut plan, mut out, mut events) = (StepPlan::default(), StepOutput::default(), Vec::new());
    while !scheduler.is_idle() {
        scheduler.schedule(Tick(0), &mut plan);
        out.clear();
        runner.execute(&plan, &mut out)?;
        scheduler.commit(&plan, &out, Tick(0), &mut events);
        events.clear();
        see(scheduler, &out);
    }
    Ok(())
}

/// A copy of the model that may go on for [`CONTEXT`] tokens.
fn longer_context(model: &Path) -> Outcome<PathBuf> {
    let folder = std::env::temp_dir().join(format!("folio-sharing-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(model)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    let config = folder.join("config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&config)?)?;
    settings["max_position_embeddings"] = CONTEXT.into();
    fs::write(&config, settings.to_string())?;
    Ok(folder)
}

/// Prompt and output lengths from `FILE:PROMPT[:OUTPUT]`, in the order of the file.
fn lengths(source: &str) -> Outcome<Vec<(u32, u32)>> {
    let mut parts = source.split(':');
    let (file, prompt, output) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
    let column = |name: &str| header.iter().position(|&column| column == name);
    let prompt = column(prompt.unwrap_or("prompt_tokens")).ok_or("no such column of prompts")?;
    let output = output.map(|name| column(name).ok_or("no such column of outputs")).transpose()?;
    let mut state = 1_u64;
    let mut found = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let field =
            |at: usize| -> Outcome<u32> { Ok(fields.get(at).ok_or("a short line")?.parse()?) };
        let output = match output {
            Some(at) => field(at)?,
            None => exponential(&mut state),
        };
        let (prompt, output) = (field(prompt)?.max(1), output.max(1));
        if prompt + output <= CONTEXT {
            found.push((prompt, output));
        }
    }
    Ok(found)
}

/// A length with mean [`MEAN_OUTPUT`], the same in every run.
fn exponential(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let uniform = ((*state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    (-MEAN_OUTPUT * uniform.ln()).ceil() as u32
}
