//! KV events as a router hears them, over TCP.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::common::http::{get, post};
use crate::common::zmtp::{Listener, Peer, decode};
use crate::common::{BLOCK_SIZE, BOS, Server, Setup};
use folio_core::ids::{Salt, Token};
use folio_core::kv::{Claim, Config, KvMemory, Manager};
use folio_engine::Observer;
use folio_server::{KvEventsConfig, publish_kv_events};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const TOPIC: &str = "kv@pod@tiny";

fn config(more: &Value) -> KvEventsConfig {
    let mut json = json!({
        "enable_kv_cache_events": true,
        "publisher": "zmq",
        "endpoint": "tcp://*:0",
        "replay_endpoint": "tcp://127.0.0.1:0",
        "topic": TOPIC,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        json[key] = value.clone();
    }
    KvEventsConfig::parse(&json.to_string()).expect("sound").expect("enabled")
}

async fn server(blocks: u32, more: &Value) -> Server {
    Server::with(Setup { blocks, kv_events: Some(config(more)), ..Setup::default() }).await
}

/// A subscriber of everything, for which the system keeps little.
async fn subscriber(address: SocketAddr) -> Peer {
    let address = SocketAddr::new([127, 0, 0, 1].into(), address.port());
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let stream = socket.connect(address).await.expect("it listens");
    let mut peer = Peer::open(stream, "SUB", "PUB").await;
    peer.send(&[b"\x01kv@"]).await;
    peer
}

/// What can be had again from `start` on, up to the end of it.
async fn replay(address: SocketAddr, start: u64) -> Vec<(u64, Vec<u8>)> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let mut peer = Peer::open(stream, "DEALER", "ROUTER").await;
    peer.send(&[b"", &start.to_be_bytes()]).await;
    let mut all = Vec::new();
    loop {
        let frames = peer.message().await.expect("a reply");
        let [empty, topic, number, bytes] = frames.try_into().expect("four frames");
        assert!(empty.is_empty());
        let number = i64::from_be_bytes(number.try_into().expect("eight bytes"));
        if number == -1 {
            assert!(topic.is_empty() && bytes.is_empty());
            return all;
        }
        assert_eq!(topic, TOPIC.as_bytes());
        all.push((u64::try_from(number).expect("a number"), bytes));
    }
}

/// Everything that was told until now: as many batches as the server says it made.
async fn all_events(server: &Server) -> Vec<Value> {
    let page = get(server.address, "/metrics").await.body;
    let line = page.lines().find(|line| line.starts_with("folio:kv_event_batches_total"));
    let made = line.and_then(|line| line.rsplit(' ').next()).expect("a counter");
    let made: f64 = made.parse().expect("a number");
    loop {
        let batches = replay(server.kv_events.replay.expect("an address"), 0).await;
        if u32::try_from(batches.len()).is_ok_and(|told| f64::from(told) >= made) {
            let events = |(_, bytes): &(u64, Vec<u8>)| {
                let batch = decode(bytes);
                assert!(batch[0].as_f64().is_some_and(|time| time > 1.7e9), "{batch}");
                assert_eq!(batch[2], 0);
                batch[1].as_array().expect("events").clone()
            };
            return batches.iter().flat_map(events).collect();
        }
        tokio::task::yield_now().await;
    }
}

/// A router's view: each block with its parent and tokens.
#[derive(Default)]
struct Index(HashMap<u64, (Option<u64>, Vec<u64>)>);

impl Index {
    fn hear(&mut self, event: &Value) {
        let numbers = |key: &str| -> Vec<u64> {
            event[key].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
        };
        match event["type"].as_str().expect("a type") {
            "BlockStored" => {
                assert_eq!(event["block_size"], BLOCK_SIZE);
                assert_eq!((&event["medium"], &event["lora_id"]), (&json!("GPU"), &Value::Null));
                let mut parent = event["parent_block_hash"].as_u64();
                assert!(parent.is_none_or(|parent| self.0.contains_key(&parent)));
                let size = usize::try_from(BLOCK_SIZE).expect("fits");
                let (blocks, tokens) = (numbers("block_hashes"), numbers("token_ids"));
                assert_eq!(tokens.len(), blocks.len() * size);
                for (block, tokens) in blocks.into_iter().zip(tokens.chunks(size)) {
                    assert!(self.0.insert(block, (parent, tokens.to_vec())).is_none());
                    parent = Some(block);
                }
            }
            "BlockRemoved" => {
                for block in numbers("block_hashes") {
                    assert!(self.0.remove(&block).is_some());
                }
            }
            "AllBlocksCleared" => self.0.clear(),
            other => panic!("{other}"),
        }
    }

