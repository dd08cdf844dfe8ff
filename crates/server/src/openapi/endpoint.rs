//! A route together with what is told about it.

use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post};
use serde_json::Value;

use super::schema::Schema;
use crate::state::App;

/// What an endpoint answers with when all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A JSON object.
    Json,
    /// A JSON object, or server-sent events where `stream` is true.
    Stream,
    /// Text of this type.
    Text(&'static str),
    /// Nothing but its status.
    Empty,
    /// Never well: it is there to say why.
    Refusal,
}

/// The JSON object that an endpoint reads.
pub(crate) struct Body {
    pub(super) schema: fn() -> Value,
    /// Members without which every request is refused.
    pub(super) required: &'static [&'static str],
}

/// One method of one path.
pub(crate) struct Endpoint {
    /// As the router writes it.
    pub(crate) path: &'static str,
    pub(crate) handler: MethodRouter<App>,
    pub(crate) method: &'static str,
    pub(super) summary: &'static str,
    pub(super) answer: Answer,
    pub(super) body: Option<Body>,
}

impl Endpoint {
    /// Something to look at.
    pub(crate) fn get<H: Handler<T, App>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        answer: Answer,
        handler: H,
    ) -> Self {
        Self { path, handler: get(handler), method: "get", summary, answer, body: None }
    }

    /// Something to look at for those who cannot but post.
    pub(crate) fn post_nothing<H: Handler<T, App>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        answer: Answer,
        handler: H,
    ) -> Self {
        Self { path, handler: post(handler), method: "post", summary, answer, body: None }
    }

    /// Something that reads a `B`.
    pub(crate) fn post<B: Schema, H: Handler<T, App>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        answer: Answer,
        required: &'static [&'static str],
        handler: H,
    ) -> Self {
        let body = Some(Body { schema: B::schema, required });
        Self { path, handler: post(handler), method: "post", summary, answer, body }
    }
}
