//! What a run comes to: the figures that the report shows and that JSON carries.
//!
//! Means over time leave the first tenth of the arrivals' span out, when the engine fills up, and all that follows the last
//! arrival, when it empties. Times of requests are those of all that finished.

use serde::Serialize;

use crate::memory::Usage;
use crate::numbers::{mean, percentile_of_sorted};
use crate::report::{Outcome, RequestRecord};
use crate::setup::Played;

/// Mean and percentiles of one time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Half are below.
    pub p50: f64,
    /// 90 % are below.
    pub p90: f64,
    /// 99 % are below.
    pub p99: f64,
}

impl Spread {
    /// Of any values; zeros if there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |percent| percentile_of_sorted(&values, percent);
        Self { mean: mean(&values), p50: at(50.0), p90: at(90.0), p99: at(99.0) }
    }
}

/// How quick a request must be to count as served well; what is `None` does not matter. In seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Objectives {
    /// To the first token.
    pub ttft: Option<f64>,
    /// Per token after the first.
    pub tpot: Option<f64>,
    /// To the end.
    pub e2el: Option<f64>,
}

impl Objectives {
    fn met(&self, life: &Life) -> bool {
        let within = |value: f64, most: Option<f64>| most.is_none_or(|most| value <= most);
        within(life.ttft, self.ttft) && within(life.tpot, self.tpot) && within(life.e2el, self.e2el)
    }

    /// Whether there is any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.ttft.or(self.tpot).or(self.e2el).is_some()
    }
}

/// Shares of the cache, of 1, over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// Holds KV.
    pub tokens: f64,
    /// Will be written by whoever it is reserved for.
    pub reserved: f64,
    /// Never will.
    pub internal: f64,
    /// Free, or lost to rounding.
    pub external: f64,
}

impl Shares {
    #[allow(clippy::cast_precision_loss, reason = "shares")]
    fn of(usage: &Usage) -> Self {
        let share = |positions: u64| positions as f64 / usage.positions.max(1) as f64;
        Self {
            tokens: share(usage.tokens),
            reserved: share(usage.reserved),
            internal: share(usage.internal),
            external: share(usage.external),
        }
    }
}

/// See the module's documentation. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are those of vLLM's benchmark where it has the figure")]
pub struct Summary {
    pub requests: usize,
    pub completed: usize,
    /// Those that could never be served.
    pub refused: usize,
    /// From the first arrival to the last end.
    pub duration: f64,
    /// Requests that came per second.
    pub arrival_rate: f64,
    pub request_throughput: f64,
    pub request_goodput: Option<f64>,
    pub output_throughput: f64,
    pub total_token_throughput: f64,
    /// Mean of the time from arrival to end, divided by the tokens of one sequence.
    pub normalized_latency: f64,
    pub ttft: Spread,
    pub tpot: Spread,
    pub itl: Spread,
    pub e2el: Spread,
    /// Requests in a step.
    pub batched_requests: f64,
    /// Of the time, how much steps took.
    pub busy: f64,
    pub steps: usize,
    pub kv: Shares,
    /// Blocks that sharing saves, of those that would be held without it.
    pub saved_share: f64,
    pub preemptions: u64,
    pub swap_preemptions: u64,
    pub computed_tokens: u64,
    /// Of the prompt tokens asked for, how many the prefix cache had.
    pub prefix_hit_share: f64,
    pub copied_blocks: u64,
}

/// One request that finished.
struct Life {
    ttft: f64,
    tpot: f64,
    e2el: f64,
    normalized: f64,
}

impl Life {
    #[allow(clippy::cast_precision_loss, reason = "times far below 2^52 µs, and counts")]
    fn of(record: &RequestRecord) -> Option<Self> {
        if !matches!(record.outcome, Outcome::Finished { .. }) {
            return None;
        }
        let since = |end: u64| (end.saturating_sub(record.arrival.0)) as f64 / 1e6;
        let output = record.choices.iter().map(Vec::len).max().unwrap_or(0).max(1) as f64;
        let e2el = since(record.ended.0);
        let ttft = since(record.first_token.unwrap_or(record.ended).0);
        let tpot = if output > 1.0 { (e2el - ttft) / (output - 1.0) } else { 0.0 };
        Some(Self { ttft, tpot, e2el, normalized: e2el / output })
    }
}

