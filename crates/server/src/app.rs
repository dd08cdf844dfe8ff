//! The router: which path leads to which handler, and what every request passes through on the way.
//!
//! From the outside in: the request id, panics, the key, the handler. What no handler answers is answered here, in the
//! same shape as every other error.

use std::any::Any;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Extensions, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::auth::require_key;
use crate::endpoints::{endpoints, generating, telling};
use crate::error::{ApiError, quote};
use crate::exchange::Counted;
use crate::openapi::Endpoint;
use crate::orca::tell_load;
use crate::request::fields::distance;
use crate::state::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ids of callers are replaced by ours.
const LONGEST_REQUEST_ID: usize = 128;

/// All endpoints.
pub fn router(app: App) -> Router {
    let generating = routes(generating()).route_layer(from_fn_with_state(app.clone(), tell_load));
    let router = routes(telling())
        .merge(generating)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), require_key))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), identify));
    match cross_origin(&app.served.origins) {
        Some(layer) => router.layer(layer),
        None => router,
    }
    .with_state(app)
}

fn routes(endpoints: impl IntoIterator<Item = Endpoint>) -> Router<App> {
    let add = |router: Router<App>, it: Endpoint| router.route(it.path, it.handler);
    endpoints.into_iter().fold(Router::new(), add)
}

/// Lets web pages of these origins use the server. Outside of the guard: browsers ask beforehand, without a key.
fn cross_origin(origins: &[String]) -> Option<CorsLayer> {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let listed: Vec<HeaderValue> =
            origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        if listed.is_empty() {
            return None;
        }
        AllowOrigin::list(listed)
    };
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers([REQUEST_ID]))
}

async fn not_found(request: Request) -> ApiError {
    let path = request.uri().path();
    let hint = match meant(path) {
        Some(known) => format!("did you mean `{known}`?"),
        None => "`/docs` lists what there is".to_owned(),
    };
    let message = format!("there is nothing at {}; {hint}", quote(path));
    ApiError::new(StatusCode::NOT_FOUND, message)
}

/// The path that was probably meant. Clients add `/v1` to what they are given, or expect it there.
fn meant(path: &str) -> Option<&'static str> {
    let bare = |path: &str| {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let parts = parts.skip_while(|part| ["v1", "api", "openai"].contains(part));
        parts.collect::<Vec<_>>().join("/")
    };
    let asked = bare(&path.to_ascii_lowercase());
    let fixed = endpoints().into_iter().map(|it| it.path).filter(|path| !path.contains('{'));
    let far = |known: &str| distance(&asked, &bare(known));
    fixed.filter(|known| far(known) <= known.len() / 6).min_by_key(|known| far(known))
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (quote(request.method().as_str()), quote(request.uri().path()));
    let pattern = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let there = endpoints().into_iter().filter(|it| it.path == pattern);
    let methods: Vec<String> = there.map(|it| it.method.to_ascii_uppercase()).collect();
    let message = format!("{path} does not answer to {method}, but to {}", methods.join(" and "));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

// The signature is what the layer asks for.
#[allow(clippy::needless_pass_by_value, reason = "the panic layer hands the payload over")]
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("of unknown kind"), "a handler panicked");
    ApiError::internal("this request met an error in the server; others are not affected")
        .into_response()
}

/// The id of one HTTP request, the caller's own if it sent a decent one.
#[derive(Clone, Debug)]
struct RequestId(String);

/// The id that [`identify`] gave a request.
pub(crate) fn request_id(extensions: &Extensions) -> String {
    extensions.get::<RequestId>().map_or_else(String::new, |id| id.0.clone())
}

/// The middleware that names requests and returns the name with the answer.
async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let theirs = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let decent = |id: &&str| {
        !id.is_empty() && id.len() <= LONGEST_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic())
    };
    let id = theirs.filter(decent).map_or_else(|| app.served.unique(), ToOwned::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let counted = Counted::new(&request, &app.metrics);
    let mut response = counted.follow(next.run(request).await);
    tracing::debug!(request_id = id, status = response.status().as_u16(), "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_panic_costs_one_request_and_tells_nothing() {
        let panicking = get(|| async { panic!("secret {}", 1) as () });
        let router: Router =
            Router::new().route("/", panicking).layer(CatchPanicLayer::custom(panicked));
        for _ in 0..2 {
            let response = router.clone().oneshot(Request::new(Body::empty())).await.unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let body = to_bytes(response.into_body(), 4096).await.unwrap();
            let text = std::str::from_utf8(&body).unwrap();
            assert!(text.contains("InternalServerError") && !text.contains("secret"), "{text}");
        }
    }
}
