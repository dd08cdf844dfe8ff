//! `/v1/models`: the names under which the one model is served.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::json;
use crate::error::ApiError;
use crate::state::{App, Served};

/// All names.
pub(crate) async fn list(State(app): State<App>) -> Response {
    let cards: Vec<Value> = app.served.names().iter().map(|name| card(&app.served, name)).collect();
    json(json!({ "object": "list", "data": cards }).to_string())
}

/// One name; it may contain slashes.
pub(crate) async fn one(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    if app.served.names().contains(&name) {
        Ok(json(card(&app.served, &name).to_string()))
    } else {
        Err(app.served.unknown_model(&name))
    }
}

fn card(served: &Served, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": served.model.created,
        "owned_by": "folio",
        "root": if served.model.root.is_empty() { name } else { &served.model.root },
        "parent": null,
        "max_model_len": served.max_model_len,
        "permission": [],
    })
}
