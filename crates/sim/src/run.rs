//! The virtual loop: arrivals that are due → schedule → execute → the clock moves by the step's cost → commit.
//!
//! The engine's loop without a thread and without time passing. In debug builds every invariant of the scheduler is
//! checked after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use folio_core::event::{Event, EventKind};
use folio_core::exec::{Executor, StepOutput};
use folio_core::ids::{GroupId, Tick};
use folio_core::kv::KvMemory;
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Scheduler};

use crate::report::{Outcome, Report, RequestRecord, StepRecord};

/// An executor that knows how long its steps would take.
pub trait Timed: Executor {
    /// Seconds for `plan`, which is one of so many running requests.
    fn seconds(&self, plan: &StepPlan, requests: u64) -> f64;
}

/// Where requests come from.
pub trait Source {
    /// How many there are in all.
    fn count(&self) -> usize;

    /// When the next one comes, if any is left that waits for no other.
    fn next_at(&self) -> Option<Tick>;

    /// The next one, and its place in the trace.
    fn pop(&mut self) -> Option<(usize, Arrival)>;

    /// A request has ended.
    fn ended(&mut self, _now: Tick) {}
}

/// Looks on while a run goes on.
pub trait Watch<M: KvMemory> {
    /// A step was planned at `now`, and the scheduler stands as it will while the step is executed. So many of the requests
    /// have ended.
    fn step(&mut self, now: Tick, scheduler: &Scheduler<M>, ended: usize);
}

/// Nobody looks on.
impl<M: KvMemory> Watch<M> for () {
    fn step(&mut self, _now: Tick, _scheduler: &Scheduler<M>, _ended: usize) {}
}

/// One line of a trace.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When the request comes.
    pub at: Tick,
    /// What it asks for.
    pub job: Job,
    /// When its client goes away, if it does.
    pub abort_at: Option<Tick>,
}

/// A run that could not be carried on: always a bug in the scheduler or in the block manager.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// There was work, and none of it was planned.
    #[error("at {0} µs the scheduler has work but planned none of it")]
    Stuck(Tick),
    /// An invariant does not hold.
    #[error("at {0} µs an invariant is broken: {1}")]
    Invariant(Tick, String),
    /// The scheduler is idle, but a request never ended.
    #[error("request {0} of the trace was accepted and never ended")]
    Forgotten(usize),
}

/// A trace as it was given.
struct Listed {
    count: usize,
    /// Still to come, with their places in the trace, earliest first.
    arrivals: VecDeque<(usize, Arrival)>,
}

impl Source for Listed {
    fn count(&self) -> usize {
        self.count
    }

    fn next_at(&self) -> Option<Tick> {
        self.arrivals.front().map(|(_, arrival)| arrival.at)
    }

    fn pop(&mut self) -> Option<(usize, Arrival)> {
        self.arrivals.pop_front()
    }
}

/// Runs `trace` to its end on `scheduler`, which must be idle and must use the blocks of `executor`.
///
/// # Errors
/// [`SimError`]; every request has then been aborted.
pub fn run<M: KvMemory>(
    scheduler: &mut Scheduler<M>,
    executor: &mut impl Timed,
    trace: Vec<Arrival>,
) -> Result<Report, SimError> {
    let mut order: Vec<_> = trace.into_iter().enumerate().collect();
    order.sort_by_key(|(_, arrival)| arrival.at);
    let listed = Listed { count: order.len(), arrivals: order.into() };
    run_watched(scheduler, executor, listed, &mut ())
}

/// The same for requests from anywhere, while somebody looks on.
///
/// # Errors
/// [`SimError`]; every request has then been aborted.
pub fn run_watched<M: KvMemory>(
    scheduler: &mut Scheduler<M>,
    executor: &mut impl Timed,
    source: impl Source,
    watch: &mut impl Watch<M>,
) -> Result<Report, SimError> {
    let mut run = Run {
        now: Tick(0),
        ended: vec![None; source.count()],
        finished: 0,
        source,
        aborts: BTreeSet::new(),
        alive: BTreeMap::new(),
        steps: Vec::new(),
    };
    let result = run.play(scheduler, executor, watch);
    if result.is_err() {
        for &group in run.alive.keys() {
            scheduler.abort(group);
        }
    }
    result?;
    let mut requests = Vec::with_capacity(run.ended.len());
    for (index, record) in run.ended.into_iter().enumerate() {
        requests.push(record.ok_or(SimError::Forgotten(index))?);
    }
    Ok(Report { requests, steps: run.steps })
}

