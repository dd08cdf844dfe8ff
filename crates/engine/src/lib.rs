//! The thread that owns the scheduler and the executor, and the handle through which everybody else talks to it.
//!
//! [`start`] gives a [`Handle`] and an [`EngineThread`]. The thread repeats: drain the inbox → schedule → execute →
//! commit → publish. It runs at its own pace, and nothing it owns is shared or locked. The handle is cheap to clone;
//! [`Handle::generate`] takes a permit, checks that the request can be served at all, and returns a [`Generation`], the
//! stream of one request's updates. Dropping it aborts the request wherever it is.
//!
//! ```
//! use folio_core::ids::{Salt, Token};
//! use folio_core::kv::{Config, Manager};
//! use folio_core::params::{ParamLimits, Params, Requested};
//! use folio_core::schedule::{Job, Limits, Scheduler};
//! use folio_engine::{EngineConfig, Update};
//! use folio_sim::{CostExecutor, TokenRule};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! // Eight blocks of sixteen tokens, and an executor without a model.
//! let memory = Manager::new(Config { block_size: 16, capacity: 8, prefix_caching: true, secret: 1 })?;
//! let limits = Limits {
//!     max_model_len: 128,
//!     max_num_seqs: 4,
//!     max_num_batched_tokens: 64,
//!     max_queued: 100,
//!     vocab: 500,
//! };
//! let executor = Box::new(CostExecutor::new(8, 16, TokenRule::new(500)));
//! let scheduler = Scheduler::new(limits, memory);
//! let (handle, thread) = folio_engine::start(scheduler, executor, EngineConfig::default())?;
//!
//! let asked = Requested { max_tokens: Some(5), ..Requested::default() };
//! let bounds = ParamLimits {
//!     vocab: 500,
//!     max_n: 4,
//!     max_logprobs: 5,
//!     max_logit_bias: 10,
//!     max_stop_token_ids: 10,
//!     eos: vec![],
//! };
//! let params = Params::parse(&asked, &bounds, 0).map_err(|bad| bad.problem)?;
//! let job = Job::new(vec![Token(1), Token(2)], params, Salt(0));
//! let mut generation = handle.generate(job)?;
//! let mut tokens = Vec::new();
//! while let Some(updates) = generation.next().await {
//!     for update in updates {
//!         if let Update::Sampled { drawn, .. } = update {
//!             tokens.push(drawn.token);
//!         }
//!     }
//! }
//! assert_eq!(tokens.len(), 5);
//!
//! handle.drain();
//! thread.join()?;
//! # Ok::<_, Box<dyn std::error::Error>>(()) })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! **Invariants.** No async below the handle. Every accepted request gets exactly one final update, whatever happens to
//! the engine; its permit returns exactly once, before that update is sent. An executor's error or panic costs the
//! requests of that step and no others. The engine speaks tokens, never text.
#![forbid(unsafe_code)]

mod config;
mod constraint;
mod costs;
mod generation;
mod handle;
mod health;
mod inbox;
mod line;
mod mask;
mod observe;
mod run;
mod shared;
mod snapshot;
mod streams;
mod thread;
mod update;

pub use config::{Checks, EngineConfig};
pub use constraint::{Canceller, Constraint};
pub use generation::{Generation, Timing};
pub use handle::{Handle, Refused};
pub use health::Health;
pub use line::Owner;
pub use observe::{Observer, Part};
pub use snapshot::{MaskCosts, Snapshot, StepTokens};
pub use thread::{EngineError, EngineThread, start, start_observed};
pub use update::{Cause, Update};
