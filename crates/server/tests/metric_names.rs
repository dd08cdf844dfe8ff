//! The names, types and buckets of vLLM's metrics, as its dashboards and autoscalers expect them.

mod common;

use common::http::{get, post};
use common::{MAX_MODEL_LEN, Server};
use serde_json::json;

const GAUGES: &[&str] = &[
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:engine_sleep_state",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_swapped",
    "vllm:cpu_cache_usage_perc",
    "vllm:cache_config_info",
    "folio:kv_blocks_saved_by_sharing",
    "folio:kv_blocks_pinned",
];

const COUNTERS: &[&str] = &[
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_by_source_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:prompt_tokens_cached_by_source_total",
    "vllm:request_success_total",
    "vllm:admission_rejections_total",
    "http_requests_total",
    "folio:kv_block_copies_total",
    "folio:prefix_partial_hits_total",
];

const TO_FIRST_TOKEN: &str =
    ".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560";
const PER_TOKEN: &str = ".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80";
const PER_REQUEST: &str = ".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680";
/// Up to the context's length.
const LENGTHS: &str = "1 2 5 10 20 50 100 200";

const HISTOGRAMS: &[(&str, &str)] = &[
    ("vllm:request_prompt_tokens", LENGTHS),
    ("vllm:request_generation_tokens", LENGTHS),
    ("vllm:request_max_num_generation_tokens", LENGTHS),
    ("vllm:request_params_max_tokens", LENGTHS),
    ("vllm:request_prefill_kv_computed_tokens", LENGTHS),
    ("vllm:iteration_tokens_total", "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384"),
    ("vllm:request_params_n", "1 2 5 10 20"),
    ("vllm:request_num_preemptions", "1 2 3 4 5 10 20"),
    ("vllm:time_to_first_token_seconds", TO_FIRST_TOKEN),
    ("vllm:inter_token_latency_seconds", PER_TOKEN),
    ("vllm:request_time_per_output_token_seconds", PER_TOKEN),
    ("vllm:e2e_request_latency_seconds", PER_REQUEST),
    ("vllm:request_queue_time_seconds", PER_REQUEST),
    ("vllm:request_inference_time_seconds", PER_REQUEST),
    ("vllm:request_prefill_time_seconds", PER_REQUEST),
    ("vllm:request_decode_time_seconds", PER_REQUEST),
];

#[tokio::test]
async fn dashboards_find_what_they_look_for() {
    assert_eq!(MAX_MODEL_LEN, 256, "the buckets of lengths end below it");
    let server = Server::start().await;
    let body = json!({ "prompt": "[hi]>", "max_tokens": 4 });
    assert_eq!(post(server.address, "/v1/completions", &body).await.status, 200);
    let page = get(server.address, "/metrics").await.body;
    let kinds = [(GAUGES, "gauge"), (COUNTERS, "counter")];
    for (names, kind) in kinds {
        for name in names {
            // Prometheus's clients write a counter's type under its name without the ending, or with it.
            let bare = name.strip_suffix("_total").unwrap_or(name);
            let typed =
                [name, bare].iter().any(|name| page.contains(&format!("# TYPE {name} {kind}\n")));
            assert!(typed && page.contains(&format!("\n{name}{{")), "{kind} {name} in\n{page}");
        }
    }
    for (name, bounds) in HISTOGRAMS {
        assert!(page.contains(&format!("# TYPE {name} histogram\n")), "{name}");
        let buckets = page.lines().filter(|line| line.starts_with(&format!("{name}_bucket{{")));
        let told: Vec<&str> = buckets
            .filter_map(|line| line.split_once("le=\"")?.1.split_once('"'))
            .map(|it| it.0)
            .collect();
        let number = |text: &str| text.parse::<f64>().expect("a bound");
        let mut expected: Vec<f64> = bounds.split(' ').map(number).collect();
        expected.push(f64::INFINITY);
        let told: Vec<f64> = told.into_iter().map(|le| number(&le.replace('+', ""))).collect();
        assert_eq!(told, expected, "{name}");
    }
    server.stop().await;
}
