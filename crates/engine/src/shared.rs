//! What handles, generations and the engine's thread have in common: the inbox, the permits, and the marks and numbers
//! that the thread leaves for others to read.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use folio_core::schedule::Admission;

use crate::health::{Health, Progress};
use crate::inbox::{Inbox, RequestId};
use crate::snapshot::Snapshot;

/// A report visits every block, so few are made at one time.
const MOST_INSPECTORS: u32 = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Inbox,
    pub(crate) admission: Admission,
    pub(crate) progress: Progress,
    snapshot: Mutex<Snapshot>,
    permits: AtomicU32,
    inspectors: AtomicU32,
    next_request: AtomicU64,
}

impl Shared {
    pub(crate) fn new(admission: Admission, stall_after: Duration) -> Self {
        Self {
            inbox: Inbox::new(),
            admission,
            progress: Progress::new(stall_after),
            snapshot: Mutex::new(Snapshot::default()),
            permits: AtomicU32::new(0),
            inspectors: AtomicU32::new(0),
            next_request: AtomicU64::new(0),
        }
    }

    /// Permits taken and not returned.
    pub(crate) fn requests(&self) -> u32 {
        self.permits.load(Ordering::Acquire)
    }

    /// Most permits there are.
    pub(crate) fn limit(&self) -> u32 {
        self.admission.limits.max_queued
    }

    /// A name that no other request has.
    pub(crate) fn request_id(&self) -> RequestId {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn health(&self) -> Health {
        self.progress.health(self.inbox.door(), self.requests())
    }

    /// Lets others see `snapshot`.
    pub(crate) fn publish(&self, snapshot: &Snapshot) {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone_from(snapshot);
    }

    /// What was last published, with the number of requests as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut copy = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        copy.requests = self.requests();
        copy
    }
}

/// The right to be in the engine. Returned when dropped, and therefore once.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Shared>);

impl Permit {
    /// Takes a permit, or tells how many are out.
    pub(crate) fn take(shared: &Arc<Shared>) -> Result<Self, u32> {
        if shared.requests() == 0 {
            // There was nothing to do, so the age of the last step means nothing. Marked before the permit is taken:
            // nobody may see a request together with an old mark.
            shared.progress.mark();
        }
        let limit = shared.limit();
        shared.permits.try_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < limit).then_some(taken + 1)
        })?;
        Ok(Self(Arc::clone(shared)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to ask for a report. Returned when dropped.
#[derive(Debug)]
pub(crate) struct InspectPlace(Arc<Shared>);

impl InspectPlace {
    /// A place, unless all are taken.
    pub(crate) fn take(shared: &Arc<Shared>) -> Option<Self> {
        let free = |taken| (taken < MOST_INSPECTORS).then_some(taken + 1);
        shared.inspectors.try_update(Ordering::AcqRel, Ordering::Acquire, free).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for InspectPlace {
    fn drop(&mut self) {
        self.0.inspectors.fetch_sub(1, Ordering::AcqRel);
    }
}
