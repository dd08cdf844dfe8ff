//! The engine that serves, in this process: many requests at once, and when each of their tokens came.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use folio_core::ids::{Salt, Token};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::Job;
use folio_engine::{Generation, Update};
use folio_model::Profile;

use super::dataset::Request;
use super::laps::{Laps, Steps};
use crate::args::ModelArgs;
use crate::settings::Settings;
use crate::startup::{self, Running};

/// More requests than any benchmark has at once.
const QUEUE: u32 = 1_000_000;

/// A running engine whose steps are recorded.
pub(crate) struct Engine {
    pub(crate) running: Running,
    pub(crate) steps: Steps,
    runtime: tokio::runtime::Runtime,
    temperature: f64,
}

/// When the tokens of one request came.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// When it was sent.
    pub(crate) sent: Instant,
    /// Its prompt.
    pub(crate) input_len: usize,
    /// One per token; at least one.
    pub(crate) tokens: Vec<Instant>,
}

impl Answered {
    /// From sending to the first token.
    pub(crate) fn ttft(&self) -> Duration {
        self.tokens.first().map_or(Duration::ZERO, |first| *first - self.sent)
    }

    /// From sending to the last token.
    pub(crate) fn latency(&self) -> Duration {
        self.tokens.last().map_or(Duration::ZERO, |last| *last - self.sent)
    }

    /// Seconds per token after the first.
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    pub(crate) fn tpot(&self) -> Option<f64> {
        let after = self.tokens.len().checked_sub(1).filter(|after| *after > 0)?;
        Some((self.latency() - self.ttft()).as_secs_f64() / after as f64)
    }
}

impl Engine {
    /// Loads the model of `args`.
    pub(crate) fn start(args: &ModelArgs, temperature: f64, profile: bool) -> Result<Self> {
        let settings = Settings::new(args, QUEUE)?;
        let steps = Steps::default();
        let profile = profile.then(Profile::default);
        let laps = Laps::new(steps.clone(), profile.clone());
        let running = startup::start_observed(&settings, true, profile, laps)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { running, steps, runtime, temperature })
    }

    /// Sends all requests at once and waits for all their tokens.
    pub(crate) fn run(&self, requests: &[Request]) -> Result<Vec<Answered>> {
        let mut sent = Vec::with_capacity(requests.len());
        for (number, request) in requests.iter().enumerate() {
            let ids = match (&request.text, request.ids.as_slice()) {
                (Some(text), []) => self.running.tokenizer.encode(text, true)?,
                (_, ids) => ids.to_vec(),
            };
            let input_len = ids.len();
            let prompt = ids.into_iter().map(Token).collect();
            let job = Job::new(prompt, self.params(request.output_len)?, Salt::default());
            let now = Instant::now();
            let generation = self.running.engine.generate(job);
            sent.push((now, input_len, generation.with_context(|| format!("request {number}"))?));
        }
        let answer = |(sent, input_len, generation)| {
            let tokens = self.runtime.block_on(read(generation))?;
            Ok(Answered { sent, input_len, tokens })
        };
        let answers = sent.into_iter().map(answer).collect();
        // The engine looks at this between two steps: with its answer the last step is in the list, too.
        self.runtime.block_on(self.running.engine.inspect());
        answers
    }

    fn params(&self, output_len: u32) -> Result<Params> {
        let asked = Requested {
            max_tokens: Some(i64::from(output_len)),
            temperature: Some(self.temperature),
            ignore_eos: true,
            ..Requested::default()
        };
        let limits = ParamLimits::plain(self.running.engine.limits().vocab, Vec::new());
        Params::parse(&asked, &limits, 0).map_err(|bad| anyhow!("{} {}", bad.field, bad.problem))
    }

    /// Ends the engine.
    pub(crate) fn stop(self) -> Result<()> {
        self.running.engine.drain();
        self.running.thread.join().context("the engine ended by itself")
    }
}

/// The times of all tokens. They are the engine's own, so reading late does not change them.
async fn read(mut generation: Generation) -> Result<Vec<Instant>> {
    let mut tokens = Vec::new();
    while let Some(updates) = generation.next().await {
        for update in updates {
            match update {
                Update::Sampled { at, .. } => tokens.push(at),
                Update::Failed(cause) => bail!(cause),
                Update::Admitted { .. }
                | Update::PromptScored(_)
                | Update::Ranked { .. }
                | Update::Ended { .. } => {}
            }
        }
    }
    Ok(tokens)
}
