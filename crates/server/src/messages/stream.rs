//! A message as server-sent events.

use serde_json::{Value, json};

use super::respond::{MessageError, Teller, counts, stop};
use crate::error::ApiError;
use crate::generate::narrate::{Ending, More, Script};
use crate::generate::run::Usage;
use crate::generate::told::{Block, Told};
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
    fn begin(&mut self, out: &mut String, usage: &Usage) {
        let message = self.0.message(&json!([]), &Value::Null, &Value::Null, usage);
        tell(out, &json!({ "type": "message_start", "message": message }));
    }

    fn open(&mut self, out: &mut String, number: usize, block: &Block) {
        let block = match block {
            Block::Text(_) => json!({ "type": "text", "text": "" }),
            Block::Thought(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Block::Call { id, name, arguments: _ } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": {} })
            }
        };
        let start =
            json!({ "type": "content_block_start", "index": number, "content_block": block });
        tell(out, &start);
    }

    fn grow(&mut self, out: &mut String, number: usize, block: &Block, more: More<'_>) {
        let More { delta, records: _ } = more;
        let delta = match block {
            Block::Text(_) => json!({ "type": "text_delta", "text": delta }),
            Block::Thought(_) => json!({ "type": "thinking_delta", "thinking": delta }),
            Block::Call { .. } => json!({ "type": "input_json_delta", "partial_json": delta }),
        };
        tell(out, &json!({ "type": "content_block_delta", "index": number, "delta": delta }));
    }

    fn close(&mut self, out: &mut String, number: usize, _: &Block, _: Ending<'_>) {
        tell(out, &json!({ "type": "content_block_stop", "index": number }));
    }

    fn end(&mut self, out: &mut String, told: &Told, usage: &Usage) {
        let (reason, sequence) = stop(told);
        let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
        tell(out, &json!({ "type": "message_delta", "delta": delta, "usage": counts(usage) }));
        tell(out, &json!({ "type": "message_stop" }));
    }

    fn fail(&mut self, out: &mut String, error: &ApiError) {
        let request_id = self.0.request_id.clone();
        tell(out, &MessageError { error: error.clone(), request_id }.to_json());
    }
}
