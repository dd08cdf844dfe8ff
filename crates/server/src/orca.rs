//! The server's load in the header of each answer, for load balancers that ask for it: Open Request Cost Aggregation.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

use crate::metrics::load_of;
use crate::state::App;

const ASKED: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");
const TOLD: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// The middleware of the endpoints that generate. A format that is unknown is passed over, as vLLM does.
pub(crate) async fn tell_load(State(app): State<App>, request: Request, next: Next) -> Response {
    let asked = request.headers().get(&ASKED).and_then(|value| value.to_str().ok());
    let as_json = match asked.map(str::to_ascii_lowercase).as_deref() {
        Some("text") => false,
        Some("json") => true,
        _ => return next.run(request).await,
    };
    let mut response = next.run(request).await;
    let (usage, waiting) = load_of(&app.engine.snapshot());
    let report = if as_json {
        let metrics = json!({ "kv_cache_usage_perc": usage, "num_requests_waiting": waiting });
        format!("JSON {}", json!({ "named_metrics": metrics }))
    } else {
        format!(
            "TEXT named_metrics.kv_cache_usage_perc={usage:?}, named_metrics.num_requests_waiting={waiting:?}"
        )
    };
    if let Ok(value) = HeaderValue::from_str(&report) {
        response.headers_mut().insert(TOLD, value);
    }
    response
}
