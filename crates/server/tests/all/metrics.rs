//! The page of metrics: that it is well-formed, that its numbers are those of what happened, and that its names, types and
//! buckets are those that vLLM's dashboards and autoscalers expect.

use std::collections::BTreeMap;

use crate::common::http::{get, post, request};
use crate::common::metrics::{Samples, parse_metrics};
use crate::common::{MAX_MODEL_LEN, Server};
use serde_json::json;

const COMPLETE: &str = "/v1/completions";

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

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_well_formed_and_add_up() {
    let server = Server::start().await;
    let before = parse_metrics(&get(server.address, "/metrics").await.body);
    for body in [
        json!({"prompt": "[hello]>"}),
        json!({"prompt": "[hello]>", "max_tokens": 2, "n": 2, "stream": true}),
        json!({"prompt": "[hello]>", "stop": "l"}),
    ] {
        assert_eq!(post(server.address, COMPLETE, &body).await.status, 200);
    }
    server.assert_nothing_leaked().await;
    let after = parse_metrics(&get(server.address, "/metrics").await.body);
    // Routes appear when they are first asked.
    let lasting = |page: &Samples| -> Vec<_> {
        page.keys().filter(|(name, _)| !name.starts_with("http_")).cloned().collect()
    };
    assert_eq!(lasting(&before), lasting(&after), "series never appear late");
    let sum = |name: &str, label: &str| -> f64 {
        let chosen = |labels: &BTreeMap<String, String>| {
            label.is_empty() || labels.values().any(|v| v == label)
        };
        let of = after.iter().filter(|((sample, labels), _)| sample == name && chosen(labels));
        of.map(|(_, value)| value).sum()
    };
    assert_eq!(sum("vllm:request_success_total", "stop"), 2.0);
    assert_eq!(sum("vllm:request_success_total", "length"), 2.0);
    assert_eq!(sum("vllm:prompt_tokens_total", ""), 3.0 * 9.0);
    assert_eq!(sum("vllm:request_prompt_tokens_sum", ""), 3.0 * 9.0);
    assert_eq!(sum("vllm:request_generation_tokens_sum", ""), 6.0 + 4.0 + 3.0);
    assert_eq!(sum("vllm:prompt_tokens_by_source_total", ""), 3.0 * 9.0);
    assert_eq!(
        sum("vllm:prompt_tokens_by_source_total", "local_cache_hit"),
        sum("vllm:prompt_tokens_cached_total", "")
    );
    assert_eq!(sum("vllm:request_max_num_generation_tokens_sum", ""), 6.0 + 2.0 + 3.0);
    assert_eq!(sum("vllm:engine_sleep_state", "awake"), 1.0);
    assert_eq!(sum("vllm:request_params_n_sum", ""), 4.0);
    assert_eq!(sum("vllm:time_to_first_token_seconds_count", ""), 3.0);
    assert_eq!(sum("vllm:e2e_request_latency_seconds_count", ""), 3.0);
    assert_eq!(sum("vllm:inter_token_latency_seconds_count", ""), 5.0 + 2.0 + 2.0);
    assert_eq!(sum("vllm:cache_config_info", "1024"), 1.0);
    assert_eq!(sum("vllm:kv_cache_usage_perc", ""), 0.0);
    assert_eq!(sum("vllm:num_requests_running", "") + sum("vllm:num_requests_waiting", ""), 0.0);
    assert!(sum("vllm:iteration_tokens_total_sum", "") >= 9.0 + 5.0);
    // Buckets grow, and the last one is the count.
    for ((name, labels), count) in after
        .iter()
        .filter(|((name, _), _)| name.ends_with("_count") && !name.ends_with("_size_bytes_count"))
    {
        let bucket = name.replace("_count", "_bucket");
        let mut buckets: Vec<(f64, f64)> = after
            .iter()
            .filter(|((sample, others), _)| {
                let mut others = others.clone();
                others.remove("le");
                *sample == bucket && others == *labels
            })
            .map(|((_, labels), value)| (labels["le"].parse().expect("a bound"), *value))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{bucket}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{bucket}");
    }
    server.stop().await;
}

