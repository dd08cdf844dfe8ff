//! What every kernel runs on: a team, an instruction set and scratch memory that is kept between calls.
//!
//! Why scratch lives here: a forward pass makes hundreds of calls, and none of them should allocate. Scratch grows to the
//! largest call and stays.

use std::cell::RefCell;
use std::io;

use crate::isa::Isa;
use crate::memory::{Buffer, Parts};
use crate::team::Team;

/// A team, an instruction set and scratch. `Send`, not `Sync`: one owner computes at a time.
pub struct Context {
    team: Team,
    isa: Isa,
    scratch: RefCell<Buffer>,
}

/// Elementwise work below this many numbers is not worth waking threads.
const WORTH_SHARING: usize = 16 * 1024;

impl Context {
    /// A context whose team has `threads` threads, the caller included.
    ///
    /// # Errors
    /// When the system gives no more threads.
    ///
    /// # Panics
    /// When `threads` is zero.
    pub fn new(threads: usize, isa: Isa) -> io::Result<Self> {
        Ok(Self { team: Team::new(threads)?, isa, scratch: RefCell::default() })
    }

    /// The threads.
    #[must_use]
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of scratch held now.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        self.scratch.borrow().bytes()
    }

    /// Runs `job(shared, own)` with scratch: `shared` floats that all threads see, and `each` floats for every thread. What
    /// they hold at first is unspecified.
    pub(crate) fn with_scratch<R>(
        &self,
        shared: usize,
        each: usize,
        job: impl FnOnce(&mut [f32], &PerThread<'_>) -> R,
    ) -> R {
        let mut buffer = self.scratch.borrow_mut();
        let all = buffer.take(scratch_floats(self.team.threads(), shared, each));
        let (all, own) = all.split_at_mut(shared.next_multiple_of(LINE));
        job(&mut all[..shared], &PerThread { parts: Parts::new(own), each })
    }

    /// Runs `job(first row, number of rows)` over all rows, in parallel when there is enough to do.
    pub(crate) fn over_rows(&self, rows: usize, width: usize, job: impl Fn(usize, usize) + Sync) {
        let threads = self.team.threads();
        if threads == 1 || rows * width < WORTH_SHARING {
            return job(0, rows);
        }
        // Enough pieces to even out, none so small that taking it costs more than doing it.
        let at_least = (WORTH_SHARING / 4).div_ceil(width.max(1));
        let rows_each = rows.div_ceil(threads * 4).max(at_least);
        self.team.for_each_in_runs(rows.div_ceil(rows_each), |_, piece| {
            let first = piece * rows_each;
            job(first, rows_each.min(rows - first));
        });
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (isa, threads) = (self.isa, self.team.threads());
        f.debug_struct("Context")
            .field("isa", &isa)
            .field("threads", &threads)
            .finish_non_exhaustive()
    }
}

/// Floats in a cache line; threads' parts start on one, so that they share none.
const LINE: usize = 16;

/// How much [`Context::with_scratch`] takes.
pub(crate) fn scratch_floats(threads: usize, shared: usize, each: usize) -> usize {
    shared.next_multiple_of(LINE) + threads * each.next_multiple_of(LINE)
}

/// A buffer for every thread.
pub(crate) struct PerThread<'a> {
    parts: Parts<'a, f32>,
    each: usize,
}

impl PerThread<'_> {
    /// The buffer of `thread`.
    ///
    /// # Safety
    /// Only that thread may ask for it, and only one at a time.
    #[expect(clippy::mut_from_ref, reason = "every thread has its own part")]
    pub(crate) unsafe fn of(&self, thread: usize) -> &mut [f32] {
        // SAFETY: parts of different threads do not overlap; the caller promises to be the only one for this thread.
        unsafe { self.parts.part(thread * self.each.next_multiple_of(LINE), self.each) }
    }
}
