//! The one line that is logged for each request when it is over. It tells numbers and names, never what was said.

use std::time::{Duration, Instant};

use folio_core::params::Decoding;

use super::choice::Finish;
use super::run::Lane;

/// How a prompt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All choices have a finish reason.
    Finished,
    /// Nobody wanted the rest.
    Aborted,
    /// The engine failed.
    Error,
}

/// What is known about a request, gathered prompt by prompt.
#[derive(Debug)]
pub(crate) struct Report {
    /// The answer's id.
    id: String,
    /// The caller's or a made-up id of the HTTP request.
    request_id: String,
    endpoint: &'static str,
    /// When the request was read, before anything was done about it.
    pub(crate) arrival: Instant,
    prompts: usize,
    choices: usize,
    prompt_tokens: u64,
    cached_tokens: u64,
    generated_tokens: u64,
    preemptions: u64,
    swaps: u64,
    /// How the choices came about.
    decoding: &'static str,
    /// Samples or beams per prompt, where they are ranked.
    width: Option<u32>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    finish: Option<&'static str>,
}

impl Report {
    pub(crate) fn new(
        id: String,
        request_id: String,
        endpoint: &'static str,
        arrival: Instant,
    ) -> Self {
        Self {
            id,
            request_id,
            endpoint,
            arrival,
            prompts: 0,
            choices: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            preemptions: 0,
            swaps: 0,
            decoding: "none",
            width: None,
            first_token: None,
            last_token: None,
            finish: None,
        }
    }

    /// Takes in a prompt that is over.
    pub(crate) fn add(&mut self, lane: &Lane, outcome: Outcome) {
        self.prompts += 1;
        self.choices += lane.choices.len();
        self.prompt_tokens += u64::from(lane.prompt_tokens());
        self.cached_tokens += u64::from(lane.cached_tokens);
        self.preemptions += u64::from(lane.preemptions);
        self.swaps += u64::from(lane.swaps);
        (self.decoding, self.width) = match lane.decoding {
            Decoding::Beam(beams) => ("beam", Some(beams.width)),
            Decoding::Sample { best_of } if lane.is_ranked => ("best_of", Some(best_of)),
            Decoding::Sample { .. } => ("sample", None),
        };
        for choice in &lane.choices {
            self.generated_tokens += u64::from(choice.generated);
            self.last_token = self.last_token.max(choice.last_token);
            self.first_token = match (self.first_token, choice.first_token) {
                (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
                (ours, theirs) => ours.or(theirs),
            };
            let reason = match outcome {
                Outcome::Finished => choice.finish().map_or("abort", Finish::reason),
                Outcome::Aborted => "abort",
                Outcome::Error => "error",
            };
            self.finish = match self.finish {
                Some(other) if other != reason => Some("mixed"),
                _ => Some(reason),
            };
        }
    }

    /// Writes the line.
    pub(crate) fn log(&self) {
        let milliseconds = |from: Instant, to: Option<Instant>| {
            to.map(|to| to.saturating_duration_since(from).as_secs_f64() * 1e3)
        };
        let per_choice =
            self.generated_tokens.checked_div(u64::try_from(self.choices).unwrap_or(1));
        let tpot = match (self.first_token, self.last_token, per_choice) {
            // Ranked choices come all at once, which tells nothing about when their tokens were made.
            (Some(first), Some(last), Some(tokens)) if tokens > 1 && self.width.is_none() => {
                let steps = u32::try_from(tokens - 1).unwrap_or(u32::MAX);
                Some((last.saturating_duration_since(first) / steps).as_secs_f64() * 1e3)
            }
            _ => None,
        };
        let total: Duration = self.arrival.elapsed();
        tracing::info!(
            id = self.id,
            request_id = self.request_id,
            endpoint = self.endpoint,
            prompts = self.prompts,
            choices = self.choices,
            prompt_tokens = self.prompt_tokens,
            cached_tokens = self.cached_tokens,
            generated_tokens = self.generated_tokens,
            preemptions = self.preemptions,
            swaps = self.swaps,
            decoding = self.decoding,
            width = self.width,
            ttft_ms = milliseconds(self.arrival, self.first_token),
            tpot_ms = tpot,
            total_ms = total.as_secs_f64() * 1e3,
            finish = self.finish.unwrap_or("none"),
            "request"
        );
    }
}