    /// How many of the tokens the router believes to be cached.
    fn cached(&self, tokens: &[u64]) -> usize {
        let mut parent = None;
        let mut cached = 0;
        for chunk in tokens.chunks(usize::try_from(BLOCK_SIZE).expect("fits")) {
            let next = self.0.iter().find(|(_, it)| it.0 == parent && it.1 == chunk);
            let Some((block, _)) = next else { break };
            parent = Some(*block);
            cached += chunk.len();
        }
        cached
    }
}

fn tokens(prompt: &str) -> Vec<u64> {
    std::iter::once(u64::from(BOS)).chain(prompt.bytes().map(u64::from)).collect()
}

async fn complete(server: &Server, prompt: &str) -> Value {
    let body = json!({ "prompt": prompt, "max_tokens": 1 });
    let answer = post(server.address, "/v1/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[tokio::test]
async fn a_router_that_hears_everything_knows_what_is_cached() {
    let server = server(16, &json!({})).await;
    let prompts: Vec<String> =
        (0..12).map(|i| format!("{} and then number {i}", ["common", "other"][i % 2])).collect();
    for prompt in &prompts {
        complete(&server, prompt).await;
    }
    let mut index = Index::default();
    let events = all_events(&server).await;
    assert_eq!(events[0]["type"], "AllBlocksCleared");
    events.iter().for_each(|event| index.hear(event));
    assert!(events.iter().any(|event| event["type"] == "BlockRemoved"), "memory is small");
    let mut hits = 0;
    for prompt in &prompts {
        let believed = index.cached(&tokens(prompt));
        let answer = complete(&server, prompt).await;
        let cached = &answer["usage"]["prompt_tokens_details"]["cached_tokens"];
        let cached = usize::try_from(cached.as_u64().expect("a number")).expect("fits");
        // One token is always computed; and beside full blocks, the server finds the half of one.
        let least = believed.min((tokens(prompt).len() - 1) / 4 * 4);
        assert!((least..believed + 4).contains(&cached), "{prompt}: {believed} and {cached}");
        hits += cached;
        index = Index::default();
        all_events(&server).await.iter().for_each(|event| index.hear(event));
    }
    assert!(hits > 0);
    server.stop().await;
}

#[tokio::test]
async fn what_is_heard_live_is_what_can_be_had_again() {
    let server = server(64, &json!({})).await;
    let mut live = subscriber(server.kv_events.events.expect("an address")).await.listen();
    // The subscription is heard at some time; until then nothing comes.
    let mut asked = 0;
    let first = loop {
        complete(&server, &format!("this is prompt number {asked}")).await;
        asked += 1;
        tokio::select! {
            message = live.next() => break message,
            () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
        }
    };
    let [topic, number, bytes] = first.try_into().expect("three frames");
    assert_eq!(topic, TOPIC.as_bytes());
    let number = u64::from_be_bytes(number.try_into().expect("eight bytes"));
    let again = replay(server.kv_events.replay.expect("an address"), number).await;
    assert_eq!(again.first(), Some(&(number, bytes)));
    server.stop().await;
}

#[tokio::test]
async fn a_server_connects_to_the_one_subscriber_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let server = server(64, &json!({ "endpoint": endpoint })).await;
    assert_eq!(server.kv_events.events, None);
    for round in 0..2 {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::open(stream, "SUB", "PUB").await;
        peer.send(&[b"\x01"]).await;
        let mut messages = peer.listen();
        let mut asked = 0;
        loop {
            complete(&server, &format!("round {round} prompt number {asked}")).await;
            asked += 1;
            tokio::select! {
                message = messages.next() => {
                    assert_eq!(message.len(), 3);
                    break;
                }
                () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn events_are_lists_where_that_is_asked_for() {
    let server = server(64, &json!({ "encoding": "array" })).await;
    complete(&server, "123").await;
    let events = all_events(&server).await;
    assert_eq!(events[0], json!(["AllBlocksCleared"]));
    let stored = &events[1];
    assert_eq!(stored[0], "BlockStored");
    assert_eq!(stored.as_array().map(Vec::len), Some(8));
    assert_eq!(stored[2], Value::Null);
    assert_eq!(stored[3], json!(tokens("123")));
    assert_eq!((&stored[4], &stored[5], &stored[6]), (&json!(4), &Value::Null, &json!("GPU")));
    server.stop().await;
}

/// Writes and waits until the peer hangs up, politely or not.
async fn until_hung_up(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn peers_that_speak_otherwise_are_hung_up_on() {
    let server = server(64, &json!({})).await;
    let events = server.kv_events.events.unwrap();
    let events = SocketAddr::new([127, 0, 0, 1].into(), events.port());
    let again = server.kv_events.replay.unwrap();
    let mut long = [0; 64];
    long[..16].copy_from_slice(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL");
    let long = [&long[..], &[6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0; 64], &[0xff; 64], &long] {
        let bytes = [bytes, &[0; 64]].concat();
        until_hung_up(events, &bytes).await;
        until_hung_up(again, &bytes).await;
    }
    for request in
        [&[&b""[..], b"123"][..], &[b"12345678"], &[b"x", b"12345678"], &[b"", b"1", b"2"]]
    {
        let stream = TcpStream::connect(again).await.unwrap();
        let mut peer = Peer::open(stream, "REQ", "ROUTER").await;
        peer.send(request).await;
        assert_eq!(peer.message().await, None, "{request:?}");
    }
    complete(&server, "it lives").await;
    server.stop().await;
}

/// A memory whose every prompt is a long new one.
struct Busy {
    memory: Manager,
    next: u32,
    /// The number of the last batch; the first of all says that nothing is cached.
    made: u64,
}

impl Busy {
    fn work(&mut self, tap: &mut impl Observer) {
        let tokens: Vec<Token> = (self.next..self.next + 4096).map(Token).collect();
        self.next += 4096;
        let claim = Claim {
            tokens: &tokens,
            salt: Salt(0),
            use_prefix_cache: true,
            beside: 0,
            sequences: 1,
            longest: 4096,
        };
        let mut table = self.memory.admit(&claim, &mut Vec::new()).expect("room");
        self.memory.publish(&mut table, &tokens);
        self.memory.free(table);
        let mut changes = Vec::new();
        self.memory.take_changes(&mut changes);
        tap.cache_changed(&mut changes);
        self.made += 1;
    }

    /// Listens until the last batch has come; `heard` has come already.
    async fn await_last(&self, listener: &mut Listener, mut heard: u64) {
        while heard < self.made {
            heard = number(&listener.next().await);
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_never_reads_costs_its_own_news_only() {
    let config = config(&json!({ "hwm": 8, "max_queue_size": 8, "buffer_steps": 8 }));
    let mut tap = publish_kv_events(config).await.unwrap();
    let address = tap.places().events.unwrap();
    let sizes = Config { block_size: 256, capacity: 64, prefix_caching: true, secret: 1 };
    let memory = Manager::new(sizes).unwrap().with_changes();
    let mut busy = Busy { memory, next: 0, made: 0 };
    let mut quick = subscriber(address).await.listen();
    loop {
        busy.work(&mut tap);
        tokio::select! {
            message = quick.next() => {
                busy.await_last(&mut quick, number(&message)).await;
                break;
            }
            () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
        }
    }
    let mut deaf = subscriber(address).await;
    let listening = tokio::spawn(async move {
        let first = deaf.message().await.expect("news");
        (deaf, number(&first))
    });
    while !listening.is_finished() {
        busy.work(&mut tap);
        busy.await_last(&mut quick, 0).await;
    }
    let (mut deaf, first) = listening.await.unwrap();
    // More than the system keeps for one that does not read; whoever reads hears all of it.
    for _ in 0..600 {
        busy.work(&mut tap);
        busy.await_last(&mut quick, 0).await;
    }
    let mut heard = 1;
    loop {
        let message = deaf.message().await.expect("what is left");
        heard += 1;
        if number(&message) == busy.made {
            break;
        }
    }
    let missed = busy.made - first + 1 - heard;
    assert!(missed > 0, "all {heard} were kept for it");
    assert_eq!(tap.counts().dropped(), missed);
    // The last of the past can be had again.
    let past = replay(tap.places().replay.expect("an address"), 0).await;
    assert_eq!((past.len(), past.last().map(|(number, _)| *number)), (8, Some(busy.made)));
}

fn number(message: &[Vec<u8>]) -> u64 {
    u64::from_be_bytes(message[1].as_slice().try_into().expect("eight bytes"))
}
