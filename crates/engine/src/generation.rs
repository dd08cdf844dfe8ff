//! The reader's side of one request.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::inbox::RequestId;
use crate::shared::Shared;
use crate::update::{Cause, Update};

/// When things happened to a request, as far as its updates have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The handle accepted it.
    pub arrival: Instant,
    /// The step that first computed a part of it began.
    pub admitted: Option<Instant>,
    /// The step that made the first token of any choice was committed.
    pub first_token: Option<Instant>,
    /// The step that made the last token so far of any choice was committed.
    pub last_token: Option<Instant>,
    /// It finished or failed.
    pub ended: Option<Instant>,
}

impl Timing {
    fn note(&mut self, at: Instant, update: &Update) {
        match update {
            Update::Admitted { .. } => self.admitted = Some(at),
            Update::PromptScored(_) | Update::Ranked { .. } => {}
            Update::Sampled { .. } => {
                self.first_token.get_or_insert(at);
                self.last_token = Some(at);
            }
            Update::Ended { .. } | Update::Failed(_) => self.ended = Some(at),
        }
    }
}

/// The updates of one request. Dropping it before its last update aborts the request wherever it is: in the inbox,
/// waiting, or running.
#[derive(Debug)]
pub struct Generation {
    shared: Arc<Shared>,
    id: RequestId,
    updates: UnboundedReceiver<(Instant, Update)>,
    timing: Timing,
}

impl Generation {
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: RequestId,
        updates: UnboundedReceiver<(Instant, Update)>,
        arrival: Instant,
    ) -> Self {
        let timing =
            Timing { arrival, admitted: None, first_token: None, last_token: None, ended: None };
        Self { shared, id, updates, timing }
    }

    /// The request's number, unique in its engine.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// When things happened, as far as [`Self::next`] has returned them.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Waits for the next update and returns it with all others that are ready, so that a slow reader costs the engine
    /// nothing. `None` after the final update. Cancel-safe: what was not returned comes with the next call.
    pub async fn next(&mut self) -> Option<Vec<Update>> {
        if self.has_ended() {
            return None;
        }
        let mut ready = Vec::new();
        // A channel that closes without a final update was dropped by a thread that no longer exists.
        let died = || (Instant::now(), Update::Failed(Cause::Died));
        let (at, first) = self.updates.recv().await.unwrap_or_else(died);
        self.timing.note(at, &first);
        ready.push(first);
        while !self.has_ended()
            && let Ok((at, update)) = self.updates.try_recv()
        {
            self.timing.note(at, &update);
            ready.push(update);
        }
        Some(ready)
    }

    fn has_ended(&self) -> bool {
        self.timing.ended.is_some()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.shared.inbox.abort(self.id);
        }
    }
}
