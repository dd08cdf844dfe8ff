//! A whole engine in one struct: a scheduler over paged memory, the hash executor, and a record of every request.
//!
//! Every step checks the plan against the limits, the scheduler against its invariants, and the events against their order.

use std::collections::{BTreeMap, HashSet};

use folio_core::event::{Event, EventKind, Failure, FinishReason};
use folio_core::exec::{Executor, Score, StepOutput};
use folio_core::ids::{GroupId, Salt, Tick, Token};
use folio_core::kv::{Config, Manager};
use folio_core::params::{Bans, Decoding, Params, Sampling};
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Limits, PreemptionMode, Reject, Scheduler};

use super::executor::HashExecutor;

pub(crate) const VOCAB: u32 = 40;
pub(crate) const EOS: Token = Token(0);

/// What a choice got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Output {
    pub(crate) tokens: Vec<Token>,
    pub(crate) scores: Vec<Score>,
    pub(crate) finish: Option<FinishReason>,
}

/// What a request got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) n: u32,
    pub(crate) cached: Option<u32>,
    pub(crate) prompt_scores: Vec<Score>,
    pub(crate) choices: BTreeMap<u32, Output>,
    pub(crate) preemptions: Option<u32>,
    pub(crate) swaps: u32,
    pub(crate) ranks: Vec<f64>,
    pub(crate) failure: Option<Failure>,
    pub(crate) aborted: bool,
}

impl Record {
    pub(crate) fn is_over(&self) -> bool {
        self.preemptions.is_some() || self.failure.is_some() || self.aborted
    }

    fn take(&mut self, event: &EventKind) {
        assert!(!self.is_over(), "{event:?} after the last event");
        match event {
            EventKind::Admitted { cached_tokens } => {
                assert!(self.cached.replace(*cached_tokens).is_none(), "admitted twice");
            }
            EventKind::PromptScored(scores) => {
                assert!(self.cached.is_some() && self.choices.is_empty() && !scores.is_empty());
                self.prompt_scores.extend(scores.iter().cloned());
            }
            EventKind::Sampled { choice, drawn, finish } => {
                assert!(self.cached.is_some() && *choice < self.n);
                let output = self.choices.entry(*choice).or_default();
                assert_eq!(output.finish, None, "a token after the last");
                output.tokens.push(drawn.token);
                output.scores.extend(drawn.score.clone());
                output.finish = *finish;
            }
            EventKind::Ranked { scores } => {
                assert!(self.choices.is_empty() && scores.is_sorted_by(|a, b| a >= b));
                assert_eq!(scores.len(), self.n as usize);
                self.ranks.clone_from(scores);
            }
            EventKind::Ended { preemptions, swaps } => {
                assert!(swaps <= preemptions);
                self.swaps = *swaps;
                assert_eq!(self.choices.len(), self.n as usize);
                assert!(self.choices.values().all(|output| output.finish.is_some()));
                self.preemptions = Some(*preemptions);
            }
            EventKind::Failed(failure) => self.failure = Some(*failure),
        }
    }
}

pub(crate) struct Server {
    pub(crate) scheduler: Scheduler<Manager>,
    pub(crate) limits: Limits,
    pub(crate) records: BTreeMap<GroupId, Record>,
    pub(crate) plan: StepPlan,
    pub(crate) out: StepOutput,
    /// Events of the last step.
    pub(crate) events: Vec<Event>,
    pub(crate) steps: u64,
    pub(crate) executor: HashExecutor,
}

impl Server {
    pub(crate) fn new(limits: Limits, config: Config) -> Self {
        Self::with_swap(limits, config, 0, PreemptionMode::Recompute)
    }

    pub(crate) fn with_swap(
        limits: Limits,
        config: Config,
        slots: u32,
        mode: PreemptionMode,
    ) -> Self {
        // Without headroom a few blocks are enough to see everything.
        Self::with_headroom(limits, config, slots, mode, 0)
    }

    pub(crate) fn with_headroom(
        limits: Limits,
        config: Config,
        slots: u32,
        mode: PreemptionMode,
        headroom: u32,
    ) -> Self {
        let executor = HashExecutor::new(config.block_size, config.capacity, VOCAB);
        let memory = Manager::new(config).unwrap().with_swap_space(slots);
        let scheduler = Scheduler::new(limits, memory);
        let scheduler = scheduler.with_preemption(mode).with_headroom(headroom);
        let records = BTreeMap::new();
        let (plan, out) = (StepPlan::default(), StepOutput::default());
        Self { scheduler, limits, records, plan, out, events: Vec::new(), steps: 0, executor }
    }

    pub(crate) fn submit(&mut self, job: Job) -> Result<GroupId, Reject> {
        let n = job.params.n;
        let id = self.scheduler.submit(job, Tick(self.steps))?;
        self.records.insert(id, Record { n, ..Record::default() });
        self.check();
        Ok(id)
    }

    pub(crate) fn abort(&mut self, id: GroupId) {
        self.scheduler.abort(id);
        let record = self.records.get_mut(&id).unwrap();
        record.aborted |= !record.is_over();
        self.check();
    }

