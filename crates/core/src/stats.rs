//! What the scheduler does, in plain numbers: the one place from which metrics are made.
//!
//! Gauges ([`Load`], [`KvStats`]) are taken when asked for; counters ([`Totals`]) only ever grow. Nothing here has a unit
//! that a caller must guess: groups, sequences, tokens, blocks, microseconds.

use crate::ids::Tick;
use crate::kv::KvStats;

/// How much is in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequence groups, that is, requests.
    pub groups: u32,
    /// Sequences, those of a request that has drawn nothing yet included.
    pub sequences: u32,
    /// Known tokens; a shared prompt counts for each sequence that has drawn.
    pub tokens: u64,
}

/// What happened since the scheduler was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Steps that were committed.
    pub steps: u64,
    /// Groups that were accepted.
    pub submitted: u64,
    /// Groups that finished.
    pub ended: u64,
    /// Groups that failed.
    pub failed: u64,
    /// Groups that were aborted.
    pub aborted: u64,
    /// Preemptions of groups.
    pub preemptions: u64,
    /// Those of the preemptions that swapped the group out.
    pub swap_preemptions: u64,
    /// Preemptions that were to swap but found the swap space full; the group is computed again.
    pub swap_refusals: u64,
    /// Slots whose contents were lost; their groups are computed again.
    pub lost_slots: u64,
    /// Prompt tokens of groups that left the queue for the first time, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens that were drawn.
    pub generated_tokens: u64,
    /// Tokens that were computed, those computed again after a preemption included.
    pub computed_tokens: u64,
    /// Microseconds that groups spent in the queue before they left it for the first time.
    pub queue_time: u64,
}

/// A scheduler at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Groups that hold memory.
    pub running: Load,
    /// Groups that wait, those included that were preempted and will be computed again.
    pub waiting: Load,
    /// Groups whose blocks are in the swap space.
    pub swapped: Load,
    /// When the oldest waiting group arrived.
    pub oldest_waiting: Option<Tick>,
    /// When a step was last committed.
    pub last_step: Option<Tick>,
    /// The blocks.
    pub kv: KvStats,
    /// Counters.
    pub totals: Totals,
}
