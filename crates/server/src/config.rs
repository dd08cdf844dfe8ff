//! What the binary decides about a server: names, keys, limits, and the facts about the model that it shows to clients.
//!
//! Every limit that protects the process from a request stands here, with the default that is used when nobody asks
//! for another. The documentation of a limit says what the client is told when it is crossed.

use std::sync::Arc;
use std::time::Duration;

use folio_core::ids::Token;
use folio_core::params::GenerationDefaults;
use folio_text::{ChatTemplate, Tokenizer, ToolFormat};

use crate::kv_events::KvEventCounts;
use crate::span::SpanSink;
use crate::tls::Tls;

/// Everything [`crate::App::new`] needs besides the engine and the texts.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Names under which clients may ask for the model; the first is the one answers and metrics carry. Never empty:
    /// an empty list is served as `folio`.
    pub served_names: Vec<String>,
    /// Accepted bearer keys. Empty: everybody may do everything.
    pub api_keys: Vec<String>,
    /// Web pages of these origins may use the server from a browser, `*`: all. Empty: none may.
    pub allowed_origins: Vec<String>,
    /// Whether requests may say how urgent they are.
    pub priorities: bool,
    /// Seed of requests that bring none. `None` draws a fresh one for each.
    pub seed: Option<u64>,
    /// Bounds on requests and connections.
    pub limits: Limits,
    /// What became of KV events, where they are published.
    pub kv_events: Option<Arc<KvEventCounts>>,
    /// Who wants to know of each request when it is over.
    pub spans: Option<SpanSink>,
    /// Who we are, where connections are encrypted.
    pub tls: Option<Tls>,
    /// What clients may learn about the model.
    pub model: ModelFacts,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            served_names: vec!["folio".to_owned()],
            api_keys: Vec::new(),
            allowed_origins: Vec::new(),
            priorities: false,
            seed: None,
            limits: Limits::default(),
            kv_events: None,
            spans: None,
            tls: None,
            model: ModelFacts::default(),
        }
    }
}

/// Bounds on what one request, one connection and all of them together may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest request body in bytes; longer ones get a 413.
    pub body_bytes: usize,
    /// Bodies that are being read or parsed at one time, in bytes together; more get a 503.
    pub body_bytes_together: usize,
    /// Time a client has to send a body; slower ones get a 408.
    pub body_time: Duration,
    /// Time a client has to send a request's head, counted also while a connection idles; then it is closed.
    pub head_time: Duration,
    /// Longest request head in bytes; longer ones get a 431.
    pub head_bytes: usize,
    /// Most header lines; more get a 431.
    pub headers: usize,
    /// Time a client may leave a written answer unread before its connection is closed.
    pub write_time: Duration,
    /// Open connections; further ones wait in the listener's queue.
    pub connections: usize,
    /// Time from reading a request to its end; longer ones are ended with a 504.
    pub request_time: Duration,
    /// Time in which a request, once it is in the engine, must hear something; else it is ended with a 504.
    pub idle_time: Duration,
    /// Time that running requests have to finish once the server is told to stop; then they are cut off.
    pub shutdown_time: Duration,
    /// Most requests of one key at one time, 0: as many as there is room for; more get a 429.
    pub requests_per_key: u32,
    /// Silence on a stream after which a comment is sent, so that proxies keep it open.
    pub keep_alive: Duration,
    /// Templates and tokenisations that run at one time; more wait.
    pub text_threads: usize,
    /// Time to render and tokenise one request, waiting included; then it gets a 503.
    pub text_time: Duration,
    /// Most prompts in one request.
    pub prompts: usize,
    /// Most choices in one request, over all prompts.
    pub choices: usize,
    /// Largest `n`, `best_of` and `beam_width`.
    pub n: u32,
    /// Most alternatives per token.
    pub logprobs: u32,
    /// Most entries of `logit_bias`.
    pub logit_bias: usize,
    /// Most entries of `stop_token_ids`.
    pub stop_token_ids: usize,
    /// Most stop strings.
    pub stops: usize,
    /// Longest stop string in bytes.
    pub stop_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            body_bytes_together: 128 << 20,
            body_time: Duration::from_secs(60),
            head_time: Duration::from_secs(30),
            head_bytes: 64 << 10,
            headers: 128,
            write_time: Duration::from_secs(60),
            connections: 4096,
            request_time: Duration::from_secs(3600),
            idle_time: Duration::from_secs(600),
            shutdown_time: Duration::from_secs(30),
            requests_per_key: 0,
            keep_alive: Duration::from_secs(15),
            text_threads: 2,
            text_time: Duration::from_secs(30),
            prompts: 1024,
            choices: 1024,
            n: 128,
            logprobs: 20,
            logit_bias: 1024,
            stop_token_ids: 128,
            stops: 16,
            stop_bytes: 1024,
        }
    }
}

/// Facts about the model and its cache that clients see in `/v1/models`, `/metrics` and `/version`.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// When the model was made available, in seconds since 1970.
    pub created: u64,
    /// Where it came from, as far as clients may know; usually its name again.
    pub root: String,
    /// Tokens that end a sequence.
    pub eos: Vec<Token>,
    /// Further labels of `vllm:cache_config_info` besides block size and number: `cache_dtype`,
    /// `enable_prefix_caching` and the like.
    pub cache_labels: Vec<(&'static str, String)>,
}

/// Everything between strings and tokens for one model.
#[derive(Clone, Debug)]
pub struct ModelTexts {
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's chat template; without one `/v1/chat/completions` is refused.
    pub template: Option<ChatTemplate>,
    /// Used where a request says nothing.
    pub defaults: GenerationDefaults,
    /// How the model writes tool calls, if that is known.
    pub tools: Option<ToolFormat>,
    /// Whether it thinks between `<think>` and `</think>`, and clients are to be shown that apart.
    pub reasoning: bool,
}
