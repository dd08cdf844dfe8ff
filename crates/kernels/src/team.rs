//! A small team of threads that fork and join in under a microsecond.
//!
//! Why our own: a forward pass forks and joins hundreds of times per token. Workers spin for a moment between regions, so
//! that the next one starts at once, and park when nothing comes, so that an idle engine costs nothing. The caller is thread
//! 0, so that a team of one has no threads at all, and thread numbers give every worker its own scratch.
//!
//! Protocol: `run` puts the job in place, then raises the epoch under the lock; a worker that sees a new epoch (spinning, or
//! woken) runs the job and counts itself out; `run` returns when all have. So the job, which lives on the caller's
//! stack, is alive whenever a worker touches it, and is written only when no worker looks. A panic in any thread is kept until
//! everybody has finished and then continues in the caller.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::runs::Runs;
use crate::sync::{
    Arc, AtomicUsize, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, Patience, UnsafeCell,
    thread,
};

/// Threads that run one job together. Not `Sync`: one owner forks, and joins before it does anything else.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    runs: Runs,
    running: Cell<bool>,
}

type Job<'a> = &'a (dyn Fn(usize) + Sync + 'a);
type Payload = Box<dyn Any + Send>;

struct Shared {
    /// Number of the current region; changed only under `lock`.
    epoch: AtomicUsize,
    /// Workers that have not finished the current region.
    unfinished: AtomicUsize,
    /// The job of the current region, its lifetime erased; `None` tells workers to leave.
    job: UnsafeCell<Option<Job<'static>>>,
    lock: Mutex<Sleep>,
    wake: Condvar,
}

struct Sleep {
    sleepers: usize,
    panic: Option<Payload>,
}

// SAFETY: `job` is written by the team's owner only while no worker is in a region (`unfinished` is zero), and read by
// workers only after they have acquired an epoch that was released after the write. All else is atomics and a lock.
unsafe impl Sync for Shared {}
// SAFETY: as above; the job itself is `Sync`, so a reference to it may be sent.
unsafe impl Send for Shared {}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sleep> {
        // Nothing panics while holding it; were it poisoned all the same, its contents would still be good.
        self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts a region of `workers` workers.
    fn start(&self, job: Option<Job<'static>>, workers: usize) {
        // SAFETY: every worker has finished the region before, so none reads the job until the epoch changes.
        self.job.with_mut(|place| unsafe { *place = job });
        self.unfinished.store(workers, Ordering::Relaxed);
        let sleep = self.lock();
        // Release: who sees this epoch sees the job.
        self.epoch.store(self.epoch.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        if sleep.sleepers > 0 {
            self.wake.notify_all();
        }
    }

    /// Waits until every worker has finished the region.
    fn join(&self) {
        let mut patience = Patience::new();
        while self.unfinished.load(Ordering::Acquire) != 0 {
            if !patience.spin() {
                thread::yield_now();
            }
        }
    }

    /// Waits for an epoch other than `seen` and returns it.
    fn next_epoch(&self, seen: usize) -> usize {
        let mut patience = Patience::new();
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            if !patience.spin() {
                break;
            }
        }
        let mut sleep = self.lock();
        sleep.sleepers += 1;
        loop {
            // The epoch changes only under the lock, so no change can slip between this look and the wait.
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                sleep.sleepers -= 1;
                return epoch;
            }
            sleep = self.wake.wait(sleep).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn work(&self, thread: usize) {
        let mut epoch = 0;
        loop {
            epoch = self.next_epoch(epoch);
            // SAFETY: this worker has acquired the epoch that was released after the job was written, and the owner does
            // not write again before this worker has counted itself out below.
            let Some(job) = self.job.with(|place| unsafe { *place }) else { return };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(thread))) {
                self.lock().panic.get_or_insert(payload);
            }
            // Release: the owner sees all that the job wrote.
            self.unfinished.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Team {
    /// A team of `threads` threads, the caller being one of them.
    ///
    /// # Errors
    /// When the system gives no more threads.
    ///
    /// # Panics
    /// When `threads` is zero.
    pub fn new(threads: usize) -> io::Result<Self> {
        assert!(threads > 0, "a team needs at least one thread: the caller");
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            lock: Mutex::new(Sleep { sleepers: 0, panic: None }),
            wake: Condvar::new(),
        });
        let runs = Runs::new(threads);
        let mut team = Self { shared, workers: Vec::new(), runs, running: Cell::new(false) };
        for thread in 1..threads {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new().name(format!("kernels-{thread}"));
            team.workers.push(builder.spawn(move || shared.work(thread))?);
        }
        Ok(team)
    }

    /// How many threads, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(thread)` once on every thread and returns when all have finished.
    ///
    /// # Panics
    /// When the job panicked on any thread: with the first panic, after all threads have finished. The team stays good.
    /// Also when called from inside a job of the same team.
    pub fn run(&self, job: impl Fn(usize) + Sync) {
        assert!(!self.running.replace(true), "a job must not run its own team");
        let mine = if self.workers.is_empty() {
            catch_unwind(AssertUnwindSafe(|| job(0)))
        } else {
            let job: Job<'_> = &job;
            // SAFETY: only the lifetime changes. No worker uses the job after `join` has returned, and nothing between here and
            // there unwinds, so the job outlives every use.
            let erased = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
            self.shared.start(Some(erased), self.workers.len());
            let mine = catch_unwind(AssertUnwindSafe(|| job(0)));
            self.shared.join();
            mine
        };
        self.running.set(false);
        let theirs = if self.workers.is_empty() { None } else { self.shared.lock().panic.take() };
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Runs `job(thread, task)` for every task below `tasks`, each once, on whichever thread is free: begun in order, so the
    /// largest should come first. A single task, or any number on a team of one, runs on the caller without waking anybody.
    ///
    /// # Panics
    /// As [`Team::run`]; after a panic the thread it happened on takes no more tasks, the others finish what is left.
    pub fn for_each(&self, tasks: usize, job: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(|task| job(0, task));
        }
        let next = AtomicUsize::new(0);
        self.run(|thread| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                job(thread, task);
            }
        });
    }

    /// The same, but neighbouring tasks run on one thread, one after the other, as far as that keeps everybody busy. For tasks that
    /// are about equally large.
    ///
    /// # Panics
    /// As [`Team::for_each`], and when tasks are more than 2³².
    pub fn for_each_in_runs(&self, tasks: usize, job: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(|task| job(0, task));
        }
        assert!(!self.running.get(), "a job must not run its own team");
        let runs = &self.runs;
        runs.deal(tasks);
        self.run(|thread| {
            while let Some(task) = runs.next(thread) {
                job(thread, task);
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        self.shared.start(None, 0);
        for worker in self.workers.drain(..) {
            // Jobs' panics are caught, so a worker ends without one.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish()
    }
}

/// The protocol's interleavings: `RUSTFLAGS="--cfg loom" cargo test -p folio-kernels --release --lib team`.
#[cfg(all(test, loom))]
mod tests {
    use super::*;

    /// Regions that each thread enters once, whose writes are seen after the join, and an end that joins all.
    fn regions(threads: usize, regions: usize) {
        let mut model = loom::model::Builder::new();
        // As is usual: nearly every bug shows with two preemptions, and all interleavings of three threads are too many.
        model.preemption_bound = Some(if threads == 2 { 5 } else { 2 });
        model.check(move || {
            let team = Team::new(threads).expect("threads");
            for region in 1..=regions {
                // Plain memory: loom reports a race if the protocol does not order it.
                let cells: Vec<UnsafeCell<usize>> = (0..threads).map(UnsafeCell::new).collect();
                let cells = Cells(cells);
                team.run(|thread| {
                    // SAFETY: each thread has its own cell.
                    cells.get(thread).with_mut(|cell| unsafe { *cell += region });
                });
                for thread in 0..threads {
                    // SAFETY: the region has ended.
                    let value = cells.get(thread).with(|cell| unsafe { *cell });
                    assert_eq!(value, thread + region);
                }
            }
        });
    }

    struct Cells(Vec<UnsafeCell<usize>>);
    // SAFETY: the test accesses each cell from one thread at a time, which loom checks.
    unsafe impl Sync for Cells {}

    impl Cells {
        fn get(&self, thread: usize) -> &UnsafeCell<usize> {
            &self.0[thread]
        }
    }

    #[test]
    fn two_threads_in_three_regions() {
        regions(2, 3);
    }

    #[test]
    fn three_threads_in_one_region() {
        regions(3, 1);
    }
}
