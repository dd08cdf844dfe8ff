//! Tasks dealt to threads in runs: neighbours stay together, and who has finished helps the others.
//!
//! Why: what lies behind a task in memory is asked for while the task is worked on (see `stored_tile`), and the rows that an operation
//! wrote are in its core's cache when the next operation reads them. Both are lost when neighbours go to different threads.

use crate::sync::{AtomicU64, Ordering};

/// The tasks that one thread still has: the first in the lower half of a word, the end in the upper one, so that both change
/// together. On a cache line of its own, since its thread changes it for every task.
#[repr(align(128))]
struct Run(AtomicU64);

impl Run {
    fn set(&self, first: u32, end: u32) {
        self.0.store(word(first, end), Ordering::Relaxed);
    }

    /// Takes the first task or the last one.
    fn take(&self, last: bool) -> Option<u32> {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = halves(now);
            if first >= end {
                return None;
            }
            let (task, left) =
                if last { (end - 1, word(first, end - 1)) } else { (first, word(first + 1, end)) };
            // A task is only a number: what it stands for was published before the region began.
            match self.0.compare_exchange_weak(now, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(task),
                Err(other) => now = other,
            }
        }
    }
}

fn word(first: u32, end: u32) -> u64 {
    u64::from(end) << 32 | u64::from(first)
}

fn halves(word: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    (word as u32, (word >> 32) as u32)
}

/// A run for each thread.
pub(crate) struct Runs(Vec<Run>);

impl Runs {
    pub(crate) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Run(AtomicU64::new(0))).collect())
    }

    /// Deals the tasks below `tasks`, as evenly as they can be.
    ///
    /// # Panics
    /// When they are more than 2³².
    pub(crate) fn deal(&self, tasks: usize) {
        let tasks = u32::try_from(tasks).expect("tasks fit 32 bits");
        let threads = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        let mut first = 0;
        for (i, run) in (1..).zip(&self.0) {
            // The last one ends with the tasks.
            let end = u32::try_from(u64::from(tasks) * i / threads).unwrap_or(tasks);
            run.set(first, end);
            first = end;
        }
    }

    /// The next task for a thread: its own first one, else the last one of another.
    pub(crate) fn next(&self, thread: usize) -> Option<usize> {
        let (before, from) = self.0.split_at(thread);
        let mut runs = from.iter().chain(before);
        let own = runs.next().and_then(|run| run.take(false));
        let task = own.or_else(|| runs.find_map(|run| run.take(true)));
        task.map(|task| task as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_its_own_in_order_and_then_the_last_of_the_next() {
        let runs = Runs::new(3);
        runs.deal(8);
        let take = |thread, count| -> Vec<_> { (0..count).map(|_| runs.next(thread)).collect() };
        assert_eq!(take(0, 2), [Some(0), Some(1)]);
        assert_eq!(take(1, 1), [Some(2)]);
        assert_eq!(take(0, 2), [Some(4), Some(3)]);
        assert_eq!(take(1, 3), [Some(7), Some(6), Some(5)]);
        assert_eq!((take(0, 1), take(1, 1), take(2, 1)), (vec![None], vec![None], vec![None]));
        runs.deal(2);
        assert_eq!(take(2, 3), [Some(1), Some(0), None]);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p folio-kernels --release --lib runs`.
#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use crate::sync::{Arc, AtomicUsize, thread};

    #[test]
    fn every_task_is_taken_once_whoever_helps_whom() {
        loom::model(|| {
            let runs = Arc::new(Runs::new(2));
            let counts: Arc<Vec<_>> = Arc::new((0..3).map(|_| AtomicUsize::new(0)).collect());
            runs.deal(3);
            let work = |thread: usize, runs: Arc<Runs>, counts: Arc<Vec<AtomicUsize>>| {
                while let Some(task) = runs.next(thread) {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                }
            };
            let (theirs, other) = (Arc::clone(&runs), Arc::clone(&counts));
            let helper = thread::spawn(move || work(1, theirs, other));
            work(0, runs, Arc::clone(&counts));
            helper.join().expect("no panic");
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        });
    }
}
