//! Changes of the prefix cache, told to routers over ZeroMQ in vLLM's format.
//!
//! The engine hands the changes of each step to a [`KvEventTap`]; a task writes them to whoever has subscribed.
//! **Invariants.** No subscriber can keep the engine waiting or hold memory without bound: where a queue is full, batches are
//! dropped and counted. A batch has its number before it can be dropped, so whoever misses one sees the gap. Names of blocks
//! leave the process only hashed with a secret.

mod config;
mod encode;
mod publish;
mod wire;

pub use config::KvEventsConfig;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use folio_core::kv::{BlockName, Change};
use folio_core::plan::StepPlan;
use folio_engine::{Observer, Part};
use tokio::sync::mpsc;

use encode::Event;

/// What became of the batches.
#[derive(Debug, Default)]
pub struct KvEventCounts {
    /// Those that were made.
    pub(crate) batches: AtomicU64,
    /// Those that were not sent to a subscriber, or to anybody, since a queue was full.
    pub(crate) dropped: AtomicU64,
}

impl KvEventCounts {
    /// Batches that a subscriber was not sent, or nobody was, since a queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The events of one step.
#[derive(Debug)]
struct Batch {
    number: u64,
    /// Seconds since 1970.
    time: f64,
    events: Vec<Event>,
}

/// Listens to the engine; see [`folio_engine::start_observed`]. The scheduler's memory must be one that remembers
/// [changes](folio_core::kv::Manager::with_changes).
pub struct KvEventTap {
    secret: RandomState,
    queue: mpsc::Sender<Batch>,
    counts: Arc<KvEventCounts>,
    places: KvEventPlaces,
}

/// Where peers may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvEventPlaces {
    /// Subscribers, unless the one subscriber is connected to.
    pub events: Option<SocketAddr>,
    /// Those who ask for what they missed, if they may.
    pub replay: Option<SocketAddr>,
}

impl fmt::Debug for KvEventTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvEventTap").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// Takes the ports and starts to tell. Must be called on an async runtime, on which it goes on.
///
/// # Errors
/// When a port cannot be had.
pub async fn publish_kv_events(config: KvEventsConfig) -> io::Result<KvEventTap> {
    let counts = Arc::new(KvEventCounts::default());
    let (queue, places) = publish::start(config, Arc::clone(&counts)).await?;
    let tap = KvEventTap { secret: RandomState::new(), queue, counts, places };
    // Whoever remembers a server that was here before must forget what that had.
    tap.tell(vec![Event::Cleared]);
    Ok(tap)
}

impl KvEventTap {
    /// For the metrics of the server.
    #[must_use]
    pub fn counts(&self) -> Arc<KvEventCounts> {
        Arc::clone(&self.counts)
    }

    /// Where peers may connect.
    #[must_use]
    pub fn places(&self) -> KvEventPlaces {
        self.places
    }

    fn tell(&self, events: Vec<Event>) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let number = self.counts.batches.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(Batch { number, time, events }).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn name(&self, block: BlockName) -> u64 {
        self.secret.hash_one(block)
    }

    /// Adds a change, to the last event if it goes on there.
    fn add(&self, events: &mut Vec<Event>, change: Change) {
        match change {
            Change::Stored { block, parent, tokens } => {
                let (block, parent) = (self.name(block), parent.map(|parent| self.name(parent)));
                let own = tokens.iter().map(|token| token.0);
                if let Some(Event::Stored { blocks, tokens, .. }) = events.last_mut()
                    && parent.is_some()
                    && blocks.last().copied() == parent
                {
                    blocks.push(block);
                    tokens.extend(own);
                } else {
                    let block_size = u32::try_from(own.len()).unwrap_or(u32::MAX);
                    let tokens = own.collect();
                    events.push(Event::Stored { blocks: vec![block], parent, tokens, block_size });
                }
            }
            Change::Removed { block } => {
                let block = self.name(block);
                if let Some(Event::Removed { blocks }) = events.last_mut() {
                    blocks.push(block);
                } else {
                    events.push(Event::Removed { blocks: vec![block] });
                }
            }
        }
    }
}

impl Observer for KvEventTap {
    fn began(&mut self) {}

    fn ended(&mut self, _: Part) {}

    fn finished(&mut self, _: &StepPlan) {}

    fn wants_changes(&self) -> bool {
        true
    }

    fn cache_changed(&mut self, changes: &mut Vec<Change>) {
        let mut events = Vec::new();
        for change in changes.drain(..) {
            self.add(&mut events, change);
        }
        self.tell(events);
    }
}
