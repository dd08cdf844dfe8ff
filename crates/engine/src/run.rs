//! The loop: drain the inbox → schedule → execute → commit → publish.
//!
//! One thread runs it and owns everything in it. An executor that fails or panics costs the groups of that step; a panic
//! anywhere else leaves the loop and ends the engine, since the scheduler may be half-way through a change.
//! Numbers are published, and permits returned, before the updates of the step are sent: who reads a request's last
//! update finds its blocks free.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use folio_core::event::{Event, EventKind};
use folio_core::exec::{ExecError, Executor, StepOutput};
use folio_core::ids::Tick;
use folio_core::kv::{Change, KvMemory};
use folio_core::plan::StepPlan;
use folio_core::schedule::Scheduler;

use crate::config::{Checks, EngineConfig};
use crate::costs::CostMeter;
use crate::inbox::{Arriving, Door, Inspector, Message};
use crate::line::Line;
use crate::mask::Masks;
use crate::observe::{Observer, Part};
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::streams::{Streams, send};
use crate::thread::{EngineError, panic_message};
use crate::update::{Cause, Update};

/// When invariants may be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// After a step.
    Step,
    /// There is nothing to do, or nothing is left to do.
    Idle,
    /// The engine ends by an error.
    Error,
}

/// What the thread owns.
pub(crate) struct Engine<M: KvMemory, O: Observer> {
    pub(crate) scheduler: Scheduler<M>,
    observer: O,
    executor: Box<dyn Executor>,
    shared: Arc<Shared>,
    config: EngineConfig,
    pub(crate) streams: Streams,
    /// Accepted and not yet handed to the scheduler.
    line: Line,
    numbers: Snapshot,
    failed_in_a_row: u32,
    costs: CostMeter,
    masks: Masks,
    /// Reused from step to step.
    plan: StepPlan,
    out: StepOutput,
    events: Vec<Event>,
    changes: Vec<Change>,
    messages: Vec<Message>,
}

impl<M: KvMemory, O: Observer> Engine<M, O> {
    pub(crate) fn new(
        scheduler: Scheduler<M>,
        observer: O,
        executor: Box<dyn Executor>,
        shared: Arc<Shared>,
        config: EngineConfig,
    ) -> Self {
        let engine = Self {
            scheduler,
            observer,
            executor,
            shared,
            masks: Masks::new(config.mask_threads, config.mask_time),
            config,
            streams: Streams::default(),
            line: Line::default(),
            numbers: Snapshot::default(),
            failed_in_a_row: 0,
            costs: CostMeter::default(),
            plan: StepPlan::default(),
            out: StepOutput::default(),
            events: Vec::new(),
            changes: Vec::new(),
            messages: Vec::new(),
        };
        engine.shared.publish(&Snapshot { stats: engine.scheduler.stats(), ..Snapshot::default() });
        engine
    }

    /// Serves until the door closes and the accepted requests have ended.
    pub(crate) fn run(&mut self) -> Result<(), EngineError> {
        loop {
            let idle = self.scheduler.is_idle() && self.line.is_empty();
            if idle {
                // Aborts change the numbers without a step.
                self.publish();
                self.check(Occasion::Idle)?;
                self.prepare();
            }
            let door = self.shared.inbox.take(idle, &mut self.messages);
            if door >= Door::Aborting {
                return Ok(());
            }
            self.observer.began();
            self.receive();
            self.hand_over();
            self.observer.ended(Part::Receive);
            if !self.scheduler.is_idle() {
                self.step()?;
            } else if door == Door::Draining {
                return Ok(());
            }
        }
    }

    /// Lets the executor prepare for steps to come until somebody wants something.
    fn prepare(&mut self) {
        while self.shared.inbox.is_quiet() && self.executor.prepare() {}
    }

