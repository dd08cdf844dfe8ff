//! The one line that is logged for each request when it is over, and the span, where spans are wanted. They tell numbers and names, never what was said.

use std::time::{Instant, SystemTime};

use axum::http::request::Parts;
use folio_core::params::{Decoding, Params};
use folio_engine::Timing;

use super::choice::Finish;
use super::run::Lane;
use super::timings::milliseconds;
use crate::app::request_id;
use crate::span::{Parent, RequestSpan, SpanValue};
use crate::state::Served;

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
    parent: Option<Parent>,
    asked: Option<Asked>,
    phases: Phases,
}

/// What the caller wanted of its first prompt.
#[derive(Clone, Copy, Debug)]
struct Asked {
    n: u32,
    max_tokens: Option<u32>,
    temperature: f64,
    top_p: f64,
}

/// The engine's times, over all prompts.
#[derive(Clone, Copy, Debug, Default)]
struct Phases {
    submitted: Option<Instant>,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Report {
    pub(crate) fn new(id: String, parts: &Parts, endpoint: &'static str, arrival: Instant) -> Self {
        Self {
            id,
            request_id: request_id(&parts.extensions),
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
            parent: Parent::of(parts),
            asked: None,
            phases: Phases::default(),
        }
    }

    /// What the caller wants of a prompt.
    pub(crate) fn asked(&mut self, params: &Params) {
        let &Params { n, max_tokens, ref sampling, .. } = params;
        self.asked.get_or_insert(Asked {
            n,
            max_tokens,
            temperature: sampling.temperature.into(),
            top_p: sampling.top_p.into(),
        });
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
        self.phases.add(&lane.timing);
        for choice in &lane.choices {
            self.generated_tokens += u64::from(choice.generated);
            self.last_token = self.last_token.max(choice.last_token);
            self.first_token = earlier(self.first_token, choice.first_token);
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
        let per_choice =
            self.generated_tokens.checked_div(u64::try_from(self.choices).unwrap_or(1));
        let tpot = match (self.first_token, self.last_token, per_choice) {
            // Ranked choices come all at once, which tells nothing about when their tokens were made.
            (Some(first), Some(last), Some(tokens)) if tokens > 1 && self.width.is_none() => {
                let steps = u32::try_from(tokens - 1).unwrap_or(u32::MAX);
                Some(milliseconds(last.saturating_duration_since(first) / steps))
            }
            _ => None,
        };
        let since_arrival = |at: Instant| milliseconds(at.saturating_duration_since(self.arrival));
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
            ttft_ms = self.first_token.map(since_arrival),
            tpot_ms = tpot,
            total_ms = milliseconds(self.arrival.elapsed()),
            finish = self.finish.unwrap_or("none"),
            "request"
        );
    }

    /// Hands the span over, if anybody wants it.
    pub(crate) fn trace(&self, served: &Served) {
        let Some(sink) = &served.spans else { return };
        if self.parent.as_ref().is_some_and(|parent| !parent.sampled) {
            return;
        }
        let end = SystemTime::now();
        let mut id = served.unique();
        let trace = self.parent.as_ref().map_or_else(|| served.unique(), |it| it.trace.clone());
        id.truncate(16);
        sink.take(RequestSpan {
            trace,
            id,
            parent: self.parent.as_ref().map(|parent| parent.span.clone()),
            start: end.checked_sub(self.arrival.elapsed()).unwrap_or(end),
            end,
            failed: self.finish == Some("error"),
            attributes: self.attributes(served),
        });
    }

    /// Under vLLM's names; `folio.` for what it has no name for.
    fn attributes(&self, served: &Served) -> Vec<(&'static str, SpanValue)> {
        use SpanValue::{Count, Number, Text};
        let Phases { submitted, admitted, first_token, last_token } = self.phases;
        let asked = self.asked;
        let between = |from: Option<Instant>, to: Option<Instant>| {
            Some(Number(to?.saturating_duration_since(from?).as_secs_f64()))
        };
        let number = |of: fn(Asked) -> f64| asked.map(|asked| Number(of(asked)));
        let all = [
            ("gen_ai.request.id", Some(Text(self.request_id.clone()))),
            ("gen_ai.response.id", Some(Text(self.id.clone()))),
            ("gen_ai.response.model", Some(Text(served.name().to_owned()))),
            ("gen_ai.operation.name", Some(Text(self.endpoint.to_owned()))),
            ("gen_ai.request.n", asked.map(|asked| Count(asked.n.into()))),
            (
                "gen_ai.request.max_tokens",
                asked.and_then(|asked| asked.max_tokens).map(|most| Count(most.into())),
            ),
            ("gen_ai.request.temperature", number(|asked| asked.temperature)),
            ("gen_ai.request.top_p", number(|asked| asked.top_p)),
            ("gen_ai.usage.prompt_tokens", Some(Count(self.prompt_tokens))),
            ("gen_ai.usage.completion_tokens", Some(Count(self.generated_tokens))),
            ("gen_ai.usage.cached_tokens", Some(Count(self.cached_tokens))),
            ("gen_ai.response.finish_reasons", self.finish.map(|why| Text(why.to_owned()))),
            ("gen_ai.latency.time_in_queue", between(submitted, admitted)),
            ("gen_ai.latency.time_to_first_token", between(Some(self.arrival), first_token)),
            ("gen_ai.latency.e2e", Some(Number(self.arrival.elapsed().as_secs_f64()))),
            ("gen_ai.latency.time_in_model_prefill", between(admitted, first_token)),
            ("gen_ai.latency.time_in_model_decode", between(first_token, last_token)),
            ("gen_ai.latency.time_in_model_inference", between(admitted, last_token)),
            ("folio.preemptions", Some(Count(self.preemptions))),
            ("folio.swaps", Some(Count(self.swaps))),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl Phases {
    fn add(&mut self, timing: &Timing) {
        self.submitted = earlier(self.submitted, Some(timing.arrival));
        self.admitted = earlier(self.admitted, timing.admitted);
        self.first_token = earlier(self.first_token, timing.first_token);
        self.last_token = self.last_token.max(timing.last_token);
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
