//! Flags of the HTTP side: what a request, a connection and a stranger may do. What is not given is the server's default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use folio_server::Limits;

use crate::args::MAX_N;
use crate::trace::read_text;
use crate::typed::variable;

/// Longest file of keys, in bytes.
const MOST_KEY_BYTES: u64 = 1 << 20;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// File with one key per line, besides --api-key; empty lines and lines that begin with # are passed over
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Origins whose web pages may use the server, * for all; default: none
    #[arg(long, value_name = "ORIGIN", num_args = 1..)]
    pub(crate) allowed_origins: Vec<String>,

    /// Who goes first among requests that wait: the first to come, or the one with the smallest "priority"
    #[arg(long, value_enum, default_value_t = SchedulingPolicy::Fcfs)]
    pub(crate) scheduling_policy: SchedulingPolicy,

    /// Most requests of one key in the server at one time; more get a 429; default: as many as there is room for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_requests_per_key: Option<u32>,

    /// How the log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Longest request body
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1024..=1 << 30))]
    max_body_bytes: Option<u32>,

    /// Longest request head
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(8192..=4 << 20), alias = "h11-max-incomplete-event-size")]
    max_header_bytes: Option<u32>,

    /// Most header lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=4096), alias = "h11-max-header-count")]
    max_headers: Option<u32>,

    /// Most open connections; further ones wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: Option<u32>,

    /// Most prompts in one request
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    max_prompts: Option<u32>,

    /// Most stop strings in one request
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    max_stops: Option<u32>,

    /// Most alternatives told per token
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    max_logprobs: Option<u32>,

    /// Time to send a request's head
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    header_timeout: Option<Duration>,

    /// Time to send a request's body
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    body_timeout: Option<Duration>,

    /// Time that a client may leave an answer unread
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    write_timeout: Option<Duration>,

    /// Time in which a request must get on; it counts while the request waits, too
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_timeout: Option<Duration>,

    /// Time from reading a request to its end
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    request_timeout: Option<Duration>,

    /// Silence after which a stream says that it is alive
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    sse_keep_alive_interval: Option<Duration>,

    /// Time that running requests have to finish after the first signal
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    shutdown_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchedulingPolicy {
    Fcfs,
    Priority,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl HttpArgs {
    /// The limits; `max_n` is `--max-n`, else `VLLM_MAX_N_SEQUENCES`.
    ///
    /// # Errors
    /// Names the variable when it is not such a number.
    pub(crate) fn limits(&self, max_n: Option<u32>) -> Result<Limits> {
        let usual = Limits::default();
        let count = |given: Option<u32>, usual: usize| {
            given.map_or(usual, |given| usize::try_from(given).unwrap_or(usize::MAX))
        };
        let body_bytes = count(self.max_body_bytes, usual.body_bytes);
        Ok(Limits {
            body_bytes,
            body_bytes_together: usual.body_bytes_together.max(body_bytes),
            body_time: self.body_timeout.unwrap_or(usual.body_time),
            head_time: self.header_timeout.unwrap_or(usual.head_time),
            head_bytes: count(self.max_header_bytes, usual.head_bytes),
            headers: count(self.max_headers, usual.headers),
            write_time: self.write_timeout.unwrap_or(usual.write_time),
            connections: count(self.max_connections, usual.connections),
            request_time: self.request_timeout.unwrap_or(usual.request_time),
            idle_time: self.idle_timeout.unwrap_or(usual.idle_time),
            shutdown_time: self.shutdown_timeout.unwrap_or(usual.shutdown_time),
            requests_per_key: self.max_requests_per_key.unwrap_or(usual.requests_per_key),
            keep_alive: self.sse_keep_alive_interval.unwrap_or(usual.keep_alive),
            prompts: count(self.max_prompts, usual.prompts),
            n: max_n.map_or_else(|| max_n_of_environment(usual.n), Ok)?,
            logprobs: self.max_logprobs.unwrap_or(usual.logprobs),
            stops: count(self.max_stops, usual.stops),
            ..usual
        })
    }

    /// The origins, which may also be given as vLLM is given them: as a JSON list.
    ///
    /// # Errors
    /// Names the first that no browser would send.
    pub(crate) fn origins(&self) -> Result<Vec<String>> {
        let mut origins = Vec::new();
        for given in &self.allowed_origins {
            if given.starts_with('[') {
                let list: Vec<String> = serde_json::from_str(given)
                    .with_context(|| format!("--allowed-origins {given} is not a JSON list"))?;
                origins.extend(list);
            } else {
                origins.push(given.clone());
            }
        }
        for origin in &mut origins {
            ensure!(
                is_origin(origin),
                "--allowed-origins {origin:?} is not what browsers send, which is like https://chat.example.org:8080 without \
                 a path; * allows all"
            );
            origin.make_ascii_lowercase();
        }
        Ok(origins)
    }

    /// `given`, and those of the file.
    ///
    /// # Errors
    /// Names the file when it cannot be read or has no key, and keys that are none.
    pub(crate) fn keys(&self, mut given: Vec<String>) -> Result<Vec<String>> {
        ensure!(
            !given.iter().any(String::is_empty),
            "--api-key is empty; leave it out, and unset VLLM_API_KEY, for a server that is open to all"
        );
        if let Some(file) = &self.api_key_file {
            given.extend(
                keys_of(file).with_context(|| format!("--api-key-file {}", file.display()))?,
            );
        }
        Ok(given)
    }
}

fn max_n_of_environment(usual: u32) -> Result<u32> {
    const NAME: &str = "VLLM_MAX_N_SEQUENCES";
    let Some(text) = variable(NAME) else { return Ok(usual) };
    let number = text.trim().parse().ok().filter(|n| MAX_N.contains(&i64::from(*n)));
    number.with_context(|| {
        format!("{NAME} must be a number from {} to {}, not {text:?}", MAX_N.start(), MAX_N.end())
    })
}

/// `*`, `null`, or a scheme and a host.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty());
    let plain = |c: char| c.is_ascii_graphic() && !"/*?#@\\,\"'".contains(c);
    ["*", "null"].contains(&text)
        || host.is_some_and(|(_, host)| !host.is_empty() && host.chars().all(plain))
}

fn keys_of(file: &Path) -> Result<Vec<String>> {
    let text = read_text(file, MOST_KEY_BYTES)?;
    // Editors on Windows begin files with a mark that nobody sees.
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    ensure!(!keys.is_empty(), "it has no key; without one the server would be open to all");
    Ok(keys)
}

/// `30`, `0.5`; at most thirty days.
fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 30.0 * 86_400.0;
    match text.parse::<f64>() {
        Ok(given) if given > 0.0 && given <= MOST => {
            Duration::try_from_secs_f64(given).map_err(|error| error.to_string())
        }
        _ => Err(format!("{text:?} is not a number of seconds above 0 and up to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_of_browsers() {
        for good in
            ["*", "null", "http://localhost:3000", "https://[::1]", "chrome-extension://abc"]
        {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "localhost:3000",
            "https://",
            "https://a/",
            "https://*.a.org",
            "http://a, http://b",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "0", "-1", "NaN", "inf", "1e400", "2592001", "5s"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }
}