    /// Ends every request with `cause`. The door must be closed, so that no request can follow.
    pub(crate) fn end_all(&mut self, cause: &Cause) {
        for group in self.streams.groups() {
            self.scheduler.abort(group);
        }
        self.publish();
        self.refuse_messages(cause);
        self.streams.fail_all(cause);
    }

    /// Ends the requests that never reached the scheduler.
    pub(crate) fn refuse_messages(&mut self, cause: &Cause) {
        while let Some(request) = self.line.next() {
            refuse(request, cause.clone());
        }
        self.shared.inbox.take(false, &mut self.messages);
        for message in self.messages.drain(..) {
            if let Message::Generate(request) = message {
                refuse(*request, cause.clone());
            }
        }
    }

    /// Checks every invariant if the configuration asks for it at this occasion.
    pub(crate) fn check(&self, occasion: Occasion) -> Result<(), EngineError> {
        let wanted = match occasion {
            Occasion::Step => self.config.checks == Checks::EveryStep,
            Occasion::Idle => self.config.checks != Checks::Never,
            Occasion::Error => true,
        };
        if !wanted {
            return Ok(());
        }
        self.scheduler.check().map_err(EngineError::Invariant)?;
        let forgotten = self.streams.groups().len();
        if self.scheduler.is_idle() && forgotten > 0 {
            let sentence =
                format!("{forgotten} streams are open, but the scheduler has no requests");
            return Err(EngineError::Invariant(sentence));
        }
        Ok(())
    }

