//! What all handlers share: the engine's handle, the texts of the model, the limits, the metrics, and who is running.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use folio_core::ids::Salt;
use folio_core::params::ParamLimits;
use folio_engine::{Handle, Owner};
use folio_text::Grammars;
use tokio::sync::{Semaphore, watch};

use crate::auth::{Caller, Keys};
use crate::config::{Limits, ModelFacts, ModelTexts, ServerConfig};
use crate::error::{ApiError, quote};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::request::body::BodyBudget;
use crate::span::SpanSink;
use crate::tls::Tls;

/// A server's state. Clones are the same server.
#[derive(Clone, Debug)]
pub struct App {
    pub(crate) served: Arc<Served>,
    pub(crate) engine: Handle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) bodies: BodyBudget,
    pub(crate) text_threads: Arc<Semaphore>,
    pub(crate) pace: Arc<Pace>,
    life: Arc<Life>,
}

/// Who is running, and whether anybody else may.
#[derive(Debug)]
struct Life {
    draining: AtomicBool,
    running: watch::Sender<usize>,
    /// Those of each key.
    by_key: Vec<AtomicU32>,
}

impl App {
    /// A server for one engine and one model.
    #[must_use]
    pub fn new(config: ServerConfig, engine: Handle, texts: ModelTexts) -> Self {
        let keys = Keys::new(config.api_keys.clone());
        let kv_events = config.kv_events.clone();
        let served = Served::new(config, texts, &engine);
        Self {
            metrics: Arc::new(Metrics::new(served.name(), served.max_model_len, kv_events)),
            pace: Arc::new(Pace::default()),
            bodies: BodyBudget::new(&served.limits),
            text_threads: Arc::new(Semaphore::new(served.limits.text_threads.max(1))),
            life: Arc::new(Life {
                draining: AtomicBool::new(false),
                running: watch::Sender::new(0),
                by_key: (0..keys.count()).map(|_| AtomicU32::new(0)).collect(),
            }),
            keys: Arc::new(keys),
            served: Arc::new(served),
            engine,
        }
    }

