//! A message as an object, and errors in Anthropic's shape.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::generate::answer::Heading;
use crate::generate::choice::Finish;
use crate::generate::run::Usage;
use crate::generate::told::{Block, Told};

/// What all parts of one answer share.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) heading: Heading,
    pub(super) request_id: String,
}

impl Teller {
    /// The finished message.
    pub(super) fn whole(&self, told: &Told, usage: &Usage) -> Value {
        let content: Vec<Value> = told.blocks.iter().map(whole_block).collect();
        let (reason, sequence) = stop(told);
        self.message(&json!(content), &reason, &sequence, usage)
    }

    pub(super) fn message(
        &self,
        content: &Value,
        stop_reason: &Value,
        stop_sequence: &Value,
        usage: &Usage,
    ) -> Value {
        json!({
            "id": self.heading.id,
            "type": "message",
            "role": "assistant",
            "model": self.heading.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": counts(usage),
        })
    }
}

/// A finished block.
fn whole_block(block: &Block) -> Value {
    match block {
        Block::Text(text) => json!({ "type": "text", "text": text }),
        Block::Thought(text) => json!({ "type": "thinking", "thinking": text, "signature": "" }),
        Block::Call { id, name, arguments } => {
            json!({ "type": "tool_use", "id": id, "name": name, "input": input(arguments) })
        }
    }
}

/// Arguments as an object; what is none is wrapped, as Anthropic advises.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ => json!({ "INVALID_JSON": arguments }),
    }
}

/// The values of `stop_reason` and `stop_sequence`.
pub(super) fn stop(told: &Told) -> (Value, Value) {
    match &told.finish {
        Some(Finish::End | Finish::StopToken(_)) if told.has_called() => {
            (json!("tool_use"), Value::Null)
        }
        None => (Value::Null, Value::Null),
        Some(Finish::Length) => (json!("max_tokens"), Value::Null),
        Some(Finish::StopString(text)) => (json!("stop_sequence"), json!(text)),
        Some(Finish::End | Finish::StopToken(_)) => (json!("end_turn"), Value::Null),
    }
}

/// Tokens of the prompt are told apart by where they came from: `input_tokens` are those that were computed.
pub(super) fn counts(usage: &Usage) -> Value {
    let cached = usage.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    })
}

/// An error in this endpoint's shape.
#[derive(Debug)]
pub(crate) struct MessageError {
    pub(crate) error: ApiError,
    pub(crate) request_id: String,
}

impl MessageError {
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`
    pub(super) fn to_json(&self) -> Value {
        let kind = kind(self.error.status());
        json!({
            "type": "error",
            "error": { "type": kind, "message": self.error.message() },
            "request_id": self.request_id,
        })
    }
}

impl IntoResponse for MessageError {
    fn into_response(self) -> Response {
        let body = self.to_json().to_string();
        let mut response = self.error.into_response();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = body.into();
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}
