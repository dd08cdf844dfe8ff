//! The page itself: which number stands under which name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use folio_core::schedule::Admission;
use folio_engine::{MaskCosts, Snapshot, StepTokens};

use super::histogram::Histogram;
use super::text::Page;
use super::{Metrics, load_of};

impl Metrics {
    /// The page for the engine as it is now. `cache_labels` are the configured part of `vllm:cache_config_info`.
    pub(crate) fn page(
        &self,
        engine: &Snapshot,
        admission: &Admission,
        cache_labels: &[(&'static str, String)],
    ) -> String {
        let mut page = Page::new(&[("model_name", &self.model_name), ("engine", "0")]);
        gauges(&mut page, engine);
        states(&mut page, engine);
        self.sources(&mut page);
        counters(&mut page, engine);
        self.events(&mut page);
        self.finish_reasons(&mut page);
        step_tokens(&mut page, &engine.step_tokens);
        masks(&mut page, &engine.masks);
        self.lengths(&mut page);
        self.times(&mut page);
        let mut labels = vec![
            ("block_size", admission.block_size.to_string()),
            ("num_gpu_blocks", admission.capacity.to_string()),
        ];
        labels.extend(cache_labels.iter().cloned());
        let labels: Vec<(&str, &str)> =
            labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        page.info("vllm:cache_config_info", "Configuration of the KV cache.", &labels);
        page.finish() + &self.http.page()
    }

    /// KV events, where they are published.
    fn events(&self, page: &mut Page) {
        if let Some(counts) = &self.kv_events {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let help = "Batches of KV events.";
            page.counter("folio:kv_event_batches_total", help, count(&counts.batches));
            let help =
                "Batches of KV events that a subscriber was not sent, since a queue was full.";
            page.counter("folio:kv_event_batches_dropped_total", help, count(&counts.dropped));
        }
    }

    fn finish_reasons(&self, page: &mut Page) {
        let finished = &self.finished;
        let count = |reason: &AtomicU64| reason.load(Ordering::Relaxed);
        page.counters(
            "vllm:request_success_total",
            "Choices that ended, by how.",
            "finished_reason",
            &[
                ("stop", count(&finished.stop)),
                ("length", count(&finished.length)),
                ("abort", count(&finished.abort)),
                ("error", count(&finished.error)),
                // Kept for dashboards: nothing here ends a text because it repeats itself.
                ("repetition", 0),
            ],
        );
    }

    /// Where prompt tokens came from, and who was sent away.
    fn sources(&self, page: &mut Page) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let cached = count(&self.local_cache_hit);
        page.counters(
            "vllm:prompt_tokens_by_source_total",
            "Prompt tokens of finished requests, by where they came from.",
            "source",
            &[
                ("local_compute", count(&self.local_compute)),
                ("local_cache_hit", cached),
                ("external_kv_transfer", 0),
            ],
        );
        let help = "Prompt tokens of finished requests that came from the prefix cache.";
        page.counter("vllm:prompt_tokens_cached_total", help, cached);
        page.counters(
            "vllm:prompt_tokens_cached_by_source_total",
            "Prompt tokens of finished requests that were cached, by where.",
            "source",
            &[
                ("device", cached),
                ("host", 0),
                ("p2p", 0),
                ("disk", 0),
                ("external_unspecified", 0),
            ],
        );
        let rejected =
            [("max_num_queued_reqs", count(&self.rejections)), ("max_num_queued_tokens", 0)];
        let labelled = rejected.map(|(reason, count)| {
            (vec![("model_name", self.model_name.as_str()), ("reason", reason)], count)
        });
        let help = "Requests for which there was no room.";
        page.labelled("vllm:admission_rejections_total", help, &labelled);
    }

    fn lengths(&self, page: &mut Page) {
        histograms(
            page,
            &[
                ("vllm:request_prompt_tokens", "Prompt tokens per request.", &self.prompt_tokens),
                (
                    "vllm:request_generation_tokens",
                    "Generated tokens per choice.",
                    &self.generation_tokens,
                ),
                ("vllm:request_params_n", "Choices asked for per prompt.", &self.params_n),
                (
                    "vllm:request_params_max_tokens",
                    "max_tokens where it was given.",
                    &self.params_max_tokens,
                ),
                (
                    "vllm:request_max_num_generation_tokens",
                    "Generated tokens of the longest choice of a request.",
                    &self.max_generation_tokens,
                ),
                (
                    "vllm:request_prefill_kv_computed_tokens",
                    "Prompt tokens per request that were computed.",
                    &self.computed_prompt_tokens,
                ),
                ("vllm:request_num_preemptions", "Preemptions per request.", &self.preemptions),
            ],
        );
    }

    fn times(&self, page: &mut Page) {
        histograms(
            page,
            &[
                (
                    "vllm:time_to_first_token_seconds",
                    "From reading the request to its first token.",
                    &self.time_to_first_token,
                ),
                (
                    "vllm:inter_token_latency_seconds",
                    "Between two tokens of a choice.",
                    &self.inter_token_latency,
                ),
                (
                    "vllm:request_time_per_output_token_seconds",
                    "Mean time between the tokens of a choice.",
                    &self.time_per_output_token,
                ),
                (
                    "vllm:e2e_request_latency_seconds",
                    "From reading the request to its end.",
                    &self.e2e_latency,
                ),
                ("vllm:request_queue_time_seconds", "In the queue.", &self.queue_time),
                (
                    "vllm:request_inference_time_seconds",
                    "From leaving the queue to the last token.",
                    &self.inference_time,
                ),
                (
                    "vllm:request_prefill_time_seconds",
                    "From leaving the queue to the first token.",
                    &self.prefill_time,
                ),
                (
                    "vllm:request_decode_time_seconds",
                    "From the first token to the last.",
                    &self.decode_time,
                ),
            ],
        );
    }
}

fn histograms(page: &mut Page, all: &[(&str, &str, &Histogram)]) {
    for (name, help, histogram) in all {
        let (bounds, counts, sum) = histogram.read();
        page.histogram(name, help, bounds, &counts, sum);
    }
}

fn gauges(page: &mut Page, engine: &Snapshot) {
    let (stats, kv) = (&engine.stats, &engine.stats.kv);
    let (running, swapped) = (f64::from(stats.running.groups), f64::from(stats.swapped.groups));
    let (usage, waiting) = load_of(engine);
    let share = |used: u32, total: u32| f64::from(used) / f64::from(total.max(1));
    let all = [
        ("vllm:num_requests_running", "Requests that hold memory.", running),
        ("vllm:num_requests_waiting", "Requests that wait.", waiting),
        ("vllm:num_requests_swapped", "Requests whose blocks are swapped out.", swapped),
        ("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", usage),
        (
            "vllm:cpu_cache_usage_perc",
            "Share of the swap space in use, 0 to 1.",
            share(kv.swap_used, kv.swap_total),
        ),
        ("folio:kv_blocks_pinned", "KV blocks that are never evicted.", f64::from(kv.pinned)),
    ];
    for (name, help, value) in all {
        page.gauge(name, help, value);
    }
    #[allow(clippy::cast_precision_loss, reason = "the format's numbers are doubles")]
    let saved = kv.held.saturating_sub(u64::from(kv.used)) as f64;
    let help = "KV blocks more that would be in use if nobody shared any.";
    page.gauge("folio:kv_blocks_saved_by_sharing", help, saved);
}

/// What is one of several things.
fn states(page: &mut Page, engine: &Snapshot) {
    let (_, waiting) = load_of(engine);
    page.gauges(
        "vllm:num_requests_waiting_by_reason",
        "Requests that wait, by what for.",
        "reason",
        &[("capacity", waiting), ("deferred", 0.0)],
    );
    page.gauges(
        "vllm:engine_sleep_state",
        "Whether the weights are there; they always are.",
        "sleep_state",
        &[("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)],
    );
}

fn counters(page: &mut Page, engine: &Snapshot) {
    let (kv, totals) = (&engine.stats.kv, &engine.stats.totals);
    let recomputed = totals.preemptions.saturating_sub(totals.swap_preemptions);
    let all = [
        (
            "vllm:prefix_cache_queries_total",
            "Prompt tokens looked up in the prefix cache.",
            kv.prefix_queries,
        ),
        ("vllm:prefix_cache_hits_total", "Prompt tokens found there.", kv.prefix_hits),
        ("vllm:num_preemptions_total", "Preemptions of requests.", totals.preemptions),
        ("vllm:prompt_tokens_total", "Prompt tokens of admitted requests.", totals.prompt_tokens),
        ("vllm:generation_tokens_total", "Generated tokens.", totals.generated_tokens),
        (
            "folio:kv_block_copies_total",
            "KV blocks copied before a write, since others held them.",
            kv.copies,
        ),
        (
            "folio:prefix_partial_hits_total",
            "KV blocks copied because a cached one begins as a prompt goes on.",
            kv.partial_hits,
        ),
        (
            "folio:preemptions_by_swap_total",
            "Preemptions that swapped the request out.",
            totals.swap_preemptions,
        ),
        (
            "folio:preemptions_by_recompute_total",
            "Preemptions after which the request is computed again.",
            recomputed,
        ),
        ("folio:swap_blocks_out_total", "KV blocks that were swapped out.", kv.swapped_out),
        ("folio:swap_blocks_in_total", "KV blocks that were swapped in.", kv.swapped_in),
        (
            "folio:swap_blocks_reused_total",
            "KV blocks of swapped requests that were still there.",
            kv.swap_reused,
        ),
        (
            "folio:swap_slots_lost_total",
            "Swapped KV blocks that could not be read back.",
            totals.lost_slots,
        ),
        (
            "folio:swap_refusals_total",
            "Preemptions that found the swap space full.",
            totals.swap_refusals,
        ),
    ];
    for (name, help, value) in all {
        page.counter(name, help, value);
    }
}

/// What output that follows grammars costs.
fn masks(page: &mut Page, masks: &MaskCosts) {
    let &MaskCosts { made, work, waited } = masks;
    let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let (work, waited) = (microseconds(work), microseconds(waited));
    page.counter("folio:grammar_masks_total", "Masks of allowed tokens that were made.", made);
    let help = "Time spent on making masks, beside the engine's own thread.";
    page.counter("folio:grammar_work_microseconds_total", help, work);
    let help = "Time that steps waited for masks.";
    page.counter("folio:grammar_wait_microseconds_total", help, waited);
}

#[allow(clippy::cast_precision_loss, reason = "the format's numbers are doubles")]
fn step_tokens(page: &mut Page, tokens: &StepTokens) {
    let bounds: Vec<f64> = StepTokens::BOUNDS.iter().map(|&bound| bound as f64).collect();
    page.histogram(
        "vllm:iteration_tokens_total",
        "Tokens computed per step.",
        &bounds,
        &tokens.counts,
        tokens.sum as f64,
    );
}
