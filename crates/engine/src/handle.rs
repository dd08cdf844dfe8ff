//! How everybody but the engine's thread uses the engine. Nothing here blocks or waits.

use std::sync::Arc;
use std::time::Instant;

use folio_core::inspect::KvReport;
use folio_core::params::Decoding;
use folio_core::schedule::{Admission, Job, Limits, Reject};
use tokio::sync::{mpsc, oneshot};

use crate::constraint::Constraint;
use crate::generation::Generation;
use crate::health::Health;
use crate::inbox::{Arriving, Door, Inspector};
use crate::line::Owner;
use crate::shared::{InspectPlace, Permit, Shared};
use crate::snapshot::Snapshot;

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// As many requests as are allowed are waiting or running.
    #[error("{requests} requests are waiting or running, and at most {limit} may; try again later")]
    Busy {
        /// Requests in the engine.
        requests: u32,
        /// Most there may be.
        limit: u32,
    },
    /// It can never be served.
    #[error(transparent)]
    Rejected(#[from] Reject),
    /// Beams and a constraint at once.
    #[error("a beam search cannot be kept to a grammar")]
    ConstrainedBeams,
    /// The engine takes no new requests, or has ended as it was told to.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine has ended by an error.
    #[error("the engine has ended by an error; the server's log says which")]
    Dead,
}

/// Sends requests to the engine. Clones are the same engine; when the last one is dropped, the engine drains and ends.
#[derive(Clone, Debug)]
pub struct Handle {
    door: Arc<Doorkeeper>,
}

/// Exists as long as any handle does.
#[derive(Debug)]
struct Doorkeeper {
    shared: Arc<Shared>,
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        self.shared.inbox.close(Door::Draining);
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { door: Arc::new(Doorkeeper { shared }) }
    }

    /// [`Self::generate_for`] nobody in particular.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub fn generate(&self, job: Job) -> Result<Generation, Refused> {
        self.generate_for(0, job)
    }

    /// Takes a permit, checks that the request can be served at all, and sends it. The permit returns when the request
    /// ends. Owners are served alike: among those whose requests wait, the one that has been served least is next.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub fn generate_for(&self, owner: Owner, job: Job) -> Result<Generation, Refused> {
        self.send(owner, job, None)
    }

    /// The same for a request whose tokens `constraint` restricts; every sequence gets a fork of it.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent. A beam search cannot be restricted.
    pub fn generate_constrained(
        &self,
        owner: Owner,
        job: Job,
        constraint: Box<dyn Constraint>,
    ) -> Result<Generation, Refused> {
        match job.params.decoding {
            Decoding::Beam(_) => Err(Refused::ConstrainedBeams),
            Decoding::Sample { .. } => self.send(owner, job, Some(constraint)),
        }
    }

    fn send(
        &self,
        owner: Owner,
        job: Job,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Generation, Refused> {
        let arrival = Instant::now();
        let shared = self.shared();
        // Asked again under the lock; here so that a closed engine says so rather than that it is busy.
        refuse(shared.inbox.door())?;
        let permit = Permit::take(shared)
            .map_err(|requests| Refused::Busy { requests, limit: shared.limit() })?;
        shared.admission.check(&job)?;
        let id = shared.request_id();
        let (sender, receiver) = mpsc::unbounded_channel();
        let request = Arriving { id, owner, job, constraint, updates: sender, permit };
        if let Err(door) = shared.inbox.generate(request) {
            refuse(door)?;
        }
        Ok(Generation::new(Arc::clone(shared), id, receiver, arrival))
    }

    /// What the scheduler allows.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared().admission.limits
    }

    /// What decides whether a request can be served at all.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.shared().admission
    }

    /// The numbers published after the last step.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared().snapshot()
    }

    /// Who holds which part of the memory, as it is between two steps. `None` when a few others are asking already, or the
    /// engine has ended. The engine is asked at once, when this is called; whoever no longer waits costs it nothing more.
    pub fn inspect(&self) -> impl Future<Output = Option<KvReport>> + Send + use<> {
        let report = InspectPlace::take(self.shared()).map(|place| {
            let (answer, report) = oneshot::channel();
            self.shared().inbox.inspect(Inspector { answer, place });
            report
        });
        async { report?.await.ok() }
    }

    /// Whether the engine makes progress.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared().health()
    }

    /// Refuses new requests from now on. The accepted ones finish, then the thread ends.
    pub fn drain(&self) {
        self.shared().inbox.close(Door::Draining);
    }

    /// Ends everything after the step that is running: every stream gets [`crate::Cause::Shutdown`], then the thread ends.
    pub fn abort_all(&self) {
        self.shared().inbox.close(Door::Aborting);
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.door.shared
    }
}

fn refuse(door: Door) -> Result<(), Refused> {
    match door {
        Door::Open => Ok(()),
        Door::Draining | Door::Aborting | Door::Ended => Err(Refused::ShuttingDown),
        Door::Dead => Err(Refused::Dead),
    }
}
