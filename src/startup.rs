//! From settings to a running engine, with everything a user sees meanwhile: progress, the memory plan, refusals.
#![allow(clippy::print_stderr, reason = "what a user sees at start is what this file is for")]

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use anyhow::{Context, Result};
use folio_core::ids::Token;
use folio_core::kv::{Config, Manager};
use folio_core::schedule::{Limits, Scheduler};
use folio_engine::{EngineConfig, EngineThread, Handle};
use folio_model::{Checkpoint, GenerationDefaults, LoadOptions, MemoryPlan};
use folio_text::{ChatTemplate, Tokenizer, TokenizerConfig};
use indicatif::{ProgressBar, ProgressStyle};

use crate::settings::Settings;

/// Longest text that is tokenised, in bytes; far more than any context holds.
pub(crate) const MOST_PROMPT_BYTES: usize = 8 << 20;

/// A model that is being served, and what is known of it.
pub(crate) struct Running {
    pub(crate) engine: Handle,
    pub(crate) thread: EngineThread,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) name: String,
    pub(crate) eos: Vec<Token>,
    pub(crate) defaults: GenerationDefaults,
    pub(crate) plan: MemoryPlan,
}

/// Opens, plans, loads and starts. `verbose` prints the plan to standard error.
pub(crate) fn start(settings: &Settings, verbose: bool) -> Result<Running> {
    let began = Instant::now();
    let checkpoint = Checkpoint::open(&settings.source).context("cannot serve this model")?;
    let (tokenizer, template) = texts(&checkpoint)?;
    let plan = MemoryPlan::compute(&checkpoint, &settings.memory)?;
    if verbose {
        eprint!("{}", plan_table(&checkpoint.name(), &plan, settings));
    }
    let executor = load(&checkpoint, &plan, settings)?;
    let memory = Manager::new(Config {
        block_size: number(plan.block_size)?,
        capacity: number(plan.blocks)?,
        prefix_caching: settings.prefix_caching,
        secret: RandomState::new().hash_one("prefix cache"),
    })?;
    let limits = Limits {
        max_model_len: number(plan.max_model_len)?,
        max_num_seqs: number(plan.max_num_seqs)?,
        max_num_batched_tokens: number(plan.max_num_batched_tokens)?,
        // The engine counts waiting and running requests together.
        max_queued: number(plan.max_num_seqs)?.saturating_add(settings.max_queued),
        vocab: number(checkpoint.spec().vocab)?,
    };
    let scheduler = Scheduler::new(limits, memory);
    let (engine, thread) = folio_engine::start(scheduler, executor, EngineConfig::default())
        .context("cannot start the engine's thread")?;
    if verbose {
        eprintln!("ready after {:.2} s", began.elapsed().as_secs_f64());
    }
    Ok(Running {
        engine,
        thread,
        tokenizer,
        template,
        name: checkpoint.name(),
        eos: checkpoint.eos().to_vec(),
        defaults: checkpoint.generation_defaults(),
        plan,
    })
}

fn number(value: usize) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("{value} is more than this engine can count"))
}

/// The tokenizer, and the chat template if the model has one.
fn texts(checkpoint: &Checkpoint) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let json = checkpoint.read_file("tokenizer.json")?.context(
        "tokenizer.json is missing; save the model's tokenizer with Hugging Face's `save_pretrained`, \
         which writes it",
    )?;
    let tokenizer = Tokenizer::from_json(&json, MOST_PROMPT_BYTES)?;
    let separate = checkpoint.read_file("chat_template.jinja")?;
    let config = checkpoint.read_file("tokenizer_config.json")?;
    let config = config.as_deref().unwrap_or(b"{}");
    let config = TokenizerConfig::from_json(config, separate.as_deref())?;
    let source = config.chat_template(false);
    let template = source.map(|source| ChatTemplate::compile(source, config.tokens.clone()));
    Ok((tokenizer, template.transpose().context("the model's chat template")?))
}

fn load(
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    settings: &Settings,
) -> Result<Box<dyn folio_core::exec::Executor>> {
    let style =
        ProgressStyle::with_template("loading weights {bar:32} {bytes}/{total_bytes}  {eta}")?;
    let bar = ProgressBar::new(plan.weight_bytes).with_style(style);
    let options = LoadOptions { isa: settings.isa };
    let executor = folio_model::load(checkpoint, plan, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    executor.context("cannot load the weights")
}

/// Where the memory goes, as a table.
fn plan_table(name: &str, plan: &MemoryPlan, settings: &Settings) -> String {
    let mut out = String::new();
    let dtype = plan.dtype.name();
    let _ = writeln!(out, "{name}: {dtype}, {} threads, {}", plan.threads, settings.isa.name());
    let mut row = |what: &str, bytes: u64, note: String| {
        let _ = writeln!(out, "  {what:<12} {:>10}  {note}", size(bytes));
    };
    row("weights", plan.weight_bytes, dtype.to_owned());
    let steps = format!(
        "steps of up to {} tokens, {} sequences",
        plan.max_num_batched_tokens, plan.max_num_seqs
    );
    row("activations", plan.activation_bytes + plan.workspace_bytes, steps);
    let cache = format!(
        "{}: {} blocks of {} tokens = {} tokens",
        plan.kv_dtype.name(),
        plan.blocks,
        plan.block_size,
        plan.tokens()
    );
    row("KV cache", plan.kv_bytes(), cache);
    let full = format!(
        "of {} free; {} sequences of the full context of {} tokens fit",
        size(settings.memory.available_bytes),
        plan.full_context_sequences(),
        plan.max_model_len
    );
    row("total", plan.total_bytes(), full);
    out
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
}
