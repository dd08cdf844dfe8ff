//! Which tokens the next draws may choose, made on threads of their own.
//!
//! A request's first mask is made while the request waits and its prompt is computed; every later one from the moment its
//! last token is known, while the engine tells the others' tokens, reads its inbox and schedules. The engine waits for what
//! is missing just before the step is executed, and not longer than it may. **Invariants.** A constraint has taken in
//! exactly the tokens that were committed to its sequence: what a step drew in vain is not told to it. So recomputing or
//! swapping a sequence changes nothing here. Whatever goes wrong ends the request it belongs to, and no other: work that
//! takes too long is cancelled, and its thread is replaced, so that nobody waits behind it.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use folio_core::exec::StepOutput;
use folio_core::ids::{GroupId, SeqId, Token};
use folio_core::kv::KvMemory;
use folio_core::plan::StepPlan;
use folio_core::schedule::Scheduler;

use crate::constraint::{Canceller, Constraint};
use crate::snapshot::MaskCosts;

/// Whose mask it is; `None` for the first one of a request, which all its sequences share.
type Key = (GroupId, Option<SeqId>);

/// Grammars are worked on by recursion; only what is used of it takes memory.
const STACK_BYTES: usize = 16 << 20;

/// What a thread is asked to do: take the token in, then make the mask.
struct Task {
    key: Key,
    constraint: Box<dyn Constraint>,
    token: Option<Token>,
    mask: Vec<u32>,
}

/// What came of a task.
struct Done {
    key: Key,
    took: Duration,
    outcome: Result<Ready, String>,
}

/// A constraint and the mask of its next token.
struct Ready {
    constraint: Box<dyn Constraint>,
    mask: Vec<u32>,
}

enum State {
    Working(Canceller),
    Ready(Ready),
    Failed(String),
}

/// What a thread is doing, and whether it is to end after that.
#[derive(Default)]
struct Desk {
    task: Option<(Key, Instant)>,
    retired: bool,
}

/// Where the threads take their tasks from.
type Queue = Arc<Mutex<Receiver<Task>>>;

/// The constraints of all requests.
pub(crate) struct Masks {
    threads: usize,
    limit: Duration,
    by_group: BTreeMap<GroupId, HashMap<Option<SeqId>, State>>,
    desks: Vec<Arc<Mutex<Desk>>>,
    tasks: Sender<Task>,
    queue: Queue,
    done: Receiver<Done>,
    results: Sender<Done>,
    costs: MaskCosts,
}

impl Masks {
    /// `threads` make masks once there are constraints; each may take `limit` for one.
    pub(crate) fn new(threads: usize, limit: Duration) -> Self {
        let (tasks, queue) = channel();
        let (results, done) = channel();
        Self {
            threads: threads.max(1),
            limit,
            by_group: BTreeMap::new(),
            desks: Vec::new(),
            tasks,
            queue: Arc::new(Mutex::new(queue)),
            done,
            results,
            costs: MaskCosts::default(),
        }
    }

    /// What masks have cost so far.
    pub(crate) fn costs(&self) -> MaskCosts {
        self.costs
    }

    /// Begins to follow a request.
    pub(crate) fn insert(&mut self, group: GroupId, constraint: Box<dyn Constraint>) {
        self.send(Task { key: (group, None), constraint, token: None, mask: Vec::new() });
    }

    /// Forgets a request that has ended.
    pub(crate) fn forget(&mut self, group: GroupId) {
        for (_, state) in self.by_group.remove(&group).into_iter().flatten() {
            if let State::Working(canceller) = state {
                canceller.cancel();
            }
        }
    }

    /// Writes the masks of the plan's draws into it. Returns the requests that have none, and why.
    pub(crate) fn fill<M: KvMemory>(
        &mut self,
        plan: &mut StepPlan,
        scheduler: &Scheduler<M>,
    ) -> Vec<(GroupId, String)> {
        let mut failed = Vec::new();
        if self.by_group.is_empty() {
            return failed;
        }
        let StepPlan { rows, draws, masks, .. } = plan;
        for row in rows.iter().filter(|row| !row.draws.is_empty()) {
            let Some(group) = scheduler.group_of(row.seq) else { continue };
            let mut shared = None;
            for draw in draws.get_mut(row.draws.clone()).unwrap_or_default() {
                let Some(states) = self.by_group.get(&group) else { continue };
                let own = Some(draw.seq).filter(|_| states.contains_key(&Some(draw.seq)));
                if let (None, Some(range)) = (own, &shared) {
                    draw.mask = Clone::clone(range);
                    continue;
                }
                match self.wait((group, own)) {
                    Ok(mask) => {
                        let first = masks.len();
                        masks.extend_from_slice(mask);
                        draw.mask = first..masks.len();
                        shared = own.is_none().then(|| draw.mask.clone());
                    }
                    Err(why) => {
                        failed.push((group, why));
                        break;
                    }
                }
            }
        }
        failed
    }

