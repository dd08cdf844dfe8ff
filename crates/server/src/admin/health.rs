//! What machines ask about a server: is it alive, may it get requests, what are its numbers.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use folio_engine::Health;
use serde_json::json;

use crate::error::ApiError;
use crate::state::App;

/// 200 while the engine makes progress. A server that finishes its last requests is alive; it is not [`ready`].
pub(crate) async fn health(State(app): State<App>) -> Result<StatusCode, ApiError> {
    match app.engine.health() {
        Health::Ok | Health::Draining => Ok(StatusCode::OK),
        Health::Stalled { since } => Err(ApiError::unavailable(format!(
            "there are requests, but no step has ended for {} seconds",
            since.as_secs()
        ))),
        Health::Dead => Err(ApiError::unavailable("the engine has ended")),
    }
}

/// 200 while new requests are welcome.
pub(crate) async fn ready(state: State<App>) -> Result<StatusCode, ApiError> {
    let engine = state.engine.health();
    if state.is_draining() || engine == Health::Draining {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    health(state).await
}

/// The metrics page.
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let labels = &app.served.model.cache_labels;
    let page = app.metrics.page(&app.engine.snapshot(), app.engine.admission(), labels);
    let mut response = page.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The version of this server.
pub(crate) async fn version() -> Response {
    super::json(json!({ "version": env!("CARGO_PKG_VERSION") }).to_string())
}
