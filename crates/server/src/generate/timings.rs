//! How long an answer took and where the time went, in llama.cpp's words. Times are those of the engine's steps, so they hold
//! neither the network nor the queue.

use std::time::Duration;

use serde::Serialize;

use super::run::{Run, Usage};

/// The value of `timings`; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Timings {
    /// Prompt tokens that came from the prefix cache.
    cache_n: u64,
    /// Those that were computed.
    prompt_n: u64,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: u64,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

impl Timings {
    /// Those of an answer so far; `None` before its first token.
    pub(crate) fn of(run: &Run) -> Option<Self> {
        let Usage { prompt_tokens, completion_tokens, prompt_tokens_details, .. } = run.usage();
        let (admitted, first, last) = run.span()?;
        let cache_n = prompt_tokens_details.cached_tokens;
        let prompt_n = prompt_tokens.saturating_sub(cache_n);
        let prompt_ms = milliseconds(first.saturating_duration_since(admitted));
        let predicted_ms = milliseconds(last.saturating_duration_since(first));
        Some(Self {
            cache_n,
            prompt_n,
            prompt_ms,
            prompt_per_token_ms: ratio(prompt_ms, float(prompt_n)),
            prompt_per_second: ratio(1e3 * float(prompt_n), prompt_ms),
            predicted_n: completion_tokens,
            predicted_ms,
            predicted_per_token_ms: ratio(predicted_ms, float(completion_tokens)),
            predicted_per_second: ratio(1e3 * float(completion_tokens), predicted_ms),
        })
    }
}

/// To a microsecond, so that no more digits are shown than mean something.
pub(super) fn milliseconds(time: Duration) -> f64 {
    float(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)) / 1e3
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of tokens and microseconds are far below 2^53"
)]
fn float(count: u64) -> f64 {
    count as f64
}

/// 0 where it has no meaning: JSON knows no infinity.
fn ratio(over: f64, under: f64) -> f64 {
    if under > 0.0 { over / under } else { 0.0 }
}
