//! A hub on the loopback interface, and the host it sends large files from; both can be made to misbehave, and to speak TLS.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A connection, encrypted or not.
trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files above this are large: named by their SHA-256, and sent by the other host.
const LARGE: usize = 10_000;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) to_hub: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// What the hub has, and how it behaves.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Names that are listed beside the files.
    pub(crate) listed: Vec<String>,
    /// The token without which all is refused.
    pub(crate) gate: Option<String>,
    /// The next answers with large contents end in the middle.
    pub(crate) cuts: usize,
    /// The next answers with large contents stop in the middle and leave the connection open.
    pub(crate) stalls: usize,
    /// Contents are not what was announced.
    pub(crate) corrupt: bool,
    /// Contents are longer than announced.
    pub(crate) overlong: bool,
    /// Ranges are not understood.
    pub(crate) rangeless: bool,
    /// Contents are announced with this size, if any.
    pub(crate) announced: Option<u64>,
    pub(crate) etag: Option<String>,
    /// Small files are announced under a name that is not that of their contents.
    pub(crate) wrong_small_etag: bool,
    /// Large files are sent by whoever asks for them again and again.
    pub(crate) circle: bool,
    /// The description of the model, instead of one that fits.
    pub(crate) info: Option<String>,
}

struct State {
    content: Content,
    seen: Vec<Seen>,
    /// Connections that are left open.
    open: Vec<Box<dyn Wire>>,
}

/// The two hosts; they live as long as the test.
pub(crate) struct Hub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub(crate) fn start(content: Content) -> Self {
        Self::encrypted(content, [None, None])
    }

    /// One that speaks TLS, and so does the host of its large files, where they are given a configuration.
    pub(crate) fn encrypted(content: Content, tls: [Option<Arc<ServerConfig>>; 2]) -> Self {
        let state = State { content, seen: Vec::new(), open: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let [hub, other] = tls;
        let large = listen(&state, None, other);
        let url = listen(&state, Some(large), hub);
        Self { url, state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.lock().content);
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.lock().seen)
    }
}

/// Answers on a free port; the hub itself knows the other host's address.
fn listen(
    state: &Arc<Mutex<State>>,
    large: Option<String>,
    tls: Option<Arc<ServerConfig>>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().unwrap();
    let url = match &tls {
        None => format!("http://{address}"),
        Some(_) => format!("https://localhost:{}", address.port()),
    };
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (state, large) = (Arc::clone(&state), large.clone());
            let wire = wire(stream.unwrap(), tls.clone());
            // A client that hangs up is no failure of the test.
            std::thread::spawn(move || answer(wire, &state, large.as_deref()));
        }
    });
    url
}

fn wire(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Box<dyn Wire> {
    match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream)),
    }
}

fn answer(
    mut stream: Box<dyn Wire>,
    state: &Mutex<State>,
    large: Option<&str>,
) -> std::io::Result<()> {
    let Some(seen) = read_request(&mut *stream, large.is_some()) else { return Ok(()) };
    let mut state = state.lock().unwrap();
    state.seen.push(seen.clone());
    let respond = |stream: &mut dyn Wire, status: &str, headers: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n")?;
        if seen.method == "GET" { stream.write_all(body) } else { Ok(()) }
    };
    let content = &mut state.content;
    let allowed = content.gate.as_ref().map(|token| format!("Bearer {token}"));
    if seen.to_hub && allowed.is_some() && allowed != seen.authorization {
        let headers = "x-error-code: GatedRepo\r\ncontent-length: 0\r\n";
        return respond(&mut *stream, "401 Unauthorized", headers, b"");
    }
    if let Some(model) = seen.path.strip_prefix("/api/models/") {
        if model != "org/name/revision/main" && model != "org/name/revision/v1.0%2Frc" {
            let code =
                if model.starts_with("org/name/") { "RevisionNotFound" } else { "RepoNotFound" };
            let headers = format!("x-error-code: {code}\r\ncontent-length: 0\r\n");
            return respond(&mut *stream, "404 Not Found", &headers, b"");
        }
        let body = content.info.clone().unwrap_or_else(|| describe(content));
        let headers = format!("content-length: {}\r\n", body.len());
        return respond(&mut *stream, "200 OK", &headers, body.as_bytes());
    }
    let name = seen.path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/"));
    let Some(bytes) = name.and_then(|name| content.files.get(name)).cloned() else {
        let headers = "x-error-code: EntryNotFound\r\ncontent-length: 0\r\n";
        return respond(&mut *stream, "404 Not Found", headers, b"");
    };
    let is_large = bytes.len() > LARGE;
    if let (Some(other), true) = (large, is_large) {
        let etag = content.etag.clone().unwrap_or_else(|| hex(digest(&SHA256, &bytes).as_ref()));
        let size = content.announced.unwrap_or(bytes.len() as u64);
        let to = if content.circle { "" } else { other };
        let headers = format!(
            "location: {to}{}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\n\
             x-repo-commit: {COMMIT}\r\ncontent-length: 0\r\n",
            seen.path
        );
        return respond(&mut *stream, "302 Found", &headers, b"");
    }
    send(stream, &mut state, &seen, bytes)
}

/// Sends contents, well or badly.
fn send(
    mut stream: Box<dyn Wire>,
    state: &mut State,
    seen: &Seen,
    mut bytes: Vec<u8>,
) -> std::io::Result<()> {
    let content = &mut state.content;
    let is_large = bytes.len() > LARGE;
    let named: &[u8] = if content.wrong_small_etag { b"other" } else { &bytes };
    let etag = git_sha1(named);
    let mut headers = format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
    if content.corrupt && is_large {
        bytes[9_000] ^= 1;
    }
    if content.overlong && is_large {
        bytes.extend([0; 100]);
    }
    let from = seen.range.as_deref().filter(|_| !content.rangeless).map_or(0, |range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
    });
    let status = if from > 0 {
        let (last, size) = (bytes.len() - 1, bytes.len());
        headers += &format!("content-range: bytes {from}-{last}/{size}\r\n");
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let rest = &bytes[from..];
    headers += &format!("content-length: {}\r\n", rest.len());
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n")?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    let half = &rest[..rest.len() / 2];
    if is_large && content.cuts > 0 {
        content.cuts -= 1;
        // Without a word that this is the end.
        return stream.write_all(half);
    }
    if is_large && content.stalls > 0 {
        content.stalls -= 1;
        stream.write_all(half)?;
        state.open.push(stream);
        return Ok(());
    }
    stream.write_all(rest)
}

fn describe(content: &Content) -> String {
    let names = content.files.keys().chain(&content.listed);
    let siblings: Vec<_> = names.map(|name| serde_json::json!({"rfilename": name})).collect();
    serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string()
}

fn read_request(stream: &mut dyn Wire, to_hub: bool) -> Option<Seen> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut first = head.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let (range, authorization) = (header("range"), header("authorization"));
    Some(Seen { to_hub, method, path, range, authorization })
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    let whole = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &whole).as_ref())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
