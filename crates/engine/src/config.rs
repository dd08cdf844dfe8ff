//! How the engine thread behaves; what it may hold is the scheduler's business.

use std::time::Duration;

/// When the scheduler's and the block manager's invariants are checked. A check visits every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// Only when the engine ends by an error.
    Never,
    /// Whenever the engine has nothing to do, and when it ends.
    WhenIdle,
    /// After every step as well; for tests.
    EveryStep,
}

/// The engine's own settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// [`crate::Health::Stalled`] is reported when requests are there and no step has ended for this long. Must exceed
    /// the longest step that is to be expected.
    pub stall_after: Duration,
    /// The engine gives up after this many failed steps in a row; at least 1.
    pub max_failed_steps: u32,
    /// When invariants are checked.
    pub checks: Checks,
    /// Threads that make the masks of constrained requests; at least 1. They start with the first such request.
    pub mask_threads: usize,
    /// The most time for one mask; a request whose mask takes longer ends.
    pub mask_time: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            stall_after: Duration::from_secs(60),
            max_failed_steps: 8,
            checks: if cfg!(debug_assertions) { Checks::WhenIdle } else { Checks::Never },
            mask_threads: 2,
            mask_time: Duration::from_secs(5),
        }
    }
}
