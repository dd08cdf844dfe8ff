//! A message as server-sent events.

use serde_json::{Value, json};

use super::respond::{MessageError, Teller, counts, stop};
use crate::error::ApiError;
use crate::generate::answer::Gathered;
use crate::generate::choice::TokenRecord;
use crate::generate::narrate::Script;
use crate::generate::run::Usage;
use crate::sse::named_event;

/// The events of one answer.
#[derive(Debug)]
pub(super) struct MessageScript(Teller);

impl MessageScript {
    pub(super) fn new(teller: Teller) -> Self {
        Self(teller)
    }
}

/// Appends an event whose name is its `type`.
fn tell(out: &mut String, event: &Value) {
    let name = event.get("type").and_then(Value::as_str).unwrap_or("error");
    named_event(out, name, &event.to_string());
}

impl Script for MessageScript {
    fn begin(&mut self, usage: &Usage) -> String {
        let mut out = String::new();
        let message = self.0.message(&json!([]), &Value::Null, &Value::Null, usage);
        tell(&mut out, &json!({ "type": "message_start", "message": message }));
        let block = json!({ "type": "text", "text": "" });
        let start = json!({ "type": "content_block_start", "index": 0, "content_block": block });
        tell(&mut out, &start);
        out
    }

    fn text(&mut self, text: &str, _: &[TokenRecord]) -> String {
        let mut out = String::new();
        let delta = json!({ "type": "text_delta", "text": text });
        tell(&mut out, &json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
        out
    }

    fn end(&mut self, said: Gathered, usage: &Usage) -> String {
        let mut out = String::new();
        tell(&mut out, &json!({ "type": "content_block_stop", "index": 0 }));
        let (reason, sequence) = stop(said.finish.as_ref());
        let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
        tell(&mut out, &json!({ "type": "message_delta", "delta": delta, "usage": counts(usage) }));
        tell(&mut out, &json!({ "type": "message_stop" }));
        out
    }

    fn fail(&mut self, error: &ApiError) -> String {
        let mut out = String::new();
        let request_id = self.0.request_id.clone();
        tell(&mut out, &MessageError { error: error.clone(), request_id }.to_json());
        out
    }
}
