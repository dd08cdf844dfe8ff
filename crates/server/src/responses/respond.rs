//! A response as an object, whole or still growing.

use serde_json::{Value, json};

use super::validate::Echoed;
use crate::generate::answer::{Gathered, Heading};
use crate::generate::choice::{Rendering, TokenRecord};
use crate::generate::logprobs;
use crate::generate::narrate::was_cut;
use crate::generate::run::Usage;

/// What all events of one answer share.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) heading: Heading,
    pub(super) rendering: Rendering,
    pub(super) echoed: Echoed,
    /// The id of the one item of the answer.
    pub(super) message_id: String,
}

impl Story {
    /// The finished answer.
    pub(super) fn ended(&self, said: &Gathered, usage: &Usage) -> Value {
        let cut = was_cut(said.finish.as_ref());
        let status = if cut { "incomplete" } else { "completed" };
        let output = json!([self.item(status, Some(said))]);
        let details = if cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
        self.response(status, &output, &details, Some(usage))
    }

    /// The answer before anything was generated.
    pub(super) fn begun(&self) -> Value {
        self.response("in_progress", &json!([]), &Value::Null, None)
    }

    /// The answer's one item.
    pub(super) fn item(&self, status: &str, said: Option<&Gathered>) -> Value {
        let content: Vec<Value> =
            said.map(|said| self.part(&said.text, &said.records)).into_iter().collect();
        json!({
            "id": self.message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    /// The item's one part.
    pub(super) fn part(&self, text: &str, records: &[TokenRecord]) -> Value {
        json!({
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": self.logprobs(records),
        })
    }

    /// Empty where nobody asked for them.
    pub(super) fn logprobs(&self, records: &[TokenRecord]) -> Value {
        serde_json::to_value(logprobs::chat(&self.rendering, records).content).unwrap_or_default()
    }

    fn response(
        &self,
        status: &str,
        output: &Value,
        incomplete_details: &Value,
        usage: Option<&Usage>,
    ) -> Value {
        let Heading { id, created, model } = &self.heading;
        let Echoed { instructions, max_output_tokens, temperature, top_p } = &self.echoed;
        json!({
            "id": id,
            "object": "response",
            "created_at": created,
            "status": status,
            "error": null,
            "incomplete_details": incomplete_details,
            "instructions": instructions,
            "max_output_tokens": max_output_tokens,
            "model": model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "store": false,
            "temperature": temperature,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_p": top_p,
            "truncation": "disabled",
            "usage": usage.map(counts),
            "metadata": {},
        })
    }
}

fn counts(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.prompt_tokens_details.cached_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.total_tokens,
    })
}
