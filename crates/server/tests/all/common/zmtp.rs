//! The other end of KV events: a peer that speaks ZMTP 3.0, and a reader of msgpack. Written from the specifications.

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A connection after the handshake.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    /// Shakes hands as a socket of this kind; the other must be of `expected`.
    pub(crate) async fn open(mut stream: TcpStream, kind: &str, expected: &str) -> Self {
        let mut greeting = [0; 64];
        greeting[..10].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f]);
        greeting[10..16].copy_from_slice(b"\x03\x01NULL");
        stream.write_all(&greeting).await.expect("it listens");
        let mut theirs = [0; 64];
        stream.read_exact(&mut theirs).await.expect("a greeting");
        assert_eq!((theirs[0], theirs[9], theirs[10]), (0xff, 0x7f, 3));
        let mut peer = Self(stream);
        let ready = |kind: &str| {
            let mut body = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
            body.push(u8::try_from(kind.len()).expect("short"));
            [body, kind.as_bytes().to_vec()].concat()
        };
        let own = [ready(kind), b"\x08Identity\0\0\0\0".to_vec()].concat();
        peer.write(4, &own).await;
        let (flags, body) = peer.read().await.expect("their READY");
        assert_eq!((flags, body), (4, ready(expected)));
        peer
    }

    async fn write(&mut self, flags: u8, body: &[u8]) {
        let head = [flags, u8::try_from(body.len()).expect("short")];
        self.0.write_all(&[&head, body].concat()).await.expect("it reads");
    }

    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let flags = self.0.read_u8().await.ok()?;
        let len = if flags & 2 == 0 {
            u64::from(self.0.read_u8().await.ok()?)
        } else {
            self.0.read_u64().await.ok()?
        };
        let mut body = vec![0; usize::try_from(len).expect("fits")];
        self.0.read_exact(&mut body).await.ok()?;
        Some((flags & !2, body))
    }

    pub(crate) async fn send(&mut self, frames: &[&[u8]]) {
        for (index, frame) in frames.iter().enumerate() {
            self.write(u8::from(index + 1 < frames.len()), frame).await;
        }
    }

    /// All messages from now on, read as they come.
    pub(crate) fn listen(mut self) -> Listener {
        let (sender, messages) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            while let Some(message) = self.message().await {
                let _ = sender.send(message);
            }
        });
        Listener { messages, reading }
    }

    /// The frames of the next message; `None` when the other has hung up.
    pub(crate) async fn message(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.read().await?;
            frames.push(body);
            if flags & 1 == 0 {
                return Some(frames);
            }
        }
    }
}

/// Reads on its own; hangs up when it is dropped.
pub(crate) struct Listener {
    messages: mpsc::UnboundedReceiver<Vec<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Listener {
    /// The next message. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Vec<Vec<u8>> {
        self.messages.recv().await.expect("news")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A whole msgpack value.
pub(crate) fn decode(mut bytes: &[u8]) -> Value {
    let value = value(&mut bytes);
    assert!(bytes.is_empty(), "something follows: {bytes:?}");
    value
}

fn value(bytes: &mut &[u8]) -> Value {
    let first = number(bytes, 1);
    match first {
        0..=0x7f => json!(first),
        0x80..=0x8f => map(bytes, first & 15),
        0x90..=0x9f => list(bytes, first & 15),
        0xc0 => Value::Null,
        0xcb => json!(f64::from_bits(number(bytes, 8))),
        0xcc..=0xcf => json!(number(bytes, 1 << (first - 0xcc))),
        0xd9 => {
            let len = number(bytes, 1);
            let (text, rest) = bytes.split_at(usize::try_from(len).expect("fits"));
            *bytes = rest;
            json!(std::str::from_utf8(text).expect("text"))
        }
        0xdc | 0xdd => {
            let len = number(bytes, 2 << (first - 0xdc));
            list(bytes, len)
        }
        0xde | 0xdf => {
            let len = number(bytes, 2 << (first - 0xde));
            map(bytes, len)
        }
        other => panic!("{other:#x} is not expected"),
    }
}

fn list(bytes: &mut &[u8], len: u64) -> Value {
    (0..len).map(|_| value(bytes)).collect()
}

fn map(bytes: &mut &[u8], len: u64) -> Value {
    let entry = |bytes: &mut &[u8]| {
        let key = value(bytes);
        (key.as_str().expect("a name").to_owned(), value(bytes))
    };
    Value::Object((0..len).map(|_| entry(bytes)).collect::<Map<_, _>>())
}

/// A big-endian number of so many bytes.
fn number(bytes: &mut &[u8], count: usize) -> u64 {
    let (own, rest) = bytes.split_at(count);
    *bytes = rest;
    own.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
