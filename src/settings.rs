//! What we will do: the command line with every default filled in and every name resolved.

use anyhow::{Context, Result};
use folio_model::{Dtype, Isa, MemoryRequest, ModelSource};

use crate::args::{self, ModelArgs};
use crate::{builtin, machine};

/// Where the system does not tell how much memory is free, this much is assumed to be.
const ASSUMED_MEMORY: u64 = 4 << 30;

/// How a model is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) source: ModelSource,
    pub(crate) memory: MemoryRequest,
    pub(crate) isa: Isa,
    pub(crate) prefix_caching: bool,
    pub(crate) max_queued: u32,
    pub(crate) seed: u64,
}

impl Settings {
    pub(crate) fn new(args: &ModelArgs, max_queued: u32) -> Result<Self> {
        let source = match &args.model {
            Some(folder) => ModelSource::Folder(folder.clone()),
            None => ModelSource::Embedded { name: builtin::NAME, files: builtin::FILES },
        };
        let memory = MemoryRequest {
            dtype: dtype(args.dtype),
            kv_dtype: dtype(args.kv_cache_dtype),
            block_size: args.block_size.map(|size| size as usize),
            kv_cache_memory_bytes: args.kv_cache_memory_bytes,
            available_bytes: machine::available_memory().unwrap_or(ASSUMED_MEMORY),
            max_model_len: args.max_model_len.map(|len| len as usize),
            max_num_seqs: args.max_num_seqs as usize,
            max_num_batched_tokens: args.max_num_batched_tokens as usize,
            threads: args.threads.map_or_else(machine::threads, |threads| threads as usize),
        };
        Ok(Self {
            source,
            memory,
            isa: isa()?,
            prefix_caching: !args.no_enable_prefix_caching,
            max_queued,
            seed: args.seed,
        })
    }
}

fn dtype(asked: args::Dtype) -> Option<Dtype> {
    match asked {
        args::Dtype::Auto => None,
        args::Dtype::Float32 => Some(Dtype::F32),
        args::Dtype::Float16 => Some(Dtype::F16),
        args::Dtype::Bfloat16 => Some(Dtype::Bf16),
    }
}

/// The best instruction set of this CPU, or the one `FOLIO_ISA` forces. All give the same tokens.
fn isa() -> Result<Isa> {
    match std::env::var("FOLIO_ISA") {
        Ok(name) => Isa::from_name(&name).context("FOLIO_ISA"),
        Err(_) => Ok(Isa::detect()),
    }
}
