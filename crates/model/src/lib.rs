//! From a folder of weights to an [`Executor`](folio_core::exec::Executor).
//!
//! The way in is a chain of types, each checked once: [`ModelSource`] (files) → [`Checkpoint`] (understood and complete)
//! → [`MemoryPlan`] (fits) → [`load`] (an executor). A family of models is data: [`ModelSpec`] knobs and [`names::Names`];
//! there is one forward pass, over a [`backend::Backend`] of about a dozen operations. The crate knows tokens, not text.

#![forbid(unsafe_code)]

mod advice;
mod ahead;
pub mod arch;
pub mod backend;
pub mod block_size;
mod check;
mod checkpoint;
mod converted;
mod cpu;
mod error;
pub mod fields;
pub mod file_names;
mod forward;
mod generation;
pub mod gguf;
mod load;
mod memory;
pub mod names;
mod ops;
mod outline;
pub mod profile;
pub mod rope;
mod runner;
pub mod sample;
mod scratch;
mod sizes;
mod source;
pub mod spec;
pub mod step_tokens;
pub mod swap;
pub mod weights;

use folio_core::exec::Executor;
pub use folio_kernels::{Dtype, Isa, KvDtype};

pub use crate::checkpoint::Checkpoint;
pub use crate::converted::{Conversion, convert};
pub use crate::cpu::Cpu;
pub use crate::error::ModelError;
pub use crate::load::Progress;
pub use crate::memory::{DoesNotFit, MemoryPlan, MemoryRequest, SwapRequest};
pub use crate::outline::Outline;
pub use crate::profile::Profile;
pub use crate::runner::Runner;
pub use crate::source::{EmbeddedFiles, MOST_CONFIG_BYTES, ModelSource};
pub use crate::spec::ModelSpec;
pub use crate::swap::SwapStore;
pub use crate::weights::Quantization;

// Dimensions are bounded so that products of two fit 64 bits.
const _: () = assert!(usize::BITS >= 64);

/// How to run, beyond what the memory plan says.
pub struct LoadOptions {
    /// The instructions to use.
    pub isa: Isa,
    /// Where blocks are swapped to, if anywhere.
    pub swap: Option<SwapStore>,
    /// Where the operations are timed to, if they are.
    pub profile: Option<Profile>,
}

/// Loads the model on the CPU, with the plan's threads; `progress` is told after every layer.
///
/// # Errors
/// When threads or memory cannot be had, or a tensor turns out damaged.
pub fn load(
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    options: LoadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Executor>, ModelError> {
    let LoadOptions { isa, swap, profile } = options;
    let cpu = Cpu::new(plan.threads, isa)?;
    match profile {
        None => executor(cpu, checkpoint, plan, swap, progress),
        Some(profile) => {
            executor(profile::Profiled::new(cpu, profile), checkpoint, plan, swap, progress)
        }
    }
}

fn executor<B: backend::Backend + 'static>(
    backend: B,
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    swap: Option<SwapStore>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Executor>, ModelError> {
    let runner = Runner::load(backend, checkpoint, plan, progress)?;
    Ok(Box::new(match swap {
        Some(store) => runner.with_swap_store(store),
        None => runner,
    }))
}
