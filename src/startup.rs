//! From settings to a running engine, with everything a user sees meanwhile: progress, the memory plan, refusals.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use anyhow::{Context, Result};
use folio_core::exec::Executor;
use folio_core::ids::Token;
use folio_core::kv::{Config, KvMemory, Manager};
use folio_core::params::GenerationDefaults;
use folio_core::schedule::{Limits, Scheduler};
use folio_engine::{EngineConfig, EngineThread, Handle, Observer};
use folio_model::block_size::{self, Lengths, Trial};
use folio_model::file_names;
use folio_model::step_tokens;
use folio_model::swap::SwapRates;
use folio_model::{
    Checkpoint, Isa, LoadOptions, MemoryPlan, MemoryRequest, ModelSpec, Profile, SwapStore,
};
use folio_sim::memory::{Memory, Policy};
use folio_text::{ChatTemplate, Tokenizer, TokenizerConfig};
use indicatif::{ProgressBar, ProgressStyle};

use crate::log::say;
use crate::pins::Pins;
use crate::settings::Settings;
use crate::tables;

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
    pub(crate) spec: ModelSpec,
    pub(crate) isa: Isa,
    pub(crate) plan: MemoryPlan,
}

/// Opens, plans, loads and starts. `verbose` prints the plan to standard error.
pub(crate) fn start(settings: &Settings, verbose: bool) -> Result<Running> {
    start_observed(settings, verbose, None, ())
}

/// Like [`start`], with an executor whose operations are timed to `profile`, if there is one, and an engine that tells
/// `observer` how far each step has come.
pub(crate) fn start_observed(
    settings: &Settings,
    verbose: bool,
    profile: Option<Profile>,
    observer: impl Observer,
) -> Result<Running> {
    let began = Instant::now();
    let checkpoint = Checkpoint::open(&settings.source)
        .with_context(|| format!("cannot serve {}", settings.called()))?;
    let name = settings.name.clone().unwrap_or_else(|| checkpoint.name());
    let (tokenizer, template) = texts(&checkpoint)?;
    let mut pins = Pins::read(&settings.pin_prefix, &tokenizer)?;
    let lengths = pins.lengths();
    let mut request = MemoryRequest { pinned_prefixes: &lengths, ..settings.memory };
    if let Some(expected) = &settings.expected {
        request.block_size = choose_block_size(&checkpoint, settings, expected, verbose)?;
    }
    if settings.choose_step_tokens {
        request.max_num_batched_tokens = choose_step_tokens(&checkpoint, settings)?;
    }
    let plan = MemoryPlan::compute(&checkpoint, &request)?;
    pins.cut(plan.block_size)?;
    let (swap, rates) = swap_store(&plan, settings)?.unzip();
    if verbose {
        let plan = tables::plan(&name, &plan, settings, swap.as_ref().zip(rates));
        say!("{}", plan.trim_end());
    }
    let options = LoadOptions { isa: settings.isa, swap, profile };
    let executor = load(&checkpoint, &plan, options)?;
    let (engine, thread) = start_engine(&checkpoint, &plan, settings, executor, observer)?;
    pins.compute(&engine)?;
    if verbose {
        say!("ready after {:.2} s", began.elapsed().as_secs_f64());
    }
    Ok(Running {
        engine,
        thread,
        tokenizer,
        template,
        name,
        eos: checkpoint.eos().to_vec(),
        defaults: checkpoint.generation_defaults(),
        spec: checkpoint.spec().clone(),
        isa: settings.isa,
        plan,
    })
}

/// Measures the machine, chooses, and says why.
fn choose_block_size(
    checkpoint: &Checkpoint,
    settings: &Settings,
    expected: &[Lengths],
    verbose: bool,
) -> Result<Option<usize>> {
    let memory = &settings.memory;
    let trial = Trial {
        spec: checkpoint.spec(),
        kv_dtype: memory.kv_dtype(checkpoint.stored_dtype()),
        threads: memory.threads,
        isa: settings.isa,
        context: block_size::mean_context(expected),
    };
    let (candidates, chosen) = block_size::choose(&trial.run()?, expected);
    if verbose {
        say!("{}", tables::block_sizes(&candidates, chosen, expected).trim_end());
    }
    Ok(chosen)
}

/// Measures the machine and chooses.
fn choose_step_tokens(checkpoint: &Checkpoint, settings: &Settings) -> Result<usize> {
    let memory = &settings.memory;
    let trial = step_tokens::Trial {
        spec: checkpoint.spec(),
        format: checkpoint.layer_format(memory.dtype, memory.quantization),
        threads: memory.threads,
        isa: settings.isa,
    };
    Ok(step_tokens::choose(trial.run()?, memory.max_num_seqs))
}