    /// Tells the constraints what was committed, and has the next masks made.
    pub(crate) fn commit<M: KvMemory>(
        &mut self,
        plan: &StepPlan,
        out: &StepOutput,
        scheduler: &Scheduler<M>,
    ) {
        if self.by_group.is_empty() {
            return;
        }
        for (draw, drawn) in plan.draws.iter().zip(&out.draws) {
            // A sequence that has ended needs no mask, and one whose draw came to nothing draws again.
            let goes_on = scheduler.length_of(draw.seq) == Some(draw.position.saturating_add(1));
            let (Ok(drawn), true) = (drawn, goes_on) else { continue };
            let Some(group) = scheduler.group_of(draw.seq) else { continue };
            let Some(states) = self.by_group.get_mut(&group) else { continue };
            let ready = match states.remove(&Some(draw.seq)) {
                Some(State::Ready(ready)) => ready,
                Some(other) => {
                    states.insert(Some(draw.seq), other);
                    continue;
                }
                None => match states.get(&None) {
                    Some(State::Ready(first)) => {
                        Ready { constraint: first.constraint.fork(), mask: Vec::new() }
                    }
                    _ => continue,
                },
            };
            let Ready { constraint, mask } = ready;
            self.send(Task {
                key: (group, Some(draw.seq)),
                constraint,
                token: Some(drawn.token),
                mask,
            });
        }
    }

    /// The mask, when it is there in time.
    fn wait(&mut self, key: Key) -> Result<&[u32], String> {
        let (group, seq) = key;
        let began = Instant::now();
        let mut look = began + self.limit;
        while let Some(State::Working(_)) = self.state(key) {
            let left = look.saturating_duration_since(Instant::now());
            if let Ok(done) = self.done.recv_timeout(left) {
                self.place(done);
            } else {
                self.retire_the_slow();
                look = Instant::now() + self.limit;
            }
        }
        self.costs.waited += began.elapsed();
        match self.by_group.get(&group).and_then(|states| states.get(&seq)) {
            Some(State::Ready(ready)) => Ok(&ready.mask),
            Some(State::Failed(why)) => Err(why.clone()),
            Some(State::Working(_)) | None => Err("its grammar was lost".to_owned()),
        }
    }

    fn state(&mut self, (group, seq): Key) -> Option<&mut State> {
        self.by_group.get_mut(&group)?.get_mut(&seq)
    }

    /// Gives up what has taken too long, and puts other threads in the place of those that do it.
    fn retire_the_slow(&mut self) {
        let mut slow = Vec::new();
        self.desks.retain(|desk| {
            let mut desk = lock(desk);
            match desk.task {
                Some((key, since)) if since.elapsed() >= self.limit => {
                    desk.retired = true;
                    slow.push(key);
                    false
                }
                _ => true,
            }
        });
        self.hire();
        if self.desks.is_empty() {
            // Nobody is left who could do the rest.
            let all = self.by_group.iter();
            slow.extend(all.flat_map(|(group, states)| states.keys().map(|seq| (*group, *seq))));
        }
        for key in slow {
            if let Some(state) = self.state(key)
                && let State::Working(_) = state
            {
                let too_slow = State::Failed("its grammar took too long".to_owned());
                if let State::Working(canceller) = std::mem::replace(state, too_slow) {
                    canceller.cancel();
                }
            }
        }
    }

    /// Takes a result in, if somebody still waits for it.
    fn place(&mut self, done: Done) {
        let Done { key, took, outcome } = done;
        self.costs.made += 1;
        self.costs.work += took;
        if let Some(state) = self.state(key)
            && matches!(state, State::Working(_))
        {
            *state = match outcome {
                Ok(ready) => State::Ready(ready),
                Err(why) => State::Failed(why),
            };
        }
    }

    /// Hands a task to the threads.
    fn send(&mut self, task: Task) {
        let (group, seq) = task.key;
        let working = State::Working(task.constraint.canceller());
        self.hire();
        let sent = !self.desks.is_empty() && self.tasks.send(task).is_ok();
        let lost = || State::Failed("there is no thread for its grammar".to_owned());
        let state = if sent { working } else { lost() };
        self.by_group.entry(group).or_default().insert(seq, state);
    }

    /// Starts the threads that are missing, as far as the system gives any.
    fn hire(&mut self) {
        while self.desks.len() < self.threads {
            let desk = Arc::<Mutex<Desk>>::default();
            let (own, queue) = (Arc::clone(&desk), Arc::clone(&self.queue));
            let results = self.results.clone();
            let thread = Builder::new().name("folio-mask".to_owned()).stack_size(STACK_BYTES);
            if thread.spawn(move || work(&own, &queue, &results)).is_err() {
                return;
            }
            self.desks.push(desk);
        }
    }
}

/// A thread that makes masks for as long as the engine lives.
fn work(desk: &Mutex<Desk>, queue: &Mutex<Receiver<Task>>, results: &Sender<Done>) {
    loop {
        let next = lock(queue).recv();
        let Ok(Task { key, constraint, token, mask }) = next else { return };
        let began = Instant::now();
        lock(desk).task = Some((key, began));
        let outcome = catch_unwind(AssertUnwindSafe(move || make(constraint, token, mask)))
            .unwrap_or_else(|_| Err("its grammar failed".to_owned()));
        let sent = results.send(Done { key, took: began.elapsed(), outcome });
        let mut desk = lock(desk);
        desk.task = None;
        if desk.retired || sent.is_err() {
            return;
        }
    }
}

/// Nothing that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make(
    mut constraint: Box<dyn Constraint>,
    token: Option<Token>,
    mut mask: Vec<u32>,
) -> Result<Ready, String> {
    if let Some(token) = token {
        constraint.advance(token)?;
    }
    mask.clear();
    constraint.mask(&mut mask)?;
    Ok(Ready { constraint, mask })
}
