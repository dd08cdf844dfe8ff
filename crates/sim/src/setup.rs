//! One simulated run: an engine's settings, a cost model and a workload, and what came of it.

use folio_core::ids::Tick;
use folio_core::kv::{BadConfig, Config, KvMemory};
use folio_core::params::BadParam;
use folio_core::schedule::{Limits, PreemptionMode, RecoveryCosts, Scheduler};
use serde::Serialize;

use crate::cost::{Step, StepCost};
use crate::memory::{Memory, Policy, Usage, usage};
use crate::report::Report;
use crate::run::{SimError, Watch, run_watched};
use crate::timing::TimingExecutor;
use crate::workload::{VOCAB, Workload};

/// An engine's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// How KV memory is given out.
    pub policy: Policy,
    /// Positions per block.
    pub block_size: u32,
    /// Blocks of the cache.
    pub blocks: u32,
    /// Blocks of the swap space; paged memory only.
    pub swap_blocks: u32,
    /// How preempted requests recover.
    pub preemption: PreemptionMode,
    /// Whether equal prompt beginnings are computed once; paged memory only.
    pub prefix_caching: bool,
    /// Longest prompt plus output.
    pub max_model_len: u32,
    /// Most sequences that run at once.
    pub max_num_seqs: u32,
    /// Most tokens of one step.
    pub max_num_batched_tokens: u32,
}

/// A setup that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSetup {
    /// The memory's sizes.
    #[error("{0}")]
    Memory(BadConfig),
    /// The workload's parameters.
    #[error("{} {}", .0.field, .0.problem)]
    Params(BadParam),
    /// The run itself: a bug.
    #[error(transparent)]
    Run(#[from] SimError),
}

/// One moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the start.
    pub at_s: f64,
    /// Requests that run.
    pub running: u32,
    /// Requests that wait, those that were preempted included.
    pub waiting: u32,
    /// What the cache is used for.
    pub usage: Usage,
    /// Blocks that tables hold, each counted for every table.
    pub held_blocks: u64,
    /// Blocks that sharing saves.
    pub saved_blocks: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// Every request and every step.
    pub report: Report,
    /// The cache every so often.
    pub moments: Vec<Moment>,
    /// Preemptions, and those of them that swapped.
    pub preemptions: (u64, u64),
    /// Tokens that were computed, those computed again included.
    pub computed_tokens: u64,
    /// Prompt tokens that the prefix cache was asked for, and that it had.
    pub prefix: (u64, u64),
    /// Blocks copied on write.
    pub copies: u64,
}

/// Microseconds between two looks at the cache.
const MOMENT: u64 = 500_000;

struct Onlooker<'a> {
    next: Tick,
    moments: Vec<Moment>,
    progress: &'a mut dyn FnMut(usize),
}

impl Watch<Memory> for Onlooker<'_> {
    #[allow(clippy::cast_precision_loss, reason = "exact for 285 years")]
    fn step(&mut self, now: Tick, scheduler: &Scheduler<Memory>, ended: usize) {
        if now < self.next {
            return;
        }
        self.next = Tick(now.0.saturating_add(MOMENT));
        (self.progress)(ended);
        let stats = scheduler.stats();
        let report = scheduler.inspect();
        self.moments.push(Moment {
            at_s: now.0 as f64 / 1e6,
            running: stats.running.groups,
            waiting: stats.waiting.groups + stats.swapped.groups,
            usage: usage(scheduler),
            held_blocks: stats.kv.held,
            saved_blocks: report.saved.samples + report.saved.beams + report.saved.prefixes,
        });
    }
}

impl Setup {
    /// Runs `workload` to its end; `progress` is told how many requests have ended.
    ///
    /// # Errors
    /// [`BadSetup`].
    pub fn play(
        &self,
        cost: Box<dyn StepCost>,
        workload: &Workload,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Played, BadSetup> {
        let mut scheduler = self.scheduler(cost.as_ref())?;
        let source = workload.arrivals().map_err(BadSetup::Params)?;
        let mut executor = TimingExecutor::new(cost);
        let mut onlooker = Onlooker { next: Tick(0), moments: Vec::new(), progress };
        let mut report = run_watched(&mut scheduler, &mut executor, source, &mut onlooker)?;
        if self.policy == Policy::Static {
            report.hold_back_batches();
        }
        let stats = scheduler.stats();
        debug_assert_eq!(scheduler.memory().stats().used, 0);
        Ok(Played {
            report,
            moments: onlooker.moments,
            preemptions: (stats.totals.preemptions, stats.totals.swap_preemptions),
            computed_tokens: stats.totals.computed_tokens,
            prefix: (stats.kv.prefix_queries, stats.kv.prefix_hits),
            copies: stats.kv.copies,
        })
    }

    fn scheduler(&self, cost: &dyn StepCost) -> Result<Scheduler<Memory>, BadSetup> {
        let config = Config {
            block_size: self.block_size,
            capacity: self.blocks,
            prefix_caching: self.prefix_caching,
            secret: 0,
        };
        let memory = Memory::new(self.policy, config, self.swap_blocks, self.max_model_len)
            .map_err(BadSetup::Memory)?;
        let limits = Limits {
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_queued: u32::MAX,
            vocab: VOCAB,
        };
        let mut scheduler = Scheduler::new(limits, memory).with_preemption(self.preemption);
        let micros = |step: Step| cost.seconds(&step) * 1e6;
        let nothing = micros(Step::default());
        let tokens =
            Step { tokens: 256, rows: 1, pairs: 256 * 128, context: 256, ..Step::default() };
        scheduler.set_recovery_costs(RecoveryCosts {
            compute_token: (micros(tokens) - nothing) / 256.0,
            move_block: (micros(Step { swaps: 1000, ..Step::default() }) - nothing) / 1000.0,
        });
        Ok(scheduler)
    }
}
