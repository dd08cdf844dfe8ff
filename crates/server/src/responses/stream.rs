//! A response as server-sent events, each with its name and its number.

use serde_json::{Value, json};

use super::respond::Story;
use crate::error::ApiError;
use crate::generate::answer::Gathered;
use crate::generate::choice::TokenRecord;
use crate::generate::narrate::{Script, was_cut};
use crate::generate::run::Usage;
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
        let mut event = json!({ "type": kind, "sequence_number": self.next });
        self.next += 1;
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        named_event(out, kind, &event.to_string());
    }

    /// Where in the answer its text stands.
    fn place(&self) -> Value {
        json!({ "item_id": self.story.message_id, "output_index": 0, "content_index": 0 })
    }

    fn part_event(&mut self, out: &mut String, kind: &str, more: Value) {
        let mut fields = self.place();
        if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
            fields.extend(more);
        }
        self.event(out, kind, fields);
    }
}

impl Script for ResponseScript {
    fn begin(&mut self, _: &Usage) -> String {
        let mut out = String::new();
        let response = self.story.begun();
        self.event(&mut out, "response.created", json!({ "response": response }));
        self.event(&mut out, "response.in_progress", json!({ "response": response }));
        let item = self.story.item("in_progress", None);
        let added = json!({ "output_index": 0, "item": item });
        self.event(&mut out, "response.output_item.added", added);
        let part = self.story.part("", &[]);
        self.part_event(&mut out, "response.content_part.added", json!({ "part": part }));
        out
    }

    fn text(&mut self, text: &str, records: &[TokenRecord]) -> String {
        let mut out = String::new();
        let delta = json!({ "delta": text, "logprobs": self.story.logprobs(records) });
        self.part_event(&mut out, "response.output_text.delta", delta);
        out
    }

    fn end(&mut self, said: Gathered, usage: &Usage) -> String {
        let mut out = String::new();
        let text = json!({ "text": said.text, "logprobs": self.story.logprobs(&said.records) });
        self.part_event(&mut out, "response.output_text.done", text);
        let part = self.story.part(&said.text, &said.records);
        self.part_event(&mut out, "response.content_part.done", json!({ "part": part }));
        let cut = was_cut(said.finish.as_ref());
        let status = if cut { "incomplete" } else { "completed" };
        let item = self.story.item(status, Some(&said));
        let done = json!({ "output_index": 0, "item": item });
        self.event(&mut out, "response.output_item.done", done);
        let response = self.story.ended(&said, usage);
        self.event(&mut out, &format!("response.{status}"), json!({ "response": response }));
        out
    }

    fn fail(&mut self, error: &ApiError) -> String {
        let mut out = String::new();
        let code = error.status().as_u16().to_string();
        let fields = json!({ "code": code, "message": error.message(), "param": null });
        self.event(&mut out, "error", fields);
        out
    }
}