    /// Takes the messages in, in the order they were sent.
    fn receive(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        let mut inspectors = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Generate(request) => self.line.push(*request),
                Message::Abort(request) => {
                    if let Some(group) = self.streams.remove(request) {
                        self.scheduler.abort(group);
                        self.masks.forget(group);
                    } else {
                        // With it goes its permit.
                        drop(self.line.remove(request));
                    }
                }
                Message::Inspect(inspector) => inspectors.push(inspector),
            }
        }
        self.messages = messages;
        self.report(inspectors);
    }

    /// Hands the scheduler as many requests as its next step may take up, so that the order of the others stays open.
    fn hand_over(&mut self) {
        let now = self.now();
        while self.scheduler.is_eager()
            && let Some(request) = self.line.next()
        {
            self.submit(request, now);
        }
    }

    /// Tells all who asked how the memory is used, by one look at it.
    fn report(&self, inspectors: Vec<Inspector>) {
        let waiting: Vec<Inspector> =
            inspectors.into_iter().filter(|inspector| !inspector.answer.is_closed()).collect();
        if waiting.is_empty() {
            return;
        }
        let report = self.scheduler.inspect();
        for Inspector { answer, place } in waiting {
            // Free before the answer is read, so that whoever has read it can ask again.
            drop(place);
            let _ = answer.send(report.clone());
        }
    }

    fn submit(&mut self, request: Arriving, now: Tick) {
        // Its reader may have gone while it lay in the inbox.
        if request.updates.is_closed() {
            return;
        }
        let Arriving { id, owner, job, constraint, updates, permit } = request;
        match self.scheduler.submit(job, now) {
            Ok(group) => {
                self.streams.insert(group, id, owner, updates, permit);
                if let Some(constraint) = constraint {
                    self.masks.insert(group, constraint);
                }
            }
            Err(reject) => {
                drop(permit);
                send(&updates, Instant::now(), Update::Failed(Cause::Rejected(reject)));
            }
        }
    }

    fn step(&mut self) -> Result<(), EngineError> {
        let began = Instant::now();
        self.scheduler.schedule(self.now(), &mut self.plan);
        if self.plan.is_empty() {
            // Nothing but a bug plans nothing while there is work. Waiting would be a hang.
            return if self.scheduler.is_idle() { Ok(()) } else { Err(EngineError::Stuck) };
        }
        self.constrain();
        self.observer.ended(Part::Schedule);
        let started = Instant::now();
        let result = self.execute();
        let took = started.elapsed();
        self.observer.ended(Part::Execute);
        let failed = result.is_err();
        match &result {
            Ok(()) => {
                self.failed_in_a_row = 0;
                let swapping = self.out.swapping;
                if let Some(costs) = self.costs.record(self.plan.tokens.len(), took, swapping) {
                    self.scheduler.set_recovery_costs(costs);
                }
                self.scheduler.commit(&self.plan, &self.out, self.now(), &mut self.events);
                self.masks.commit(&self.plan, &self.out, &self.scheduler);
            }
            Err(error) => {
                self.failed_in_a_row += 1;
                tracing::error!(%error, rows = self.plan.rows.len(), "a step failed");
                self.scheduler.fail(&self.plan, &mut self.events);
            }
        }
        self.tell_changes();
        self.observer.ended(Part::Commit);
        self.numbers.record_step(self.plan.tokens.len(), took, failed);
        self.forget_masks();
        for owner in self.streams.owners(&self.events) {
            self.line.generated(owner, 1);
        }
        self.streams.release(&self.events);
        self.publish();
        self.shared.progress.mark();
        self.streams.deliver(&mut self.events, began, Instant::now());
        self.observer.ended(Part::Publish);
        self.observer.finished(&self.plan);
        self.check(Occasion::Step)?;
        match result {
            Err(last) if self.failed_in_a_row >= self.config.max_failed_steps => {
                Err(EngineError::FailedSteps { count: self.failed_in_a_row, last })
            }
            _ => Ok(()),
        }
    }

    fn tell_changes(&mut self) {
        self.scheduler.take_changes(&mut self.changes);
        if !self.changes.is_empty() {
            self.observer.cache_changed(&mut self.changes);
            self.changes.clear();
        }
    }

    /// Puts the masks into the plan. Requests without one end here; their rows are computed in vain.
    fn constrain(&mut self) {
        let failed = self.masks.fill(&mut self.plan, &self.scheduler);
        self.numbers.masks = self.masks.costs();
        for (group, _) in &failed {
            self.scheduler.abort(*group);
            self.masks.forget(*group);
        }
        if !failed.is_empty() {
            self.publish();
        }
        for (group, why) in failed {
            tracing::warn!(%why, "a request could not be kept to its grammar");
            self.streams.fail(group, Cause::Constraint(why));
        }
    }

    /// Forgets the constraints of the groups that have ended.
    fn forget_masks(&mut self) {
        for event in &self.events {
            if matches!(event.kind, EventKind::Ended { .. } | EventKind::Failed(_)) {
                self.masks.forget(event.group);
            }
        }
    }

    /// Runs the plan. A panic, or an answer of the wrong shape, is an error like any other.
    fn execute(&mut self) -> Result<(), ExecError> {
        let Self { executor, plan, out, .. } = self;
        out.clear();
        // After a panic the output is not looked at, and the executor's cache counts as undefined for the plan's rows.
        catch_unwind(AssertUnwindSafe(|| executor.execute(plan, out))).unwrap_or_else(|panic| {
            Err(ExecError(format!("the executor panicked: {}", panic_message(&*panic))))
        })?;
        let wanted = (plan.draws.len(), plan.targets.len());
        let got = (out.draws.len(), out.scores.len());
        if wanted == got {
            Ok(())
        } else {
            Err(ExecError(format!(
                "the executor answered with {got:?} draws and scores where the plan has {wanted:?}"
            )))
        }
    }

    fn publish(&mut self) {
        self.numbers.stats = self.scheduler.stats();
        self.shared.publish(&self.numbers);
    }

    fn now(&self) -> Tick {
        Tick(self.shared.progress.micros())
    }
}

/// Ends a request that the scheduler never saw.
fn refuse(request: Arriving, cause: Cause) {
    let Arriving { updates, permit, .. } = request;
    drop(permit);
    send(&updates, Instant::now(), Update::Failed(cause));
}
