//! What dashboards and autoscalers read, under vLLM's names, labels and buckets.
//!
//! Counters and gauges about blocks, queues and steps come from the engine's last snapshot when the page is asked for;
//! what depends on text or on the client's clock is recorded here, by atomics. A request in the sense of these metrics
//! is one prompt; finish reasons and output lengths are counted per choice, as vLLM does.

mod histogram;
mod http;
mod page;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use folio_engine::Snapshot;

use crate::generate::choice::{Choice, Finish};
use crate::generate::report::Outcome;
use crate::generate::run::Lane;
use crate::kv_events::KvEventCounts;
use histogram::Histogram;
pub(crate) use http::Exchange;
use http::HttpCounts;

const TO_FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const PER_REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const SAMPLES: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];
const PREEMPTIONS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

/// Everything that is recorded on this side of the engine.
#[derive(Debug)]
pub(crate) struct Metrics {
    model_name: String,
    finished: Finished,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
    preemptions: Histogram,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    e2e_latency: Histogram,
    queue_time: Histogram,
    inference_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    max_generation_tokens: Histogram,
    computed_prompt_tokens: Histogram,
    http: HttpCounts,
    kv_events: Option<Arc<KvEventCounts>>,
    /// Requests for which there was no room.
    rejections: AtomicU64,
    /// Prompt tokens of finished requests that were computed.
    local_compute: AtomicU64,
    /// Those that came from the prefix cache.
    local_cache_hit: AtomicU64,
}

/// The share of KV blocks in use, and the requests that wait: those that the engine has accepted and not yet taken up wait
/// as much as those in the scheduler's queue.
pub(crate) fn load_of(engine: &Snapshot) -> (f64, f64) {
    let (stats, kv) = (&engine.stats, &engine.stats.kv);
    let (running, swapped) = (f64::from(stats.running.groups), f64::from(stats.swapped.groups));
    let waiting = f64::from(engine.requests) - running - swapped;
    (f64::from(kv.used) / f64::from(kv.total.max(1)), waiting.max(f64::from(stats.waiting.groups)))
}

/// Choices by how they ended.
#[derive(Debug, Default)]
struct Finished {
    stop: AtomicU64,
    length: AtomicU64,
    abort: AtomicU64,
    error: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(
        model_name: &str,
        max_model_len: u32,
        kv_events: Option<Arc<KvEventCounts>>,
    ) -> Self {
        Self {
            model_name: model_name.to_owned(),
            finished: Finished::default(),
            prompt_tokens: Histogram::one_two_five(max_model_len),
            generation_tokens: Histogram::one_two_five(max_model_len),
            params_n: Histogram::new(&SAMPLES),
            params_max_tokens: Histogram::one_two_five(max_model_len),
            preemptions: Histogram::new(&PREEMPTIONS),
            time_to_first_token: Histogram::new(&TO_FIRST_TOKEN),
            inter_token_latency: Histogram::new(&PER_TOKEN),
            time_per_output_token: Histogram::new(&PER_TOKEN),
            e2e_latency: Histogram::new(&PER_REQUEST),
            queue_time: Histogram::new(&PER_REQUEST),
            inference_time: Histogram::new(&PER_REQUEST),
            prefill_time: Histogram::new(&PER_REQUEST),
            decode_time: Histogram::new(&PER_REQUEST),
            max_generation_tokens: Histogram::one_two_five(max_model_len),
            computed_prompt_tokens: Histogram::one_two_five(max_model_len),
            http: HttpCounts::new(),
            kv_events,
            rejections: AtomicU64::new(0),
            local_compute: AtomicU64::new(0),
            local_cache_hit: AtomicU64::new(0),
        }
    }

    /// The time between two tokens of one choice.
    pub(crate) fn inter_token(&self, time: Duration) {
        self.inter_token_latency.record(time.as_secs_f64());
    }

    /// An HTTP request that is over.
    pub(crate) fn exchanged(&self, exchange: &Exchange) {
        self.http.count(exchange);
    }

    /// A request for which there was no room.
    pub(crate) fn rejected(&self) {
        self.rejections.fetch_add(1, Ordering::Relaxed);
    }

    /// A prompt that is over. Times are recorded only for those that finished: a time that was cut short tells nothing.
    pub(crate) fn request(&self, lane: &Lane, outcome: Outcome, arrival: Instant) {
        for choice in &lane.choices {
            self.finished.of(choice, outcome).fetch_add(1, Ordering::Relaxed);
        }
        if outcome != Outcome::Finished {
            return;
        }
        self.prompt_tokens.record(f64::from(lane.prompt_tokens()));
        self.params_n.record(u32::try_from(lane.choices.len()).map_or(f64::MAX, f64::from));
        if let Some(max_tokens) = lane.max_tokens {
            self.params_max_tokens.record(f64::from(max_tokens));
        }
        self.preemptions.record(f64::from(lane.preemptions));
        let computed = lane.prompt_tokens().saturating_sub(lane.cached_tokens);
        self.computed_prompt_tokens.record(f64::from(computed));
        self.local_compute.fetch_add(u64::from(computed), Ordering::Relaxed);
        self.local_cache_hit.fetch_add(u64::from(lane.cached_tokens), Ordering::Relaxed);
        let longest = lane.choices.iter().map(|choice| choice.generated).max();
        self.max_generation_tokens.record(f64::from(longest.unwrap_or(0)));
        self.e2e_latency.record(arrival.elapsed().as_secs_f64());
        for choice in &lane.choices {
            self.generation_tokens.record(f64::from(choice.generated));
            if let (Some(first), Some(last)) = (choice.first_token, choice.last_token)
                && !lane.is_ranked
            {
                let steps = f64::from(choice.generated.saturating_sub(1).max(1));
                self.time_per_output_token.record(seconds(first, last) / steps);
            }
        }
        self.phases(lane, arrival);
    }

    /// Queue, prefill and decode, as the engine's clock saw them.
    fn phases(&self, lane: &Lane, arrival: Instant) {
        let timing = &lane.timing;
        let Some(admitted) = timing.admitted else { return };
        self.queue_time.record(seconds(timing.arrival, admitted));
        let Some((first, last)) = timing.first_token.zip(timing.last_token) else { return };
        self.time_to_first_token.record(seconds(arrival, first));
        self.inference_time.record(seconds(admitted, last));
        // Ranked choices are told all at once, which tells nothing about when their tokens were made.
        if !lane.is_ranked {
            self.prefill_time.record(seconds(admitted, first));
            self.decode_time.record(seconds(first, last));
        }
    }
}

impl Finished {
    fn of(&self, choice: &Choice, outcome: Outcome) -> &AtomicU64 {
        match (choice.finish(), outcome) {
            (Some(Finish::Length), Outcome::Finished) => &self.length,
            (Some(_), Outcome::Finished) => &self.stop,
            (_, Outcome::Error) => &self.error,
            (_, Outcome::Aborted) | (None, Outcome::Finished) => &self.abort,
        }
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
