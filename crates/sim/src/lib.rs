//! The scheduler under a virtual clock.
//!
//! [`CostExecutor`] stands where a model would: it answers plans with tokens that follow from what the paged cache
//! really contains, and knows how long a step would have taken. [`run`](run()) drives the *real* scheduler with it through
//! a trace of arrivals. That makes this crate the scheduler's fuzzer, the mock engine of the server's tests, and the
//! ground of the simulator.
//!
//! **Invariants.** No wall clock, no threads of its own, no randomness: equal inputs give equal results. There is no
//! second scheduler and no second block manager here.
#![forbid(unsafe_code)]

mod cache;
pub mod cost;
mod executor;
mod gate;
pub mod memory;
pub mod metrics;
pub mod numbers;
mod random;
mod report;
mod rule;
mod run;
pub mod setup;
pub mod svg;
mod timing;
pub mod workload;

pub use cost::CostModel;
pub use executor::{CostExecutor, Sight};
pub use gate::Gate;
pub use random::Random;
pub use report::{Outcome, Report, RequestRecord, StepRecord};
pub use rule::{Stopping, TokenRule};
pub use run::{Arrival, SimError, Source, Timed, Watch, run, run_watched};
pub use timing::TimingExecutor;
