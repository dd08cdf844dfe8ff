//! The OpenAI-compatible HTTP server.
//!
//! A request is a chain of types, each built once, in one file: `ChatBody → ValidChat → Job` (`chat::types`,
//! `chat::validate`, `chat`), and `CompletionBody → ValidCompletion → Job` beside it. Both share one bounded validator
//! (`request::common`), whose numbers all pass [`folio_core::params::Params::parse`]. The engine's updates come back as
//! pieces of text per choice (`generate`), which become one JSON body or server-sent events.
//!
//! Where choices are ranked (`best_of` above `n`, or `use_beam_search`), they are known only when all sequences have ended.
//! A stream of them is silent until then, but for comments that keep it open, and brings each choice in one chunk, best
//! first. Each carries one field more, `score`: the mean log-probability of its tokens, or for a beam their sum divided by
//! their number to the power of `length_penalty`.
//!
//! **Invariants.** What cannot be served is refused with a 4xx that names the field; no field is silently ignored. A
//! connection that goes away takes its request out of the engine. No client can hold memory, threads or connections
//! without bound or for ever. Errors and logs contain no text of any prompt but a bounded quote for its own sender.
#![forbid(unsafe_code)]

mod admin;
mod app;
mod auth;
mod chat;
mod completions;
mod config;
mod conversation;
mod endpoints;
mod error;
mod exchange;
mod generate;
mod io;
mod kv_events;
mod messages;
mod metrics;
mod openapi;
mod orca;
mod pace;
mod request;
mod responses;
mod serve;
mod span;
mod sse;
mod state;
mod tls;

pub use app::router;
pub use config::{Limits, ModelFacts, ModelTexts, ServerConfig};
pub use error::ApiError;
pub use kv_events::{KvEventCounts, KvEventPlaces, KvEventTap, KvEventsConfig, publish_kv_events};
pub use serve::{Ending, serve};
pub use span::{RequestSpan, SpanSink, SpanValue};
pub use state::App;
pub use tls::{ClientCertificates, Tls, TlsFiles};
