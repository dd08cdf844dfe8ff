//! Whether the engine makes progress, told without asking it.
//!
//! A thread that hangs cannot answer, so it leaves marks instead: the time of its last step. An engine with requests
//! and no recent mark has stalled. Requests count from the moment their permit is taken, so a thread that no longer
//! reads its inbox is found out, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::inbox::Door;

/// The engine's state of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Idle, or making steps.
    Ok,
    /// There are requests, but no step has ended for too long.
    Stalled {
        /// Time since the last sign of progress.
        since: Duration,
    },
    /// Finishing what was accepted; nothing new is.
    Draining,
    /// The thread has ended.
    Dead,
}

/// When progress was last made.
#[derive(Debug)]
pub(crate) struct Progress {
    origin: Instant,
    /// Microseconds after `origin`. Nothing else is published through it, so relaxed order is enough.
    last: AtomicU64,
    stall_after: Duration,
}

impl Progress {
    pub(crate) fn new(stall_after: Duration) -> Self {
        Self { origin: Instant::now(), last: AtomicU64::new(0), stall_after }
    }

    /// Microseconds since the engine was made: the scheduler's time.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A step has ended, or there is work for the first time in a while.
    pub(crate) fn mark(&self) {
        self.last.store(self.micros(), Ordering::Relaxed);
    }

    pub(crate) fn health(&self, door: Door, requests: u32) -> Health {
        if door >= Door::Ended {
            return Health::Dead;
        }
        let since = self.micros().saturating_sub(self.last.load(Ordering::Relaxed));
        let since = Duration::from_micros(since);
        if requests > 0 && since >= self.stall_after {
            Health::Stalled { since }
        } else if door == Door::Open {
            Health::Ok
        } else {
            Health::Draining
        }
    }
}