/// The swap space of the plan, if it has one, and how fast it is.
fn swap_store(plan: &MemoryPlan, settings: &Settings) -> Result<Option<(SwapStore, SwapRates)>> {
    if plan.swap_slots == 0 {
        return Ok(None);
    }
    let block_bytes = usize::try_from(plan.kv_bytes_per_block)?;
    let mut store = match &settings.swap_dir {
        None => SwapStore::host(plan.swap_slots, block_bytes),
        Some(folder) => {
            SwapStore::file(folder, plan.swap_slots, block_bytes).with_context(|| {
                format!(
                    "--swap-dir {}: cannot make a swap file of {} bytes; use another folder or a smaller --swap-space",
                    folder.display(),
                    plan.swap_bytes
                )
            })?
        }
    };
    let rates = store.measure().context("the swap space does not work")?;
    Ok(Some((store, rates)))
}

/// Starts the engine's thread over memory of the policy in question.
fn start_engine(
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    settings: &Settings,
    executor: Box<dyn Executor>,
    observer: impl Observer,
) -> Result<(Handle, EngineThread)> {
    let memory = Config {
        block_size: number(plan.block_size)?,
        capacity: number(plan.blocks)?,
        prefix_caching: settings.prefix_caching,
        secret: RandomState::new().hash_one("prefix cache"),
    };
    let swap_slots = number(plan.swap_slots)?;
    let engine = EngineConfig::default();
    let started = match settings.kv_policy {
        Policy::Paged => {
            let mut memory = Manager::new(memory)?.with_swap_space(swap_slots);
            if observer.wants_changes() {
                memory = memory.with_changes();
            }
            let scheduler = scheduler(checkpoint, plan, settings, memory)?;
            folio_engine::start_observed(scheduler, executor, engine, observer)
        }
        policy => {
            let memory = Memory::new(policy, memory, swap_slots, number(plan.max_model_len)?)?;
            let scheduler = scheduler(checkpoint, plan, settings, memory)?;
            folio_engine::start_observed(scheduler, executor, engine, observer)
        }
    };
    started.context("cannot start the engine's thread")
}

fn scheduler<M: KvMemory>(
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    settings: &Settings,
    memory: M,
) -> Result<Scheduler<M>> {
    let limits = Limits {
        max_model_len: number(plan.max_model_len)?,
        max_num_seqs: number(plan.max_num_seqs)?,
        max_num_batched_tokens: number(plan.max_num_batched_tokens)?,
        // The engine counts waiting and running requests together.
        max_queued: number(plan.max_num_seqs)?.saturating_add(settings.max_queued),
        vocab: number(checkpoint.spec().vocab)?,
    };
    Ok(Scheduler::new(limits, memory)
        .with_preemption(settings.preemption)
        .with_reserved_blocks(number(plan.pinned_blocks)?))
}

fn number(value: usize) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("{value} is more than this engine can count"))
}

/// The tokenizer, and the chat template if the model has one.
fn texts(checkpoint: &Checkpoint) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    if let Some(metadata) = checkpoint.metadata() {
        return crate::vocabulary::texts(metadata);
    }
    let json = checkpoint.read_file(file_names::TOKENIZER)?.context(
        "tokenizer.json is missing; save the model's tokenizer with Hugging Face's `save_pretrained`, \
         which writes it",
    )?;
    let tokenizer = Tokenizer::from_json(&json, MOST_PROMPT_BYTES)?;
    let separate = checkpoint.read_file(file_names::CHAT_TEMPLATE)?;
    let config = checkpoint.read_file(file_names::TOKENIZER_CONFIG)?;
    let config = config.as_deref().unwrap_or(b"{}");
    let config = TokenizerConfig::from_json(config, separate.as_deref())?;
    Ok((tokenizer, template(&config)?))
}

/// The chat template, if there is one.
pub(crate) fn template(config: &TokenizerConfig) -> Result<Option<ChatTemplate>> {
    let source = config.chat_template(false);
    let template = source.map(|source| ChatTemplate::compile(source, config.tokens.clone()));
    template.transpose().context("the model's chat template")
}

fn load(
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    options: LoadOptions,
) -> Result<Box<dyn Executor>> {
    let style =
        ProgressStyle::with_template("loading weights {bar:32} {bytes}/{total_bytes}  {eta}")?;
    let bar = ProgressBar::new(plan.weight_bytes).with_style(style);
    let executor = folio_model::load(checkpoint, plan, options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    executor.context("cannot load the weights")
}
