//! The way in: messages from any thread to the engine's.
//!
//! Not bounded by itself, bounded in fact: a `Generate` holds a permit until the engine lets go of the request, and a
//! request sends at most one `Abort`; an `Inspect` holds a place of which there are few. So pushing never blocks and never
//! fails for want of room, which a `Drop` needs. The door only ever moves towards closed. What was pushed before it closed
//! is seen by the engine.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use folio_core::inspect::KvReport;
use folio_core::schedule::Job;
use tokio::sync::oneshot;

use crate::constraint::Constraint;
use crate::line::Owner;
use crate::shared::{InspectPlace, Permit};
use crate::streams::Sender;

/// A request's name between handle and engine. Never reused.
pub(crate) type RequestId = u64;

/// A request on its way to the scheduler.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) id: RequestId,
    pub(crate) owner: Owner,
    pub(crate) job: Job,
    pub(crate) constraint: Option<Box<dyn Constraint>>,
    pub(crate) updates: Sender,
    pub(crate) permit: Permit,
}

/// Somebody who wants to know how the memory is used. Dropped without an answer when the engine ends.
#[derive(Debug)]
pub(crate) struct Inspector {
    pub(crate) answer: oneshot::Sender<KvReport>,
    pub(crate) place: InspectPlace,
}

/// What the engine is told.
#[derive(Debug)]
pub(crate) enum Message {
    Generate(Box<Arriving>),
    Abort(RequestId),
    Inspect(Inspector),
}

/// Who may still come in; later variants are later in an engine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    /// Everybody.
    Open,
    /// No new requests; the accepted ones finish.
    Draining,
    /// No new requests; the accepted ones end now.
    Aborting,
    /// The engine has ended as it was told to.
    Ended,
    /// The engine has ended by an error.
    Dead,
}

#[derive(Debug)]
struct State {
    messages: Vec<Message>,
    door: Door,
}

impl State {
    fn is_quiet(&self) -> bool {
        self.messages.is_empty() && self.door == Door::Open
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        let state = State { messages: Vec::new(), door: Door::Open };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Hands a request in, unless the door is not open: then says how far it has closed.
    pub(crate) fn generate(&self, request: Arriving) -> Result<(), Door> {
        let mut state = self.lock();
        if state.door != Door::Open {
            return Err(state.door);
        }
        state.messages.push(Message::Generate(Box::new(request)));
        self.changed.notify_one();
        Ok(())
    }

    /// Asks for a request to end; without effect when it has.
    pub(crate) fn abort(&self, request: RequestId) {
        let mut state = self.lock();
        if state.door < Door::Ended {
            state.messages.push(Message::Abort(request));
            self.changed.notify_one();
        }
    }

    /// Asks for a report; without effect when the engine has ended.
    pub(crate) fn inspect(&self, inspector: Inspector) {
        let mut state = self.lock();
        if state.door < Door::Ended {
            state.messages.push(Message::Inspect(inspector));
            self.changed.notify_one();
        }
    }

    /// Closes the door at least as far as `door`.
    pub(crate) fn close(&self, door: Door) {
        let mut state = self.lock();
        state.door = state.door.max(door);
        self.changed.notify_one();
    }

    /// How far the door has closed.
    pub(crate) fn door(&self) -> Door {
        self.lock().door
    }

    /// Moves all messages to the end of `messages` and returns the door as it was at that moment. With `wait`, blocks
    /// until there is a message or the door is not open.
    pub(crate) fn take(&self, wait: bool, messages: &mut Vec<Message>) -> Door {
        let mut state = self.lock();
        while wait && state.is_quiet() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        messages.append(&mut state.messages);
        state.door
    }

    /// Whether [`Inbox::take`] would wait.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().is_quiet()
    }

    // No code that can panic runs under the lock, so a poisoned one holds nothing broken.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
