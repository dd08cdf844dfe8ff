//! A response as server-sent events, each with its name and its number.

use serde_json::{Map, Value, json};

use super::respond::{Status, Story};
use crate::error::ApiError;
use crate::generate::narrate::{Ending, More, Script};
use crate::generate::run::Usage;
use crate::generate::told::{Block, Told};
use crate::sse::named_event;

/// The events of one answer.
#[derive(Debug)]
pub(super) struct ResponseScript {
    story: Story,
    /// The number of the next event.
    next: u64,
}

impl ResponseScript {
    pub(super) fn new(story: Story) -> Self {
        Self { story, next: 0 }
    }

    fn event(&mut self, out: &mut String, kind: &str, fields: Value) {
        let mut event = Map::from_iter([
            ("type".to_owned(), json!(kind)),
            ("sequence_number".to_owned(), json!(self.next)),
        ]);
        self.next += 1;
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        named_event(out, kind, &Value::Object(event).to_string());
    }

    /// An event about the inside of an item.
    fn inside(&mut self, out: &mut String, item: (usize, &Block), kind: &str, more: Value) {
        let (number, block) = item;
        let id = self.story.item_id(number, block);
        let mut fields = json!({ "item_id": id, "output_index": number });
        if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
            if !matches!(block, Block::Call { .. }) {
                fields.insert("content_index".to_owned(), json!(0));
            }
            fields.extend(more);
        }
        self.event(out, kind, fields);
    }
}

impl Script for ResponseScript {
    fn begin(&mut self, out: &mut String, _: &Usage) {
        let response = self.story.begun();
        self.event(out, "response.created", json!({ "response": response }));
        self.event(out, "response.in_progress", json!({ "response": response }));
    }

    fn open(&mut self, out: &mut String, number: usize, block: &Block) {
        let item = self.story.item(number, block, Status::InProgress, &[]);
        let added = json!({ "output_index": number, "item": item });
        self.event(out, "response.output_item.added", added);
        let empty = match block {
            Block::Text(_) => Block::Text(String::new()),
            Block::Thought(_) => Block::Thought(String::new()),
            Block::Call { .. } => return,
        };
        let part = json!({ "part": self.story.part(&empty, &[]) });
        self.inside(out, (number, block), "response.content_part.added", part);
    }

    fn grow(&mut self, out: &mut String, number: usize, block: &Block, more: More<'_>) {
        let More { delta, records } = more;
        let (kind, fields) = match block {
            Block::Thought(_) => ("response.reasoning_text.delta", json!({ "delta": delta })),
            Block::Text(_) => {
                let logprobs = self.story.logprobs(records);
                ("response.output_text.delta", json!({ "delta": delta, "logprobs": logprobs }))
            }
            Block::Call { .. } => {
                ("response.function_call_arguments.delta", json!({ "delta": delta }))
            }
        };
        self.inside(out, (number, block), kind, fields);
    }

    fn close(&mut self, out: &mut String, number: usize, block: &Block, ending: Ending<'_>) {
        let Ending { cut, records } = ending;
        let place = (number, block);
        match block {
            Block::Thought(text) => {
                let fields = json!({ "text": text });
                self.inside(out, place, "response.reasoning_text.done", fields);
            }
            Block::Text(text) => {
                let fields = json!({ "text": text, "logprobs": self.story.logprobs(records) });
                self.inside(out, place, "response.output_text.done", fields);
            }
            Block::Call { id: _, name, arguments } => {
                let fields = json!({ "name": name, "arguments": arguments });
                self.inside(out, place, "response.function_call_arguments.done", fields);
            }
        }
        if let Some(part) = self.story.part(block, records) {
            self.inside(out, place, "response.content_part.done", json!({ "part": part }));
        }
        let item = self.story.item(number, block, Status::ended(cut), records);
        let done = json!({ "output_index": number, "item": item });
        self.event(out, "response.output_item.done", done);
    }

    fn end(&mut self, out: &mut String, told: &Told, usage: &Usage) {
        let response = self.story.ended(told, usage);
        let kind = format!("response.{}", Status::ended(told.was_cut()).word());
        self.event(out, &kind, json!({ "response": response }));
    }

    fn fail(&mut self, out: &mut String, error: &ApiError) {
        let code = error.status().as_u16().to_string();
        let fields = json!({ "code": code, "message": error.message(), "param": null });
        self.event(out, "error", fields);
    }
}
