//! A client that can be as rude as a test needs: it writes bytes and reads answers.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case, as `name: value`.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The events of a stream; the last line must be `[DONE]` when `done`.
    pub(crate) fn events(&self, done: bool) -> Vec<Value> {
        let mut lines: Vec<&str> =
            self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        if done {
            assert_eq!(lines.pop(), Some("[DONE]"), "{}", self.body);
        }
        lines.iter().map(|line| serde_json::from_str(line).expect("events are JSON")).collect()
    }
}

/// Sends a request and reads the answer.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    raw(address, text.as_bytes()).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, "", "").await
}

pub(crate) async fn post_text(address: SocketAddr, path: &str, body: &str) -> Answer {
    request(address, "POST", path, "content-type: application/json\r\n", body).await
}

pub(crate) async fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    post_text(address, path, &body.to_string()).await
}

/// Sends a body that need not be text.
pub(crate) async fn post_bytes(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    raw(address, &[head.as_bytes(), body].concat()).await
}

/// Sends bytes and reads until the server closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // A server that refuses early may close before everything is written; its answer counts.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    parse(&answer)
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8(bytes.to_vec()).expect("answers are text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
    let headers: Vec<String> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a header");
            format!("{}: {}", name.to_ascii_lowercase(), value.trim())
        })
        .collect();
    let chunked = headers.iter().any(|line| line == "transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Answer { status: status.parse().expect("a number"), headers, body }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}

/// A connection that has had an answer and waits.
pub(crate) async fn idle(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"GET /ping HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("it listens");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer without a body"));
    }
    stream
}

/// A streamed request whose client decides how long to listen.
pub(crate) struct Listening {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Listening {
    pub(crate) async fn open(address: SocketAddr, path: &str, body: &Value) -> Self {
        let body = body.to_string();
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("it listens");
        Self { stream, read: Vec::new() }
    }

    /// Reads until `count` events have come.
    pub(crate) async fn events(&mut self, count: usize) {
        while self.read.windows(6).filter(|window| window == b"data: ").count() < count {
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).await.expect("the stream goes on");
            assert!(read > 0, "the stream ended: {}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&buffer[..read]);
        }
    }

    /// Reads to the end.
    pub(crate) async fn finish(mut self) -> Answer {
        let _ = self.stream.read_to_end(&mut self.read).await;
        parse(&self.read)
    }
}