    /// One step; whether there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        self.step_while(false, |_| {})
    }

    /// A step during which something happens; if it `fails`, the executor has not even begun.
    pub(crate) fn step_while(&mut self, fails: bool, happens: impl FnOnce(&mut Self)) -> bool {
        self.schedule();
        let worked = !self.plan.is_empty();
        if worked && !fails {
            self.execute();
        }
        happens(self);
        match (worked, fails) {
            (true, true) => self.fail(),
            (true, false) => self.commit(),
            (false, _) => {}
        }
        worked
    }

    pub(crate) fn schedule(&mut self) {
        self.steps += 1;
        self.scheduler.schedule(Tick(self.steps), &mut self.plan);
        self.check();
        self.check_plan();
    }

    pub(crate) fn execute(&mut self) {
        self.out.clear();
        self.executor.execute(&self.plan, &mut self.out).unwrap();
    }

    pub(crate) fn commit(&mut self) {
        self.events.clear();
        self.scheduler.commit(&self.plan, &self.out, Tick(self.steps), &mut self.events);
        self.after_step();
    }

    pub(crate) fn fail(&mut self) {
        self.events.clear();
        self.scheduler.fail(&self.plan, &mut self.events);
        self.after_step();
    }

    fn after_step(&mut self) {
        self.check();
        for event in &self.events {
            self.records.get_mut(&event.group).unwrap().take(&event.kind);
        }
    }

    fn check(&self) {
        self.scheduler.check().unwrap();
    }

    /// Runs until nothing is left, at most `steps` steps.
    pub(crate) fn drain(&mut self, steps: u64) {
        let last = self.steps + steps;
        while self.step() {
            assert!(self.steps <= last, "not done after {steps} steps");
        }
        assert!(self.scheduler.is_idle());
        let kv = self.scheduler.stats().kv;
        assert_eq!((kv.used, kv.swap_used), (kv.pinned, 0), "blocks have leaked");
        assert!(self.records.values().all(Record::is_over));
    }

    fn check_plan(&self) {
        let (plan, limits) = (&self.plan, &self.limits);
        assert_eq!(plan.is_empty(), self.scheduler.is_idle());
        assert!(plan.tokens.len() <= limits.max_num_batched_tokens as usize);
        assert!(plan.rows.len() <= limits.max_num_seqs as usize);
        assert!(plan.draws.len() <= limits.max_num_seqs as usize);
        let block_size = self.scheduler.admission().block_size as usize;
        let (mut tokens, mut blocks, mut draws, mut targets) = (0, 0, 0, 0);
        let mut seqs = HashSet::new();
        for row in &plan.rows {
            assert!(!row.tokens.is_empty() && seqs.insert(row.seq));
            let starts = [row.tokens.start, row.blocks.start, row.draws.start, row.targets.start];
            assert_eq!(starts, [tokens, blocks, draws, targets], "the rows tile the lists");
            (tokens, blocks, draws, targets) =
                (row.tokens.end, row.blocks.end, row.draws.end, row.targets.end);
            let end = row.start as usize + row.tokens.len();
            assert_eq!(row.blocks.len(), end.div_ceil(block_size));
            assert!(row.first_target + row.targets.len() <= row.tokens.len());
            assert!(!row.targets.is_empty() || row.first_target == 0);
        }
        let ends = [plan.tokens.len(), plan.blocks.len(), plan.draws.len(), plan.targets.len()];
        assert_eq!(ends, [tokens, blocks, draws, targets], "the rows cover the lists");
        let oldest = self.records.iter().find(|(_, record)| !record.is_over());
        if let Some((&oldest, _)) = oldest {
            let first = self.scheduler.group_of(plan.rows[0].seq);
            assert_eq!(first, Some(oldest), "the oldest does not get on");
        }
    }
}

/// Parameters of a request that draws by its seed.
pub(crate) fn params(n: u32, max_tokens: Option<u32>, seed: u64) -> Params {
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        repetition_penalty: 1.0,
        logit_bias: Vec::new(),
        allowed: None,
        seed,
        logprobs: None,
    };
    let (eos, stop_tokens) = (Vec::new(), Vec::new());
    Params {
        n,
        decoding: Decoding::Sample { best_of: n },
        max_tokens,
        eos,
        stop_tokens,
        prompt_logprobs: None,
        priority: 0,
        bans: Bans::default(),
        sampling,
    }
}

/// A request for tokens that are a function of `text`.
pub(crate) fn job(text: u64, len: u32, n: u32, max_tokens: Option<u32>) -> Job {
    Job::new(text_of(text, len), params(n, max_tokens, text), Salt(0))
}

/// The first `len` tokens of an endless text; none of them is the end of a sequence.
pub(crate) fn text_of(text: u64, len: u32) -> Vec<Token> {
    let token = |i| 1 + super::executor::hash(&(text, i)) % u64::from(VOCAB - 1);
    (0..len).map(|i| Token(u32::try_from(token(i)).unwrap())).collect()
}

/// Limits under which nothing is scarce.
pub(crate) fn wide() -> Limits {
    Limits {
        max_model_len: 96,
        max_num_seqs: 64,
        max_num_batched_tokens: 4096,
        max_queued: 64,
        vocab: VOCAB,
    }
}

/// What `job` gets when it is served alone with plenty of everything.
pub(crate) fn alone(job: Job, max_model_len: u32) -> Record {
    let limits = Limits { max_model_len, ..wide() };
    let config = Config { block_size: 16, capacity: 64, prefix_caching: false, secret: 0 };
    let mut server = Server::new(limits, config);
    let id = server.submit(job).unwrap();
    server.drain(1000);
    server.records.remove(&id).unwrap()
}
