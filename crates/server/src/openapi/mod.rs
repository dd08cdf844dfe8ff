//! The description of the API, made from the types that read it: `/openapi.json`, and `/docs` for people.
//!
//! An [`Endpoint`] is a route together with what is told about it, so there is no route without an entry and no entry
//! without a route.

mod document;
mod endpoint;
mod page;
pub(crate) mod schema;

pub(crate) use endpoint::{Answer, Endpoint};

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::admin::json;
use crate::endpoints::endpoints;

/// The document and the page, which are the same in every server.
static TOLD: LazyLock<(String, String)> = LazyLock::new(|| {
    let document = document::of(&endpoints());
    (document.to_string(), page::of(&document))
});

/// The document.
pub(crate) async fn document() -> Response {
    json(TOLD.0.clone())
}

/// The page: what the document says, without scripts and without anything from elsewhere.
pub(crate) async fn docs() -> Response {
    let mut response = TOLD.1.clone().into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
