//! The binary as a user has it: started as a process, spoken to over HTTP, stopped with a signal. `FOLIO_BINARY` names
//! another one than the tests were built with.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

pub(crate) mod authority;
pub(crate) mod proxy;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

/// A running `folio serve` on a free port of the loopback interface. Killed when dropped.
pub(crate) struct Server {
    process: Child,
    url: String,
    agent: ureq::Agent,
}

impl Server {
    /// Starts the binary with `flags` after `serve` and waits until it says its address.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[], Stdio::null())
    }

    /// The same with these environment variables.
    pub(crate) fn start_in(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_with(flags, variables, Stdio::null())
    }

    /// The same with its log going to `log`.
    pub(crate) fn start_logging(flags: &[&str], log: Stdio) -> Self {
        Self::start_with(flags, &[], log)
    }

    /// The same with its output going to `output`, where nobody reads its address.
    pub(crate) fn start_at_a_known_port(output: Stdio) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("its number").port();
        drop(free);
        let mut process =
            command(port).stdout(output).stderr(Stdio::null()).spawn().expect("the binary starts");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.try_wait().expect("its state");
            assert!(ended.is_none(), "the server ended before it listened: {ended:?}");
            std::thread::yield_now();
        }
        Self::of(process, format!("http://127.0.0.1:{port}"))
    }

    fn start_with(flags: &[&str], variables: &[(&str, &str)], log: Stdio) -> Self {
        let mut process = command(0)
            .args(flags)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        let mut printed = String::new();
        let url = loop {
            let start = printed.len();
            let read = output.read_line(&mut printed).expect("its output is text");
            assert!(read > 0, "the server ended before it listened:\n{printed}");
            if let Some(url) = address(&printed[start..]) {
                break url;
            }
        };
        // A full pipe would block the server.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self::of(process, url)
    }

    fn of(process: Child, url: String) -> Self {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0);
        Self { process, url, agent: config.build().into() }
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut answer = self.agent.get(format!("{}{path}", self.url)).call().expect("an answer");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.post_text(path, &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")))
    }

    pub(crate) fn post_text(&self, path: &str, body: &str) -> (u16, String) {
        let mut answer = self.send(path, body);
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
    }

    /// Sends a request; the answer's body is still to be read.
    pub(crate) fn send(&self, path: &str, body: &str) -> ureq::http::Response<ureq::Body> {
        self.agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .send(body)
            .expect("an answer")
    }

    /// Starts a streamed request; the stream ends the request when dropped.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Stream {
        let answer = self.send(path, &body.to_string());
        assert_eq!(answer.status().as_u16(), 200, "{body}");
        Stream { lines: BufReader::new(Box::new(answer.into_body().into_reader())) }
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let values: Vec<f64> = text
            .lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .map(|l| l.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number"))
            .collect();
        assert!(!values.is_empty(), "no metric {name} in:\n{text}");
        values.iter().sum()
    }

    /// Waits until nothing runs any more and the engine is healthy; then every block must be free.
    pub(crate) fn assert_nothing_leaked(&self) {
        loop {
            let (status, text) = self.get("/health");
            assert_eq!(status, 200, "{text}");
            let busy =
                self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting");
            if busy == 0.0 {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(self.metric("vllm:kv_cache_usage_perc"), 0.0, "blocks leaked");
    }

    /// Memory of the process that is in use.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let file = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(file).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Sends the signal `TERM`, `INT`, ….
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(sent.success());
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.wait().expect("it ends")
    }

    /// Drains the server and demands a clean end.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `folio serve` on a port, 0 for any.
fn command(port: u16) -> Command {
    let built = env!("CARGO_BIN_EXE_folio").into();
    let mut command = Command::new(std::env::var_os("FOLIO_BINARY").unwrap_or(built));
    command.args(["serve", "--port", &port.to_string()]);
    command
}

/// The server's address, if the line tells it.
fn address(line: &str) -> Option<String> {
    let (before, rest) = line.split_once("://127.0.0.1:")?;
    let scheme = if before.ends_with("https") { "https" } else { "http" };
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("{scheme}://127.0.0.1:{port}"))
}

/// A stream of server-sent events.
pub(crate) struct Stream {
    lines: BufReader<Box<dyn Read + Send>>,
}

impl Iterator for Stream {
    type Item = Value;

    /// The next event; `None` after `[DONE]`.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.lines.read_line(&mut line).expect("the stream goes on");
            assert!(read > 0, "the stream ended without [DONE]");
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => return None,
                Some(json) => return Some(serde_json::from_str(json).expect("events are JSON")),
                None => {}
            }
        }
    }
}

/// A small generator of repeatable test inputs (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
}

/// A folder that is removed when it is dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("folio-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("there is none yet");
        Self(path)
    }

    /// Writes a file and says where it is.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("there is room");
        text_of(&path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn text_of(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}
