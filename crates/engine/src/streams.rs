//! The engine's side of the streams: which group belongs to which request, and whom its updates go to.
//!
//! Sending never blocks. A channel is unbounded in type and bounded in fact, since a request's tokens are. A permit is
//! returned before the update that ends its request is sent, so that whoever reads that update can send the next request.

use std::collections::HashMap;
use std::time::Instant;

use folio_core::event::{Event, EventKind};
use folio_core::ids::GroupId;
use tokio::sync::mpsc::UnboundedSender;

use crate::inbox::RequestId;
use crate::line::Owner;
use crate::shared::Permit;
use crate::update::{Cause, Update};

/// Sends one request's updates, each with the time of its step.
pub(crate) type Sender = UnboundedSender<(Instant, Update)>;

#[derive(Debug)]
struct Stream {
    request: RequestId,
    owner: Owner,
    updates: Sender,
    /// Taken when the request has ended.
    permit: Option<Permit>,
}

/// All requests that the scheduler knows.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_group: HashMap<GroupId, Stream>,
    groups: HashMap<RequestId, GroupId>,
}

impl Streams {
    pub(crate) fn insert(
        &mut self,
        group: GroupId,
        request: RequestId,
        owner: Owner,
        updates: Sender,
        permit: Permit,
    ) {
        self.groups.insert(request, group);
        self.by_group.insert(group, Stream { request, owner, updates, permit: Some(permit) });
    }

    /// Forgets a request whose reader has gone and returns its group; `None` when it has already ended.
    pub(crate) fn remove(&mut self, request: RequestId) -> Option<GroupId> {
        let group = self.groups.remove(&request)?;
        self.by_group.remove(&group);
        Some(group)
    }

    /// The groups of all requests, oldest first.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<_> = self.by_group.keys().copied().collect();
        groups.sort_unstable();
        groups
    }

    /// Ends one request between two steps.
    pub(crate) fn fail(&mut self, group: GroupId, cause: Cause) {
        let Some(Stream { request, updates, permit, .. }) = self.by_group.remove(&group) else {
            return;
        };
        self.groups.remove(&request);
        drop(permit);
        send(&updates, Instant::now(), Update::Failed(cause));
    }

    /// Whose requests got tokens in `events`: one entry per token.
    pub(crate) fn owners<'a>(&'a self, events: &'a [Event]) -> impl Iterator<Item = Owner> + 'a {
        let sampled = events.iter().filter(|e| matches!(e.kind, EventKind::Sampled { .. }));
        sampled.filter_map(|event| self.by_group.get(&event.group).map(|stream| stream.owner))
    }

    /// Returns the permits of the requests that end in `events`.
    pub(crate) fn release(&mut self, events: &[Event]) {
        for event in events {
            if matches!(event.kind, EventKind::Ended { .. } | EventKind::Failed(_))
                && let Some(stream) = self.by_group.get_mut(&event.group)
            {
                stream.permit = None;
            }
        }
    }

    /// Sends every event to its reader, in order, with the time its step was committed; admission happened when the
    /// step began.
    pub(crate) fn deliver(&mut self, events: &mut Vec<Event>, began: Instant, committed: Instant) {
        for Event { group, kind } in events.drain(..) {
            let Some(stream) = self.by_group.get(&group) else { continue };
            let admitted = matches!(kind, EventKind::Admitted { .. });
            let at = if admitted { began } else { committed };
            let update = Update::from_event(kind, at);
            let ended = update.is_final();
            send(&stream.updates, at, update);
            if ended && let Some(stream) = self.by_group.remove(&group) {
                self.groups.remove(&stream.request);
            }
        }
    }

    /// Ends every request. Permits return before the first update is sent.
    pub(crate) fn fail_all(&mut self, cause: &Cause) {
        let at = Instant::now();
        self.groups.clear();
        let mut streams: Vec<_> = self.by_group.drain().map(|(_, stream)| stream).collect();
        for stream in &mut streams {
            stream.permit = None;
        }
        for stream in streams {
            send(&stream.updates, at, Update::Failed(cause.clone()));
        }
    }
}

/// Sends an update. A reader that has gone is no error: its `Abort` is on the way.
pub(crate) fn send(updates: &Sender, at: Instant, update: Update) {
    let _ = updates.send((at, update));
}
