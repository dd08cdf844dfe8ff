//! Enough of ZMTP 3.0, the protocol of ZeroMQ, for PUB and ROUTER sockets without security.
//!
//! <https://rfc.zeromq.org/spec/23>. A peer's frames are bounded, and so is the time for the handshake.

use std::io;
use std::mem;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time to shake hands.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Longest frame a peer may send, and most frames of one message: subscriptions and replay requests are short.
const LONGEST_FRAME: u64 = 4096;
const MOST_FRAMES: usize = 8;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tells subscribers.
    Pub,
    /// Answers requests.
    Router,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pub => "PUB",
            Self::Router => "ROUTER",
        }
    }

    fn goes_with(self, peer: &[u8]) -> bool {
        match self {
            Self::Pub => matches!(peer, b"SUB" | b"XSUB"),
            Self::Router => matches!(peer, b"REQ" | b"DEALER" | b"ROUTER"),
        }
    }
}

/// A connection after the handshake.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Bytes that have come and are not yet a whole frame.
    read: Vec<u8>,
    /// The first frames of a message whose last has not come.
    partial: Vec<Vec<u8>>,
}

struct Frame {
    flags: u8,
    body: Vec<u8>,
}

fn broken(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl Wire {
    /// Shakes hands.
    ///
    /// # Errors
    /// When the peer is too slow or speaks otherwise.
    pub(super) async fn open(stream: TcpStream, kind: Kind) -> io::Result<Self> {
        let _ = stream.set_nodelay(true);
        let mut wire = Self { stream, read: Vec::new(), partial: Vec::new() };
        tokio::time::timeout(HANDSHAKE_TIME, wire.shake_hands(kind))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(wire)
    }

    async fn shake_hands(&mut self, kind: Kind) -> io::Result<()> {
        let mut greeting = [0_u8; 64];
        // Signature, version 3.0, mechanism; the rest stays zero.
        greeting[0] = 0xff;
        greeting[9] = 0x7f;
        greeting[10] = 3;
        greeting[12..16].copy_from_slice(b"NULL");
        self.stream.write_all(&greeting).await?;
        while self.read.len() < greeting.len() {
            self.fill().await?;
        }
        let theirs: Vec<u8> = self.read.drain(..greeting.len()).collect();
        let version = theirs.get(10).copied().unwrap_or(0);
        if theirs.first() != Some(&0xff) || version < 3 || theirs.get(12..17) != Some(b"NULL\0") {
            return Err(broken("the peer does not speak ZMTP 3 without security"));
        }
        let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
        let name = kind.name();
        ready.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        ready.extend_from_slice(name.as_bytes());
        self.write(&[(COMMAND, &ready)]).await?;
        let theirs = self.frame().await?;
        let socket = ready_property(&theirs.body, b"Socket-Type");
        let suits = socket.is_some_and(|socket| kind.goes_with(socket));
        if theirs.flags & COMMAND != 0 && suits {
            Ok(())
        } else {
            Err(broken("the peer's socket does not go with ours"))
        }
    }

    /// Reads what has come. Nothing is lost when it is cancelled.
    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The next frame. Nothing is lost when it is cancelled.
    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            if let Some((frame, used)) = parse(&self.read)? {
                self.read.drain(..used);
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The next message. Nothing is lost when it is cancelled.
    pub(super) async fn message(&mut self) -> io::Result<Vec<Vec<u8>>> {
        loop {
            let Frame { flags, body } = self.frame().await?;
            if flags & COMMAND != 0 {
                continue;
            }
            self.partial.push(body);
            if flags & MORE == 0 {
                return Ok(mem::take(&mut self.partial));
            }
            if self.partial.len() >= MOST_FRAMES {
                return Err(broken("a message has too many frames"));
            }
        }
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, frames: &[&[u8]]) -> io::Result<()> {
        let last = frames.len().saturating_sub(1);
        let flagged: Vec<(u8, &[u8])> = frames
            .iter()
            .enumerate()
            .map(|(at, frame)| (if at < last { MORE } else { 0 }, *frame))
            .collect();
        self.write(&flagged).await
    }

    async fn write(&mut self, frames: &[(u8, &[u8])]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frames.iter().map(|(_, body)| body.len() + 9).sum());
        for (flags, body) in frames {
            match u8::try_from(body.len()) {
                Ok(len) => bytes.extend([*flags, len]),
                Err(_) => {
                    bytes.push(flags | LONG);
                    let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
                    bytes.extend_from_slice(&len.to_be_bytes());
                }
            }
            bytes.extend_from_slice(body);
        }
        self.stream.write_all(&bytes).await
    }
}

/// The first frame of `bytes` and how long it was, if all of it is there.
fn parse(bytes: &[u8]) -> io::Result<Option<(Frame, usize)>> {
    let Some((&flags, rest)) = bytes.split_first() else { return Ok(None) };
    let (len, head) = if flags & LONG == 0 {
        let Some(&len) = rest.first() else { return Ok(None) };
        (u64::from(len), 2)
    } else {
        let Some(len) = rest.first_chunk() else { return Ok(None) };
        (u64::from_be_bytes(*len), 9)
    };
    if len > LONGEST_FRAME {
        return Err(broken("a frame is too long"));
    }
    let end = head + usize::try_from(len).unwrap_or(usize::MAX);
    let body = bytes.get(head..end).map(<[u8]>::to_vec);
    Ok(body.map(|body| (Frame { flags, body }, end)))
}

/// A property of a READY command.
fn ready_property<'a>(command: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut rest = command.strip_prefix(b"\x05READY")?;
    loop {
        let (&name_len, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(name_len.into())?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let (value, after) =
            after.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}
