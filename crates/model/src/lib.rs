//! From a folder of weights to an [`Executor`](folio_core::exec::Executor).
//!
//! The way in is a chain of types, each checked once: [`ModelSource`] (files) → [`Checkpoint`] (understood and complete)
//! → [`MemoryPlan`] (fits) → [`load`] (an executor). A family of models is data: [`ModelSpec`] knobs and [`names::Names`];
//! there is one forward pass, over a [`backend::Backend`] of about a dozen operations. The crate knows tokens, not text.

#![forbid(unsafe_code)]

mod advice;
pub mod arch;
pub mod backend;
pub mod block_size;
mod check;
mod checkpoint;
mod converted;
mod cpu;
mod error;
pub mod fields;
mod forward;
mod generation;
pub mod gguf;
mod load;
mod memory;
pub mod names;
mod ops;
pub mod rope;
mod runner;
pub mod sample;
mod scratch;
mod sizes;
mod source;
pub mod spec;
pub mod swap;
pub mod weights;

use folio_core::exec::Executor;
pub use folio_kernels::{Dtype, Isa};

pub use crate::checkpoint::Checkpoint;
pub use crate::converted::{Conversion, convert};
pub use crate::cpu::Cpu;
pub use crate::error::ModelError;
pub use crate::load::Progress;
pub use crate::memory::{DoesNotFit, MemoryPlan, MemoryRequest, SwapRequest};
pub use crate::runner::Runner;
pub use crate::source::{EmbeddedFiles, ModelSource};
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
    let cpu = Cpu::new(plan.threads, options.isa)?;
    let runner = Runner::load(cpu, checkpoint, plan, progress)?;
    Ok(Box::new(match options.swap {
        Some(store) => runner.with_swap_store(store),
        None => runner,
    }))
}