    /// Whether the server has been told to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.life.draining.load(Ordering::SeqCst)
    }

    /// Refuses generation requests from now on; those that run go on.
    pub(crate) fn drain(&self) {
        self.life.draining.store(true, Ordering::SeqCst);
        self.engine.drain();
    }

    /// Generation requests that are running.
    pub(crate) fn running(&self) -> usize {
        *self.life.running.borrow()
    }

    /// Waits until no generation request is running.
    pub(crate) async fn idle(&self) {
        let mut running = self.life.running.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Registers a generation request.
    ///
    /// # Errors
    /// 503 when the server has been told to stop, 429 when the caller has as many requests as it may.
    pub(crate) fn enter(&self, caller: Caller) -> Result<Ticket, ApiError> {
        let (ticket, of_caller) = Ticket::new(Arc::clone(&self.life), caller);
        if self.is_draining() {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
        let most = self.served.limits.requests_per_key;
        if most > 0 && of_caller > most {
            let message = format!(
                "this key has {most} requests in the server already, as many as it may; wait for one of them"
            );
            return Err(self.crowded(message));
        }
        Ok(ticket)
    }

    /// What a client is told that finds no room: when to come back, where it would stand and how long that takes.
    pub(crate) fn crowded(&self, message: String) -> ApiError {
        let snapshot = self.engine.snapshot();
        let ahead = snapshot.requests.saturating_sub(snapshot.stats.running.groups);
        let position = ahead.saturating_add(1);
        ApiError::busy(message, seconds(self.pace.wait(1)))
            .with_queue(position, self.pace.wait(position).as_secs_f64())
    }
}

impl Life {
    fn of(&self, caller: Caller) -> Option<&AtomicU32> {
        self.by_key.get(caller.key()?)
    }
}

/// Whole seconds, at least one: what `Retry-After` can say.
fn seconds(wait: Duration) -> u32 {
    let rounded = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    u32::try_from(rounded).unwrap_or(u32::MAX).max(1)
}

/// A generation request that is running; held until its answer has been handed over.
#[derive(Debug)]
pub(crate) struct Ticket {
    life: Arc<Life>,
    caller: Caller,
}

impl Ticket {
    /// The ticket, and how many its caller has now.
    fn new(life: Arc<Life>, caller: Caller) -> (Self, u32) {
        life.running.send_modify(|running| *running += 1);
        let before = life.of(caller).map_or(0, |count| count.fetch_add(1, Ordering::AcqRel));
        (Self { life, caller }, before.saturating_add(1))
    }
}

impl Ticket {
    /// Whose request it is.
    pub(crate) fn owner(&self) -> Owner {
        self.caller.owner()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(count) = self.life.of(self.caller) {
            count.fetch_sub(1, Ordering::AcqRel);
        }
        self.life.running.send_modify(|running| *running -= 1);
    }
}

/// The model as requests see it. Nothing here changes while the server runs.
#[derive(Debug)]
pub(crate) struct Served {
    names: Vec<String>,
    seed: Option<u64>,
    /// Whose web pages may use the server.
    pub(crate) origins: Vec<String>,
    /// Whether requests may say how urgent they are.
    pub(crate) priorities: bool,
    pub(crate) limits: Limits,
    pub(crate) spans: Option<SpanSink>,
    pub(crate) tls: Option<Tls>,
    pub(crate) model: ModelFacts,
    pub(crate) texts: ModelTexts,
    pub(crate) param_limits: ParamLimits,
    pub(crate) max_model_len: u32,
    pub(crate) grammars: Grammars,
    random: Random,
}

impl Served {
    fn new(config: ServerConfig, texts: ModelTexts, engine: &Handle) -> Self {
        let ServerConfig {
            served_names: mut names,
            api_keys: _,
            allowed_origins: origins,
            priorities,
            seed,
            limits,
            kv_events: _,
            spans,
            tls,
            model,
        } = config;
        if names.is_empty() {
            names.push("folio".to_owned());
        }
        let param_limits = ParamLimits {
            vocab: engine.limits().vocab,
            max_n: limits.n,
            max_logprobs: limits.logprobs,
            max_logit_bias: limits.logit_bias,
            max_stop_token_ids: limits.stop_token_ids,
            eos: model.eos.clone(),
        };
        let max_model_len = engine.limits().max_model_len;
        let random = Random::default();
        let ends = model.eos.iter().map(|token| token.0).collect();
        let grammars = Grammars::new(texts.tokenizer.clone(), ends);
        Self {
            names,
            seed,
            origins,
            priorities,
            limits,
            spans,
            tls,
            model,
            texts,
            param_limits,
            max_model_len,
            grammars,
            random,
        }
    }

    /// The name answers carry when the caller gave none.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("folio", String::as_str)
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The name a request asked for, if it is served.
    pub(crate) fn known_model(&self, asked: Option<String>) -> Result<String, ApiError> {
        match asked {
            None => Ok(self.name().to_owned()),
            Some(name) if self.names.contains(&name) => Ok(name),
            Some(name) => Err(self.unknown_model(&name)),
        }
    }

    /// 404 for a model name.
    pub(crate) fn unknown_model(&self, name: &str) -> ApiError {
        let message =
            format!("the model {} does not exist; this server has `{}`", quote(name), self.name());
        ApiError::new(axum::http::StatusCode::NOT_FOUND, message).with_param("model")
    }

    /// The seed of a request that brings none.
    pub(crate) fn seed_for_one(&self) -> u64 {
        self.seed.unwrap_or_else(|| self.random.next())
    }

    /// The prefix cache that requests of this caller with this `cache_salt` share. Nobody else's can be guessed, since the
    /// hash is keyed by a secret of the process.
    pub(crate) fn salt(&self, caller: Caller, text: Option<&str>) -> Salt {
        if caller.is_known() || text.is_some() {
            Salt(self.random.secret.hash_one((caller, text)))
        } else {
            Salt::default()
        }
    }

    /// A name nobody else has, 32 hexadecimal digits.
    pub(crate) fn unique(&self) -> String {
        format!("{:016x}{:016x}", self.random.next(), self.random.next())
    }
}

/// Numbers that cannot be guessed from outside: a keyed hash of a counter.
#[derive(Debug, Default)]
struct Random {
    secret: RandomState,
    count: AtomicU64,
}

impl Random {
    fn next(&self) -> u64 {
        self.secret.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}
