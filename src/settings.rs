//! What we will do: the command line with every default filled in and every name resolved.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use folio_core::schedule::PreemptionMode;
use folio_model::block_size::Lengths;
use folio_model::file_names::TOKENIZER;
use folio_model::{Dtype, Isa, KvDtype, MemoryRequest, ModelSource, SwapRequest};
use folio_sim::memory::Policy;

use crate::args::{self, BlockSize, LoadFormat, ModelArgs, StepTokens};
use crate::hub::Located;
use crate::typed::variable;
use crate::{builtin, hub, machine, shapes, trace};

/// Where the system does not tell how much memory is free, this much is assumed to be.
pub(crate) const ASSUMED_MEMORY: u64 = 4 << 30;

/// The size of a step where it is to be chosen, until it is.
const UNMEASURED_STEP_TOKENS: usize = 512;

/// How a model is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) source: ModelSource,
    /// What the hub calls the model, if it comes from there.
    pub(crate) name: Option<String>,
    /// Without the lengths of pinned prefixes, which take the model's tokenizer, and without what is measured at start.
    pub(crate) memory: MemoryRequest<'static>,
    /// The requests for which a block size is to be chosen, if one is.
    pub(crate) expected: Option<Vec<Lengths>>,
    /// Whether the size of a step is to be chosen.
    pub(crate) choose_step_tokens: bool,
    pub(crate) swap_dir: Option<PathBuf>,
    pub(crate) preemption: PreemptionMode,
    /// How KV memory is given out; what is not paged is for comparison only.
    pub(crate) kv_policy: Policy,
    pub(crate) pin_prefix: Vec<PathBuf>,
    pub(crate) isa: Isa,
    pub(crate) prefix_caching: bool,
    pub(crate) max_queued: u32,
    pub(crate) seed: u64,
}

impl Settings {
    pub(crate) fn new(args: &ModelArgs, max_queued: u32) -> Result<Self> {
        let prefix_caching = !args.no_enable_prefix_caching;
        ensure!(
            prefix_caching || args.pin_prefix.is_empty(),
            "--pin-prefix needs the prefix cache; leave out --no-enable-prefix-caching"
        );
        let (block_size, expected) = block_size(args)?;
        let swap = swap(args)?;
        let memory = MemoryRequest {
            dtype: dtype(args.dtype),
            quantization: args.quantization,
            kv_dtype: kv_dtype(args.kv_cache_dtype),
            block_size,
            kv_cache_memory_bytes: args.kv_cache_memory_bytes,
            available_bytes: machine::available_memory().unwrap_or(ASSUMED_MEMORY),
            max_model_len: args.max_model_len.map(|len| len as usize),
            max_num_seqs: args.max_num_seqs as usize,
            max_num_batched_tokens: match args.max_num_batched_tokens {
                StepTokens::Auto => UNMEASURED_STEP_TOKENS,
                StepTokens::Tokens(tokens) => tokens,
            },
            threads: args.threads.map_or_else(machine::threads, |threads| threads as usize),
            swap,
            pinned_prefixes: &[],
        };
        let isa = isa()?;
        // Last, because it may take long to fetch.
        let (source, name) = source(args)?;
        Ok(Self {
            source,
            name,
            memory,
            isa,
            prefix_caching,
            expected,
            choose_step_tokens: args.max_num_batched_tokens == StepTokens::Auto,
            swap_dir: swap.and(args.swap_dir.clone()),
            preemption: match args.preemption_mode {
                args::PreemptionMode::Auto => PreemptionMode::Auto,
                args::PreemptionMode::Recompute => PreemptionMode::Recompute,
                args::PreemptionMode::Swap => PreemptionMode::Swap,
            },
            kv_policy: Policy::Paged,
            pin_prefix: args.pin_prefix.clone(),
            max_queued,
            seed: args.seed,
        })
    }

