//! What runs next: continuous batching over paged memory.
//!
//! [`Scheduler::submit`] takes a request in, [`Scheduler::schedule`] makes the plan of one step, [`Scheduler::commit`] takes
//! in what an executor made of it; between any two of them [`Scheduler::abort`] ends a request. A step is planned in four
//! short passes over groups that stand in one line, by arrival:
//!
//! | file | pass |
//! |---|---|
//! | `budget` | deal the step's tokens to the running sequences |
//! | `grow` | give them room for what they will write; `preempt` the youngest where there is none |
//! | `admit` | start waiting groups, or bring swapped ones back, with the tokens, sequences and blocks that are left |
//! | `layout` | write the rows |
//!
//! Beside them: `submit` (the door) and `reject` (what it says), `queue` (who waits), `policy` (in what order), `commit` (what a
//! step has changed) with `beams`, `swap` (who leaves for the swap space and what is lost there), `inspect` (who holds what).
//!
//! **Invariants.**
//! - The running groups stand before all waiting ones in the order of the policy, which is that of their ids.
//! - Blocks are really allocated while planning; only a lack of blocks preempts, a lack of tokens skips a turn.
//! - In every step that is not empty the oldest group computes something; if any group is there, the step is not empty.
//! - Same calls, same plans: nothing depends on a clock, on chance or on the order of a hash table.
//! - A step costs time in proportion to its rows and their blocks, and to the prompt of the one group that may be tried in
//!   vain, however many groups wait.

mod admit;
mod beams;
mod budget;
mod commit;
mod grow;
mod inspect;
mod layout;
mod policy;
mod preempt;
mod queue;
mod reject;
mod submit;
mod swap;

pub use preempt::{PreemptionMode, RecoveryCosts};
pub use reject::Reject;
pub use submit::{Admission, EndsWith, Job, Limits, StopRule};

use self::budget::Budget;
use self::policy::rank;
use self::preempt::Recovery;
use self::queue::Queue;
use self::submit::Lengths;
use crate::group::{Group, Origin, Phase};
use crate::ids::{GroupId, SeqId, Tick};
use crate::kv::{Change, KvMemory};
use crate::plan::StepPlan;
use crate::sequence::Sequence;
use crate::stats::{Load, Stats, Totals};

/// Tokens by which each running sequence can still grow when another group starts, unless told otherwise. More makes for fewer
/// preemptions, and leaves more of the memory empty: with blocks of 16 tokens, 8 keep the share that holds nothing below 4 %.
pub const HEADROOM: u32 = 8;

/// Decides what runs next; see the module's documentation.
#[derive(Debug)]
pub struct Scheduler<M: KvMemory> {
    admission: Admission,
    memory: M,
    waiting: Queue,
    /// In the order of the policy.
    running: Vec<Group>,
    next_group: GroupId,
    next_seq: SeqId,
    /// A plan that is not empty has been made and neither committed nor failed.
    in_flight: bool,
    recovery: Recovery,
    headroom: u32,
    /// Groups whose blocks the plan in flight moves between the device and the swap space.
    moving: Vec<GroupId>,
    last_step: Option<Tick>,
    totals: Totals,
}

impl<M: KvMemory> Scheduler<M> {
    /// A scheduler without requests, which owns `memory`.
    pub fn new(mut limits: Limits, memory: M) -> Self {
        limits.max_num_batched_tokens = limits.max_num_batched_tokens.max(1);
        Self {
            admission: Admission::new(limits, &memory),
            memory,
            waiting: Queue::default(),
            running: Vec::new(),
            next_group: GroupId(0),
            next_seq: SeqId(0),
            in_flight: false,
            recovery: Recovery::default(),
            headroom: HEADROOM,
            moving: Vec::new(),
            last_step: None,
            totals: Totals::default(),
        }
    }

    /// Chooses how preempted groups recover.
    #[must_use]
    pub fn with_preemption(mut self, mode: PreemptionMode) -> Self {
        self.recovery.mode = mode;
        self
    }

    /// Keeps room for so many more tokens of each running sequence when it starts a group, instead of [`HEADROOM`]; 0 keeps none.
    #[must_use]
    pub fn with_headroom(mut self, tokens: u32) -> Self {
        self.headroom = tokens;
        self
    }

    /// Sets blocks aside for jobs that are to be pinned: others are refused as if there were so many fewer.
    #[must_use]
    pub fn with_reserved_blocks(mut self, blocks: u32) -> Self {
        self.admission.capacity = self.memory.capacity().saturating_sub(blocks);
        self
    }

    /// Tells what recovery has been found to cost, for [`PreemptionMode::Auto`].
    pub fn set_recovery_costs(&mut self, costs: RecoveryCosts) {
        self.recovery.costs = Some(costs);
    }