/// As prometheus-fastapi-instrumentator counts in front of vLLM.
#[tokio::test(flavor = "multi_thread")]
async fn http_requests_are_counted_by_what_handled_them() {
    let server = Server::start().await;
    let body = json!({"prompt": "[hello]>", "stream": true});
    let streamed = post(server.address, COMPLETE, &body).await;
    assert_eq!(post(server.address, COMPLETE, &json!({"prompt": 5})).await.status, 400);
    // Paths that nobody serves are one, however many there are, and those that watch are none.
    for path in ["/a", "/b?c=d", "/v1/models/tiny", "/health", "/metrics", "/ping"] {
        get(server.address, path).await;
    }
    request(server.address, "BREW", "/coffee", "", "").await;
    let page = get(server.address, "/metrics").await.body;
    let samples = parse_metrics(&page);
    let of = |name: &str| -> Vec<(String, f64)> {
        let named = samples.iter().filter(|((sample, _), _)| sample == name);
        let labels = |labels: &BTreeMap<String, String>| {
            labels.values().cloned().collect::<Vec<_>>().join(" ")
        };
        named.map(|((_, of), value)| (labels(of), *value)).collect()
    };
    let expected = [
        ("/v1/completions POST 2xx", 1.0),
        ("/v1/completions POST 4xx", 1.0),
        ("/v1/models/{*name} GET 2xx", 1.0),
        ("none GET 4xx", 2.0),
        ("none other 4xx", 1.0),
    ];
    assert_eq!(of("http_requests_total"), expected.map(|(of, count)| (of.to_owned(), count)));
    let counted = |name: &str| of(name).into_iter().map(|(_, value)| value).sum::<f64>();
    assert_eq!(counted("http_request_duration_highr_seconds_count"), 6.0);
    assert_eq!(counted("http_request_duration_seconds_count"), 6.0);
    assert_eq!(counted("http_request_size_bytes_count"), 6.0);
    let bytes = |text: usize| f64::from(u32::try_from(text).expect("few"));
    let asked = body.to_string().len() + json!({"prompt": 5}).to_string().len();
    assert_eq!(of("http_request_size_bytes_sum")[0], (COMPLETE.to_owned(), bytes(asked)));
    assert!(of("http_response_size_bytes_sum")[0].1 > bytes(streamed.body.len()));
    let bounds = |name: &str| {
        page.lines().filter(|line| line.starts_with(&format!("{name}_bucket{{"))).count()
    };
    assert_eq!(bounds("http_request_duration_highr_seconds"), 21 + 1);
    assert_eq!(bounds("http_request_duration_seconds"), 4 * (3 + 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_and_ranked_is_counted_for_what_it_is() {
    let server = Server::start().await;
    // Two blocks and a half: one of the two samples copies the half-filled one.
    let body =
        json!({"prompt": "no script!", "n": 2, "max_tokens": 9, "temperature": 1.0, "seed": 1});
    assert_eq!(post(server.address, COMPLETE, &body).await.status, 200);
    let body = json!({"prompt": "no script!", "use_beam_search": true, "n": 3, "max_tokens": 9});
    assert_eq!(post(server.address, COMPLETE, &body).await.status, 200);
    server.assert_nothing_leaked().await;
    let page = parse_metrics(&get(server.address, "/metrics").await.body);
    let value = |name: &str| -> f64 {
        let of: Vec<f64> =
            page.iter().filter(|((sample, _), _)| sample == name).map(|(_, v)| *v).collect();
        assert_eq!(of.len(), 1, "{name}");
        of[0]
    };
    assert!(value("folio:kv_block_copies_total") >= 2.0);
    assert_eq!(value("folio:prefix_partial_hits_total"), 1.0, "the beams' prompt was cached");
    assert_eq!(value("vllm:prefix_cache_hits_total"), 10.0, "but for its last token");
    for name in [
        "vllm:num_requests_swapped",
        "vllm:cpu_cache_usage_perc",
        "folio:kv_blocks_pinned",
        "folio:kv_blocks_saved_by_sharing",
        "folio:preemptions_by_swap_total",
        "folio:preemptions_by_recompute_total",
        "folio:swap_blocks_out_total",
        "folio:swap_blocks_in_total",
        "folio:swap_blocks_reused_total",
        "folio:swap_slots_lost_total",
        "folio:swap_refusals_total",
    ] {
        assert_eq!(value(name), 0.0, "{name}");
    }
    // Beams are told at once: when their tokens were made is not known, when the request ended is.
    assert_eq!(value("vllm:inter_token_latency_seconds_count"), 2.0 * 8.0);
    assert_eq!(value("vllm:request_time_per_output_token_seconds_count"), 2.0);
    assert_eq!(value("vllm:request_decode_time_seconds_count"), 1.0);
    assert_eq!(value("vllm:request_inference_time_seconds_count"), 2.0);
    assert_eq!(value("vllm:request_generation_tokens_count"), 5.0);
    server.stop().await;
}
