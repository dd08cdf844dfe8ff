//! What tools of vLLM's and SGLang's ask a server about itself. Nothing here tells a path of this machine.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::json;
use crate::config::Limits;
use crate::state::App;

/// Requests that are being served, as vLLM counts them.
pub(crate) async fn load(State(app): State<App>) -> Response {
    json(json!({ "server_load": app.running() }).to_string())
}

/// The model in SGLang's words.
pub(crate) async fn model_info(State(app): State<App>) -> Response {
    let served = &app.served;
    let root = &served.model.root;
    let name = if root.is_empty() { served.name() } else { root };
    json(
        json!({
            "model_path": name,
            "tokenizer_path": name,
            "is_generation": true,
            "preferred_sampling_params": null,
            "weight_version": "default",
            "has_image_understanding": false,
            "has_audio_understanding": false,
        })
        .to_string(),
    )
}

/// How the server was configured, every limit among it.
pub(crate) async fn server_info(State(app): State<App>) -> Response {
    let served = &app.served;
    let admission = app.engine.admission();
    let cache: serde_json::Map<String, Value> = served
        .model
        .cache_labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    json(
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "served_model_names": served.names(),
            "api_keys": app.keys.count(),
            "allowed_origins": served.origins,
            "scheduling_policy": if served.priorities { "priority" } else { "fcfs" },
            "limits": limits(&served.limits),
            "engine": {
                "max_model_len": served.max_model_len,
                "max_num_seqs": admission.limits.max_num_seqs,
                "max_num_batched_tokens": admission.limits.max_num_batched_tokens,
                "max_requests": admission.limits.max_queued,
                "vocab_size": admission.limits.vocab,
                "block_size": admission.block_size,
                "num_blocks": admission.capacity,
            },
            "cache": cache,
        })
        .to_string(),
    )
}

/// Every limit by its name; times in seconds.
fn limits(limits: &Limits) -> Value {
    let &Limits {
        body_bytes,
        body_bytes_together,
        body_time,
        head_time,
        head_bytes,
        headers,
        write_time,
        connections,
        request_time,
        idle_time,
        shutdown_time,
        requests_per_key,
        keep_alive,
        text_threads,
        text_time,
        prompts,
        choices,
        n,
        logprobs,
        logit_bias,
        stop_token_ids,
        stops,
        stop_bytes,
    } = limits;
    json!({
        "body_bytes": body_bytes,
        "body_bytes_together": body_bytes_together,
        "body_seconds": body_time.as_secs_f64(),
        "header_seconds": head_time.as_secs_f64(),
        "header_bytes": head_bytes,
        "headers": headers,
        "write_seconds": write_time.as_secs_f64(),
        "connections": connections,
        "request_seconds": request_time.as_secs_f64(),
        "idle_seconds": idle_time.as_secs_f64(),
        "shutdown_seconds": shutdown_time.as_secs_f64(),
        "requests_per_key": requests_per_key,
        "keep_alive_seconds": keep_alive.as_secs_f64(),
        "text_threads": text_threads,
        "text_seconds": text_time.as_secs_f64(),
        "prompts": prompts,
        "choices": choices,
        "n": n,
        "logprobs": logprobs,
        "logit_bias": logit_bias,
        "stop_token_ids": stop_token_ids,
        "stops": stops,
        "stop_bytes": stop_bytes,
    })
}