    /// The model as whoever asked for it knows it.
    pub(crate) fn called(&self) -> String {
        match (&self.name, &self.source) {
            (Some(name), _) | (None, ModelSource::Dummy { name, .. }) => name.clone(),
            (None, ModelSource::Folder(path) | ModelSource::File(path)) => {
                path.display().to_string()
            }
            (None, ModelSource::Embedded { name, .. }) => (*name).to_owned(),
        }
    }
}

/// The model's files, fetched if need be, and its name on the hub.
fn source(args: &ModelArgs) -> Result<(ModelSource, Option<String>)> {
    let builtin = ModelSource::Embedded { name: builtin::NAME, files: builtin::FILES };
    let Some(model) = &args.model else { return Ok((builtin, None)) };
    if args.load_format == LoadFormat::Dummy {
        let (name, config) = shapes::config(model)?;
        let own = model.join(TOKENIZER).is_file();
        let others = if own { ModelSource::Folder(model.clone()) } else { builtin };
        return Ok((ModelSource::Dummy { name, config, others: Box::new(others) }, None));
    }
    ensure!(
        model.exists() || !shapes::is_known(model),
        "of {} only the shape is known: name a folder or a model of the hub, or add --load-format dummy to measure it with made-up \
         weights",
        model.display()
    );
    let Located { path, name } = hub::locate(model, args.revision.as_deref())?;
    Ok((ModelSource::at(path), name))
}

/// The block size, or the lengths to choose it for.
fn block_size(args: &ModelArgs) -> Result<(Option<usize>, Option<Vec<Lengths>>)> {
    let ModelArgs { block_size_lengths, block_size_trace, .. } = args;
    let size = match args.block_size {
        Some(BlockSize::Auto) => {
            let expected = match (block_size_trace, block_size_lengths) {
                (Some(file), _) => trace::read(file, "--block-size-trace")?,
                (None, lengths) => vec![lengths.unwrap_or(Lengths::SHAREGPT)],
            };
            return Ok((None, Some(expected)));
        }
        Some(BlockSize::Tokens(size)) => Some(size),
        None => None,
    };
    ensure!(
        block_size_lengths.is_none() && block_size_trace.is_none(),
        "--block-size-lengths and --block-size-trace are what --block-size auto chooses by; add that, or leave them out"
    );
    Ok((size, None))
}

/// The swap space that was asked for, if any.
fn swap(args: &ModelArgs) -> Result<Option<SwapRequest>> {
    let on_disk = args.swap_dir.is_some();
    let swap = match (args.swap_space, on_disk) {
        (None, false) | (Some(0), _) => None,
        (bytes, on_disk) => Some(SwapRequest { bytes, on_disk }),
    };
    ensure!(
        swap.is_some() || args.preemption_mode != args::PreemptionMode::Swap,
        "--preemption-mode swap needs a swap space; add --swap-dir DIR for one on disk, or --swap-space SIZE for one in \
         memory"
    );
    Ok(swap)
}

pub(crate) fn dtype(asked: args::Dtype) -> Option<Dtype> {
    match asked {
        args::Dtype::Auto => None,
        args::Dtype::Float32 => Some(Dtype::F32),
        args::Dtype::Float16 => Some(Dtype::F16),
        args::Dtype::Bfloat16 => Some(Dtype::Bf16),
    }
}

fn kv_dtype(asked: args::KvCacheDtype) -> Option<KvDtype> {
    match asked {
        args::KvCacheDtype::Auto => None,
        args::KvCacheDtype::Float32 => Some(KvDtype::F32),
        args::KvCacheDtype::Float16 => Some(KvDtype::F16),
        args::KvCacheDtype::Bfloat16 => Some(KvDtype::Bf16),
        args::KvCacheDtype::Int8 => Some(KvDtype::Int8),
    }
}

/// The best instruction set of this CPU, or the one `FOLIO_ISA` forces. All give the same tokens.
pub(crate) fn isa() -> Result<Isa> {
    match variable("FOLIO_ISA") {
        Some(name) => Isa::from_name(&name).context("FOLIO_ISA"),
        None => Ok(Isa::detect()),
    }
}