struct Run<S> {
    now: Tick,
    source: S,
    /// Clients that will go away.
    aborts: BTreeSet<(Tick, GroupId)>,
    /// Accepted and not ended, with their places in the trace.
    alive: BTreeMap<GroupId, (usize, RequestRecord)>,
    /// In the order of the trace.
    ended: Vec<Option<RequestRecord>>,
    finished: usize,
    steps: Vec<StepRecord>,
}

impl<S: Source> Run<S> {
    fn play<M: KvMemory>(
        &mut self,
        scheduler: &mut Scheduler<M>,
        executor: &mut impl Timed,
        watch: &mut impl Watch<M>,
    ) -> Result<(), SimError> {
        let (mut plan, mut out, mut events) = (StepPlan::default(), StepOutput::default(), vec![]);
        loop {
            self.arrive(scheduler);
            self.go_away(scheduler);
            if scheduler.is_idle() {
                let Some(next) = self.source.next_at() else { return Ok(()) };
                self.now = self.now.max(next);
                continue;
            }
            scheduler.schedule(self.now, &mut plan);
            if plan.is_empty() {
                return Err(SimError::Stuck(self.now));
            }
            watch.step(self.now, scheduler, self.finished);
            let groups = scheduler.stats().running.groups;
            out.clear();
            let error = executor.execute(&plan, &mut out).err();
            let (began, took) =
                (self.now, Duration::from_secs_f64(executor.seconds(&plan, groups.into())));
            // A step takes time, or two events of one request could not be told apart.
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
            self.now = Tick(self.now.0.saturating_add(micros));
            match error {
                None => scheduler.commit(&plan, &out, self.now, &mut events),
                Some(_) => scheduler.fail(&plan, &mut events),
            }
            let (rows, tokens) = (plan.rows.len(), plan.tokens.len());
            self.steps.push(StepRecord { began, took, groups, rows, tokens, error });
            for event in events.drain(..) {
                self.record(event);
            }
            if cfg!(debug_assertions) {
                scheduler.check().map_err(|broken| SimError::Invariant(self.now, broken))?;
            }
        }
    }

    /// Submits what is due.
    fn arrive<M: KvMemory>(&mut self, scheduler: &mut Scheduler<M>) {
        while self.source.next_at().is_some_and(|at| at <= self.now)
            && let Some((index, Arrival { at, job, abort_at })) = self.source.pop()
        {
            let mut record = RequestRecord {
                arrival: at,
                prompt_tokens: u32::try_from(job.prompt.len()).unwrap_or(u32::MAX),
                admitted: None,
                cached_tokens: 0,
                first_token: None,
                times: Vec::new(),
                choices: vec![Vec::new(); job.params.n as usize],
                scores: 0,
                ended: self.now,
                outcome: Outcome::Aborted,
            };
            match scheduler.submit(job, self.now) {
                Ok(group) => {
                    self.aborts.extend(abort_at.map(|at| (at, group)));
                    self.alive.insert(group, (index, record));
                }
                Err(reject) => {
                    record.outcome = Outcome::Rejected(reject);
                    self.ended[index] = Some(record);
                    self.finished += 1;
                    self.source.ended(self.now);
                }
            }
        }
    }

    /// Aborts the requests whose clients have gone away.
    fn go_away<M: KvMemory>(&mut self, scheduler: &mut Scheduler<M>) {
        while let Some(&(at, group)) = self.aborts.first()
            && at <= self.now
        {
            self.aborts.pop_first();
            scheduler.abort(group);
            self.end(group, Outcome::Aborted);
        }
    }

    fn record(&mut self, event: Event) {
        let now = self.now;
        let Some((_, record)) = self.alive.get_mut(&event.group) else { return };
        match event.kind {
            EventKind::Admitted { cached_tokens } => {
                record.admitted = Some(now);
                record.cached_tokens = cached_tokens;
            }
            EventKind::PromptScored(scores) => record.scores += scores.len(),
            EventKind::Sampled { choice, drawn, .. } => {
                record.first_token.get_or_insert(now);
                if choice == 0 {
                    record.times.push(now);
                }
                if let Some(tokens) = record.choices.get_mut(choice as usize) {
                    tokens.push(drawn.token);
                }
            }
            EventKind::Ranked { .. } => {}
            EventKind::Ended { preemptions, .. } => {
                self.end(event.group, Outcome::Finished { preemptions });
            }
            EventKind::Failed(failure) => self.end(event.group, Outcome::Failed(failure)),
        }
    }

    fn end(&mut self, group: GroupId, outcome: Outcome) {
        if let Some((index, record)) = self.alive.remove(&group) {
            self.ended[index] = Some(RequestRecord { ended: self.now, outcome, ..record });
            self.finished += 1;
            self.source.ended(self.now);
        }
    }
}