impl Summary {
    /// Of a run.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "times far below 2^52 µs, and counts")]
    pub fn new(played: &Played, objectives: &Objectives) -> Self {
        let requests = &played.report.requests;
        let lives: Vec<Life> = requests.iter().filter_map(Life::of).collect();
        let first = requests.iter().map(|r| r.arrival.0).min().unwrap_or(0) as f64 / 1e6;
        let last = requests.iter().map(|r| r.arrival.0).max().unwrap_or(0) as f64 / 1e6;
        let end = requests.iter().map(|r| r.ended.0).max().unwrap_or(0) as f64 / 1e6;
        let duration = (end - first).max(1e-6);
        let (mut prompt_tokens, mut output_tokens) = (0usize, 0usize);
        let mut gaps = Vec::new();
        for record in requests.iter().filter(|r| matches!(r.outcome, Outcome::Finished { .. })) {
            prompt_tokens += record.prompt_tokens as usize;
            output_tokens += record.choices.iter().map(Vec::len).sum::<usize>();
            let pairs = record.times.iter().zip(record.times.iter().skip(1));
            gaps.extend(pairs.map(|(a, b)| b.0.saturating_sub(a.0) as f64 / 1e6));
        }
        let of = |value: fn(&Life) -> f64| Spread::of(lives.iter().map(value).collect());
        let good = lives.iter().filter(|life| objectives.met(life)).count();
        let refused = requests.iter().filter(|r| matches!(r.outcome, Outcome::Rejected(_))).count();
        let mut summary = Self {
            requests: requests.len(),
            completed: lives.len(),
            refused,
            duration,
            arrival_rate: requests.len() as f64 / (last - first).max(1e-6),
            request_throughput: lives.len() as f64 / duration,
            request_goodput: objectives.any().then_some(good as f64 / duration),
            output_throughput: output_tokens as f64 / duration,
            total_token_throughput: (prompt_tokens + output_tokens) as f64 / duration,
            normalized_latency: of(|life| life.normalized).mean,
            ttft: of(|life| life.ttft),
            tpot: of(|life| life.tpot),
            itl: Spread::of(gaps),
            e2el: of(|life| life.e2el),
            steps: played.report.steps.len(),
            preemptions: played.preemptions.0,
            swap_preemptions: played.preemptions.1,
            computed_tokens: played.computed_tokens,
            prefix_hit_share: played.prefix.1 as f64 / (played.prefix.0 as f64).max(1.0),
            copied_blocks: played.copies,
            ..Self::default()
        };
        summary.over_time(played, first + (last - first) / 10.0, last, duration);
        summary
    }

    /// The means over the time `from..to`, or over all of it when nothing falls in there.
    #[allow(clippy::cast_precision_loss, reason = "times far below 2^52 µs, and counts")]
    fn over_time(&mut self, played: &Played, from: f64, to: f64, duration: f64) {
        let within = |at: f64| (from..=to).contains(&at);
        let steps = &played.report.steps;
        let batched = |all: bool| {
            let counted = steps.iter().filter(|step| all || within(step.began.0 as f64 / 1e6));
            counted.fold((0.0, 0.0), |(weighted, time), step| {
                let took = step.took.as_secs_f64();
                (weighted + took * f64::from(step.groups), time + took)
            })
        };
        let all = batched(false).1 == 0.0;
        let (weighted, time) = batched(all);
        self.batched_requests = if time > 0.0 { weighted / time } else { 0.0 };
        self.busy = batched(true).1 / duration;
        let all = !played.moments.iter().any(|moment| within(moment.at_s));
        let (mut usage, mut held, mut saved) = (Usage::default(), 0, 0);
        for moment in played.moments.iter().filter(|moment| all || within(moment.at_s)) {
            usage += moment.usage;
            held += moment.held_blocks;
            saved += moment.saved_blocks;
        }
        self.kv = Shares::of(&usage);
        self.saved_share = if held > 0 { saved as f64 / held as f64 } else { 0.0 };
    }
}
