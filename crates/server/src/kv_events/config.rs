//! `--kv-events-config` as vLLM reads it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// The most of anything that is kept.
const MOST: usize = 1_000_000;

/// Longest topic in bytes.
const LONGEST_TOPIC: usize = 1024;

/// How changes of the prefix cache are told, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEventsConfig {
    pub(super) endpoint: Endpoint,
    pub(super) replay: Option<SocketAddr>,
    /// Batches that are kept for replay.
    pub(super) buffer_steps: usize,
    /// Messages that wait for one subscriber.
    pub(super) hwm: usize,
    /// Batches that wait to be written.
    pub(super) max_queue_size: usize,
    pub(super) topic: String,
    pub(super) encoding: Encoding,
}

/// Who calls whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Subscribers connect.
    Bind(SocketAddr),
    /// The one subscriber waits at this host and port.
    Connect(String),
}

/// How one event is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// A map with the key `type`, as vLLM does since June 2026.
    #[default]
    Map,
    /// A list by position, as before.
    Array,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Publisher {
    #[default]
    Zmq,
    Null,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    enable_kv_cache_events: bool,
    publisher: Option<Publisher>,
    endpoint: Option<String>,
    replay_endpoint: Option<String>,
    buffer_steps: usize,
    hwm: usize,
    max_queue_size: usize,
    topic: String,
    encoding: Encoding,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            enable_kv_cache_events: false,
            publisher: None,
            endpoint: None,
            replay_endpoint: None,
            buffer_steps: 10_000,
            hwm: 100_000,
            max_queue_size: 100_000,
            topic: String::new(),
            encoding: Encoding::default(),
        }
    }
}

impl KvEventsConfig {
    /// Reads vLLM's JSON; `None` where it asks for nothing.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn parse(json: &str) -> Result<Option<Self>, String> {
        let written: Written = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if !written.enable_kv_cache_events || written.publisher == Some(Publisher::Null) {
            return Ok(None);
        }
        for (key, value) in [
            ("buffer_steps", written.buffer_steps),
            ("hwm", written.hwm),
            ("max_queue_size", written.max_queue_size),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(format!("{key} must be from 1 to {MOST}, not {value}"));
            }
        }
        if written.topic.len() > LONGEST_TOPIC {
            return Err(format!("topic has more than {LONGEST_TOPIC} bytes"));
        }
        let endpoint = match written.endpoint {
            None => Endpoint::Bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 5557)),
            Some(text) => place(&text).map_err(|problem| format!("endpoint {problem}"))?,
        };
        let replay = written.replay_endpoint.map(|text| match place(&text)? {
            Endpoint::Bind(address) => Ok(address),
            Endpoint::Connect(host) => SocketAddr::from_str(&host)
                .map_err(|_| format!("must have * or an address of this machine, not {host:?}")),
        });
        let replay = replay.transpose().map_err(|problem| format!("replay_endpoint {problem}"))?;
        Ok(Some(Self {
            endpoint,
            replay,
            buffer_steps: written.buffer_steps,
            hwm: written.hwm,
            max_queue_size: written.max_queue_size,
            topic: written.topic,
            encoding: written.encoding,
        }))
    }

    /// The address that strangers can reach, if there is one.
    #[must_use]
    pub fn open_to_all(&self) -> Option<SocketAddr> {
        let bound = match &self.endpoint {
            Endpoint::Bind(address) => Some(*address),
            Endpoint::Connect(_) => None,
        };
        bound.into_iter().chain(self.replay).find(|address| !address.ip().is_loopback())
    }
}

/// `tcp://*:5557` and `tcp://[::]:5557` are bound, everything else is connected to; so vLLM does it.
fn place(text: &str) -> Result<Endpoint, String> {
    let wrong = || format!("must be like tcp://*:5557 or tcp://host:5557, not {text:?}");
    let address = text.strip_prefix("tcp://").ok_or_else(wrong)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    match host {
        "" => Err(wrong()),
        "*" => Ok(Endpoint::Bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))),
        host if host.contains("::") => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let ip: IpAddr = bare.parse().map_err(|_| wrong())?;
            Ok(Endpoint::Bind(SocketAddr::new(ip, port)))
        }
        _ => Ok(Endpoint::Connect(address.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enabled_is_not_there() {
        for json in ["{}", r#"{"publisher": "zmq"}"#] {
            assert_eq!(KvEventsConfig::parse(json), Ok(None));
        }
        let json = r#"{"enable_kv_cache_events": true, "publisher": "null"}"#;
        assert_eq!(KvEventsConfig::parse(json), Ok(None));
    }

    #[test]
    fn defaults_are_vllms_but_for_the_network() {
        let config = KvEventsConfig::parse(r#"{"enable_kv_cache_events": true}"#).unwrap().unwrap();
        let local = "127.0.0.1:5557".parse().unwrap();
        assert_eq!(config.endpoint, Endpoint::Bind(local));
        assert_eq!(
            (config.buffer_steps, config.hwm, config.max_queue_size),
            (10_000, 100_000, 100_000)
        );
        assert_eq!((config.open_to_all(), config.encoding), (None, Encoding::Map));
    }

    #[test]
    fn endpoints_are_bound_or_connected_to_as_vllm_decides() {
        let all: SocketAddr = "0.0.0.0:5557".parse().unwrap();
        assert_eq!(place("tcp://*:5557"), Ok(Endpoint::Bind(all)));
        assert_eq!(place("tcp://[::1]:9"), Ok(Endpoint::Bind("[::1]:9".parse().unwrap())));
        assert_eq!(place("tcp://epp:5557"), Ok(Endpoint::Connect("epp:5557".to_owned())));
        for bad in ["", "tcp://", "tcp://*", "tcp://*:65536", "ipc:///x", "inproc://x", "tcp://:5"]
        {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, name) in [
            (r#"{"enable_kv_cache_events": true, "hwm": 0}"#, "hwm"),
            (r#"{"enable_kv_cache_events": true, "buffer_steps": 1000001}"#, "buffer_steps"),
            (r#"{"enable_kv_cache_events": true, "endpoint": "udp://x"}"#, "endpoint"),
            (
                r#"{"enable_kv_cache_events": true, "replay_endpoint": "tcp://host:1"}"#,
                "replay_endpoint",
            ),
            (r#"{"enable_kv_cache_event": true}"#, "enable_kv_cache_event"),
            (r#"{"publisher": "nats"}"#, "nats"),
        ] {
            let problem = KvEventsConfig::parse(json).unwrap_err();
            assert!(problem.contains(name), "{problem}");
        }
    }
}
