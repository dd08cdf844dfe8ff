//! The engine that serves, in this process: many requests at once, and when each of their tokens came.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use folio_core::ids::{Salt, Token};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::Job;
use folio_engine::{Generation, Update};
use folio_model::Profile;
use folio_sim::memory::Policy;
use indicatif::ProgressBar;

use super::args::RunArgs;
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
    kv_policy: Policy,
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

    /// Seconds per token from sending to the last one.
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    pub(crate) fn normalized(&self) -> f64 {
        self.latency().as_secs_f64() / self.tokens.len().max(1) as f64
    }

    /// Seconds per token after the first.
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    pub(crate) fn tpot(&self) -> Option<f64> {
        let after = self.tokens.len().checked_sub(1).filter(|after| *after > 0)?;
        Some((self.latency() - self.ttft()).as_secs_f64() / after as f64)
    }
}

impl Engine {
    /// Loads the model of `args`, with memory under `kv_policy`.
    pub(crate) fn start(args: &ModelArgs, run: &RunArgs, kv_policy: Policy) -> Result<Self> {
        let settings = Settings { kv_policy, ..Settings::new(args, QUEUE)? };
        let steps = Steps::default();
        let profile = run.profile.then(Profile::default);
        let laps = Laps::new(steps.clone(), profile.clone());
        let running = startup::start_observed(&settings, true, profile, laps)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { running, steps, runtime, temperature: run.temperature, kv_policy })
    }

    /// Sends every request at its time, `requests` being in their order, and waits for all tokens.
    pub(crate) fn run(&self, requests: &[Request]) -> Result<Vec<Answered>> {
        let bar = ProgressBar::new(u64::try_from(requests.len())?);
        let start = Instant::now();
        let mut sent = Vec::with_capacity(requests.len());
        for (number, request) in requests.iter().enumerate() {
            let ids = match (&request.text, request.ids.as_slice()) {
                (Some(text), []) => self.running.tokenizer.encode(text, true)?,
                (_, ids) => ids.to_vec(),
            };
            let input_len = ids.len();
            let prompt = ids.into_iter().map(Token).collect();
            let job = Job::new(prompt, self.params(request.output_len)?, Salt::default());
            let arrival = Duration::try_from_secs_f64(request.arrival_s).with_context(|| {
                format!("request {number} cannot come at {}", request.arrival_s)
            })?;
            std::thread::sleep(arrival.saturating_sub(start.elapsed()));
            let now = Instant::now();
            let generation = self.running.engine.generate(job);
            sent.push((now, input_len, generation.with_context(|| format!("request {number}"))?));
        }
        let answer = |(sent, input_len, generation)| {
            let tokens = self.runtime.block_on(read(generation))?;
            bar.inc(1);
            Ok(Answered { sent, input_len, tokens })
        };
        let mut answers = sent.into_iter().map(answer).collect::<Result<Vec<_>>>()?;
        bar.finish_and_clear();
        // The engine looks at this between two steps: with its answer the last step is in the list, too.
        self.runtime.block_on(self.running.engine.inspect());
        if self.kv_policy == Policy::Static {
            hold_back_batches(&mut answers);
        }
        Ok(answers)
    }

    /// Preemptions since the engine was started.
    pub(crate) fn preemptions(&self) -> u64 {
        self.running.engine.snapshot().stats.totals.preemptions
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

/// Lets every answer come with the last of its batch, as a whole: `answers` stand in the order in which they were begun, and a
/// batch begins when all before it have ended.
fn hold_back_batches(answers: &mut [Answered]) {
    let mut rest = answers;
    while let Some(mut end) = rest.first().and_then(|first| first.tokens.last().copied()) {
        let mut size = 0;
        for answer in rest.iter() {
            match (answer.tokens.first(), answer.tokens.last()) {
                (Some(first), Some(last)) if size == 0 || *first < end => end = end.max(*last),
                _ => break,
            }
            size += 1;
        }
        let (batch, others) = std::mem::take(&mut rest).split_at_mut(size);
        for answer in batch {
            answer.tokens.fill(end);
        }
        rest = others;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_answered_when_its_last_request_ends() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let answer = |times: &[u64]| Answered {
            sent: start,
            input_len: 1,
            tokens: times.iter().map(|&ms| at(ms)).collect(),
        };
        let mut answers =
            [answer(&[10, 20]), answer(&[10, 20, 30]), answer(&[40]), answer(&[60, 70])];
        hold_back_batches(&mut answers);
        let ends: Vec<Vec<Instant>> = answers.into_iter().map(|answer| answer.tokens).collect();
        assert_eq!(ends, [vec![at(30); 2], vec![at(30); 3], vec![at(40)], vec![at(70); 2]]);
    }
}
