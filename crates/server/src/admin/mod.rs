//! Everything that is not generation: models, tokens, health, numbers.

pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod kv;
pub(crate) mod models;
pub(crate) mod tokenize;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// A 200 with a JSON body that has been written already.
pub(crate) fn json(body: String) -> Response {
    let mut response = body.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
