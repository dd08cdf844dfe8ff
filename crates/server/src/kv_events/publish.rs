//! Who has subscribed, and what they are sent.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc};

use super::config::{Encoding, Endpoint, KvEventsConfig};
use super::wire::{Kind, Wire};
use super::{Batch, KvEventCounts, KvEventPlaces, encode};

/// Most connections to each of the two sockets.
const MOST_PEERS: usize = 64;

/// Most subscriptions of one peer.
const MOST_TOPICS: usize = 64;

/// Time that a peer may leave a message unread; then it is hung up on, and may come back.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// Pauses between attempts to reach a subscriber.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What ends a replay.
const END: [u8; 8] = (-1_i64).to_be_bytes();

/// A batch as it is sent: its number and its bytes.
type Written = (u64, Arc<[u8]>);

/// What the tasks share.
struct Hub {
    topic: String,
    encoding: Encoding,
    /// To all subscribers; those that lag lose the oldest.
    news: broadcast::Sender<Written>,
    /// The last batches, for replay; none where nobody can ask.
    past: Mutex<VecDeque<Written>>,
    most_past: usize,
    counts: Arc<KvEventCounts>,
}

/// Takes the ports and starts the tasks.
pub(super) async fn start(
    config: KvEventsConfig,
    counts: Arc<KvEventCounts>,
) -> io::Result<(mpsc::Sender<Batch>, KvEventPlaces)> {
    let KvEventsConfig { endpoint, replay, buffer_steps, hwm, max_queue_size, topic, encoding } =
        config;
    let replay = match replay {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let most_past = if replay.is_some() { buffer_steps } else { 0 };
    let (news, past) = (broadcast::Sender::new(hwm), Mutex::default());
    let hub = Arc::new(Hub { topic, encoding, news, past, most_past, counts });
    let replay_place = replay.as_ref().map(TcpListener::local_addr).transpose()?;
    let mut places = KvEventPlaces { events: None, replay: replay_place };
    match endpoint {
        Endpoint::Bind(address) => {
            let listener = TcpListener::bind(address).await?;
            places.events = Some(listener.local_addr()?);
            tokio::spawn(listen(listener, Arc::clone(&hub), subscriber));
        }
        Endpoint::Connect(host) => {
            tokio::spawn(call(host, Arc::clone(&hub)));
        }
    }
    if let Some(listener) = replay {
        tokio::spawn(listen(listener, Arc::clone(&hub), replayer));
    }
    let (queue, batches) = mpsc::channel(max_queue_size);
    tokio::spawn(write(batches, hub));
    Ok((queue, places))
}

/// Writes each batch once, for all.
async fn write(mut batches: mpsc::Receiver<Batch>, hub: Arc<Hub>) {
    while let Some(Batch { number, time, events }) = batches.recv().await {
        let bytes: Arc<[u8]> = encode::batch(time, &events, hub.encoding).into();
        if hub.most_past > 0 {
            let mut past = hub.past.lock().unwrap_or_else(PoisonError::into_inner);
            if past.len() >= hub.most_past {
                past.pop_front();
            }
            past.push_back((number, Arc::clone(&bytes)));
        }
        // Without subscribers there is nobody to miss it.
        let _ = hub.news.send((number, bytes));
    }
}

/// Serves whoever connects.
async fn listen<S: Future<Output = io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    hub: Arc<Hub>,
    serve: fn(TcpStream, Arc<Hub>) -> S,
) {
    let places = Arc::new(Semaphore::new(MOST_PEERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let hub = Arc::clone(&hub);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, hub).await {
                        tracing::debug!(%error, "a peer of the KV events has gone");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer of the KV events");
                tokio::time::sleep(SHORTEST_PAUSE).await;
            }
        }
    }
}

/// Seeks the one subscriber, again and again.
async fn call(host: String, hub: Arc<Hub>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match TcpStream::connect(host.as_str()).await {
            Ok(stream) => {
                pause = SHORTEST_PAUSE;
                if let Err(error) = subscriber(stream, Arc::clone(&hub)).await {
                    tracing::debug!(%error, "the subscriber of the KV events has gone");
                }
            }
            Err(error) => tracing::debug!(%error, "the subscriber of the KV events is not there"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends news to one subscriber until it hangs up.
async fn subscriber(stream: TcpStream, hub: Arc<Hub>) -> io::Result<()> {
    let mut wire = Wire::open(stream, Kind::Pub).await?;
    let mut topics: Vec<Vec<u8>> = Vec::new();
    let mut news = hub.news.subscribe();
    loop {
        tokio::select! {
            message = wire.message() => subscribe(&mut topics, &message?),
            next = news.recv() => match next {
                Ok((number, bytes)) if topics.iter().any(|topic| hub.topic.as_bytes().starts_with(topic)) => {
                    send(&mut wire, &[hub.topic.as_bytes(), &number.to_be_bytes(), &bytes]).await?;
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    hub.counts.dropped.fetch_add(missed, Ordering::Relaxed);
                }
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// Takes in a subscription, or the end of one.
fn subscribe(topics: &mut Vec<Vec<u8>>, message: &[Vec<u8>]) {
    let [frame] = message else { return };
    match frame.split_first() {
        Some((1, topic)) if topics.len() < MOST_TOPICS => topics.push(topic.to_vec()),
        Some((0, topic)) => {
            if let Some(at) = topics.iter().position(|known| known == topic) {
                topics.swap_remove(at);
            }
        }
        _ => {}
    }
}

/// Sends one peer what it has missed, whenever it asks, until it hangs up or asks wrongly.
async fn replayer(stream: TcpStream, hub: Arc<Hub>) -> io::Result<()> {
    let mut wire = Wire::open(stream, Kind::Router).await?;
    loop {
        let message = wire.message().await?;
        let start = match message.as_slice() {
            [empty, start] if empty.is_empty() => <[u8; 8]>::try_from(start.as_slice()).ok(),
            _ => None,
        };
        let Some(start) = start.map(u64::from_be_bytes) else {
            return Err(io::Error::other("a replay request must be an empty frame and 8 bytes"));
        };
        let missed: Vec<Written> = {
            let past = hub.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.iter().filter(|(number, _)| *number >= start).cloned().collect()
        };
        for (number, bytes) in missed {
            let number = number.to_be_bytes();
            send(&mut wire, &[b"", hub.topic.as_bytes(), &number, &bytes]).await?;
        }
        send(&mut wire, &[b"", b"", &END, b""]).await?;
    }
}

async fn send(wire: &mut Wire, frames: &[&[u8]]) -> io::Result<()> {
    let sent = tokio::time::timeout(WRITE_TIME, wire.send(frames)).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