    /// Queues a request. Its sequences get consecutive ids in the order of their choices.
    ///
    /// # Errors
    /// When the request can never be served, or the queue is full.
    pub fn submit(&mut self, job: Job, now: Tick) -> Result<GroupId, Reject> {
        let most_blocks = |prompt, longest, n| self.memory.most_blocks(prompt, longest, n);
        let Lengths { prompt, longest } = self.admission.lengths(&job, most_blocks)?;
        let limit = self.admission.limits.max_queued;
        if self.waiting.fresh() >= limit {
            return Err(Reject::QueueFull { limit });
        }
        let Job { prompt: tokens, params, salt, stop_rule, pin } = job;
        let (id, first_seq) = (self.next_group, self.next_seq);
        self.next_group.0 += 1;
        self.next_seq.0 += u64::from(params.width().max(1));
        let origin =
            Origin { id, first_seq, arrived: now, params, salt, stop_rule, pin, prompt, longest };
        self.waiting.push(Group::new(origin, tokens));
        self.totals.submitted += 1;
        Ok(id)
    }

    /// Ends a request wherever it is and takes its memory back. It gets no more events, also from a step that is being
    /// executed. Groups that are unknown or have ended are passed over.
    pub fn abort(&mut self, group: GroupId) {
        let aborted = match self.running.binary_search_by_key(&group, Group::id) {
            Ok(at) => Some(self.running.remove(at)),
            Err(_) => self.waiting.remove(group),
        };
        if let Some(mut group) = aborted {
            group.discard(&mut self.memory);
            self.totals.aborted += 1;
        }
    }

    /// Makes the plan of the next step; an empty plan means that there is nothing to do. A plan that is not empty must be
    /// [committed](Self::commit) or [failed](Self::fail) before the next one is made.
    pub fn schedule(&mut self, now: Tick, plan: &mut StepPlan) {
        debug_assert!(!self.in_flight, "the last plan was neither committed nor failed");
        plan.clear();
        for group in &mut self.running {
            group.look_for_prefix(&mut self.memory);
        }
        let mut budget = Budget::new(&self.admission.limits, &self.running);
        budget::deal(&mut self.running, &mut budget);
        let preempted = self.grow(plan);
        if !preempted {
            self.admit(now, &mut budget, &mut plan.ops);
        }
        layout::lay_out(&self.running, self.admission.block_size, plan);
        self.in_flight = !plan.is_empty();
        debug_assert!(self.in_flight || self.is_idle(), "the oldest group does not get on");
    }

    /// Whether a request that is submitted now may be admitted in the next step, as far as those that wait already tell:
    /// whoever keeps an order of its own submits no more than that.
    #[must_use]
    pub fn is_eager(&self) -> bool {
        self.waiting.load().tokens < u64::from(self.admission.limits.max_num_batched_tokens)
    }

    /// Whether there are no requests.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The group of a live sequence of a running group; for a group that has drawn nothing, of its first sequence.
    #[must_use]
    pub fn group_of(&self, seq: SeqId) -> Option<GroupId> {
        self.running_with(seq).map(|at| self.running[at].id())
    }

    /// How many tokens a live sequence of a running group has, prompt included.
    #[must_use]
    pub fn length_of(&self, seq: SeqId) -> Option<u32> {
        let group = &self.running[self.running_with(seq)?];
        group.find(seq).map(|at| group.sequences[at].known())
    }

    /// What refuses requests, for use before they are submitted.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// See [`KvMemory::take_changes`].
    pub fn take_changes(&mut self, into: &mut Vec<Change>) {
        self.memory.take_changes(into);
    }

    /// Numbers on everything.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut running = Load::default();
        for group in &self.running {
            running.groups += 1;
            running.sequences += group.width();
            running.tokens += group.tokens();
        }
        Stats {
            running,
            waiting: self.waiting.load(),
            swapped: self.waiting.swapped(),
            oldest_waiting: self.waiting.head().map(|group| group.origin.arrived),
            last_step: self.last_step,
            kv: self.memory.stats(),
            totals: self.totals,
        }
    }

    /// Checks every invariant of scheduler and memory. Takes time in proportion to everything there is.
    ///
    /// # Errors
    /// A sentence on the first invariant that does not hold.
    pub fn check(&self) -> Result<(), String> {
        self.waiting.check()?;
        for group in &self.running {
            group.check()?;
            if group.phase == Phase::Waiting || group.is_swapped() {
                return Err(format!("group {} waits among the running", group.id()));
            }
        }
        let line = || self.running.iter().chain(self.waiting.head());
        if !line().is_sorted_by(|a, b| {
            rank(a) < rank(b) && a.id() < b.id() && a.origin.first_seq < b.origin.first_seq
        }) {
            return Err("the groups do not stand in the order of the policy".to_owned());
        }
        let seated: u32 = self.running.iter().map(Group::width).sum();
        if seated > self.admission.limits.max_num_seqs {
            return Err(format!("{seated} sequences run"));
        }
        let sequences = self.running.iter().flat_map(|group| &group.sequences);
        self.memory.check(&mut sequences.filter_map(Sequence::table))?;
        let sequences = self.waiting.iter().flat_map(|group| &group.sequences);
        self.memory.check_swapped(&mut sequences.filter_map(Sequence::swapped_table))
    }
}

/// Tables are linear: whoever ends gives them back.
impl<M: KvMemory> Drop for Scheduler<M> {
    fn drop(&mut self) {
        // After a panic the memory may be in any state; a second panic would abort the process and hide the first.
        if !std::thread::panicking() {
            let Self { running, waiting, memory, .. } = self;
            for group in running.iter_mut().chain(waiting.iter_mut()) {
                group.discard(memory);
            }
        }
    }
}
