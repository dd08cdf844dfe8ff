//! A response as an object, whole or still growing. Each block of the answer is one item.

use serde_json::{Value, json};

use super::tools::Form;
use super::validate::Echoed;
use crate::generate::answer::Heading;
use crate::generate::choice::{Rendering, TokenRecord};
use crate::generate::logprobs;
use crate::generate::run::Usage;
use crate::generate::told::{Block, Told};

/// What all events of one answer share.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) heading: Heading,
    pub(super) rendering: Rendering,
    pub(super) echoed: Echoed,
}

/// How far an item, or a response, has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// Cut off by a limit.
    Incomplete,
}

impl Status {
    pub(super) fn ended(cut: bool) -> Self {
        if cut { Self::Incomplete } else { Self::Completed }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Story {
    /// The finished answer.
    pub(super) fn ended(&self, told: &Told, usage: &Usage) -> Value {
        let cut = told.was_cut();
        let last = told.blocks.len().saturating_sub(1);
        let items: Vec<Value> = told
            .blocks
            .iter()
            .enumerate()
            .map(|(number, block)| {
                self.item(number, block, Status::ended(cut && number == last), &told.records)
            })
            .collect();
        let details = if cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
        self.response(Status::ended(cut), &json!(items), &details, Some(usage))
    }

    /// The answer before anything was generated.
    pub(super) fn begun(&self) -> Value {
        self.response(Status::InProgress, &json!([]), &Value::Null, None)
    }

    /// The id of an item: unique, and the same however often it is told.
    pub(super) fn item_id(&self, number: usize, block: &Block) -> String {
        let kind = match block {
            Block::Thought(_) => "rs",
            Block::Text(_) => "msg",
            Block::Call { .. } => "fc",
        };
        format!("{kind}_{}{number:04x}", self.rendering.reading.seed)
    }

    /// A block as an item; one in progress is still empty.
    pub(super) fn item(
        &self,
        number: usize,
        block: &Block,
        status: Status,
        records: &[TokenRecord],
    ) -> Value {
        let begun = status != Status::InProgress;
        let content: Vec<Value> = self.part(block, records).filter(|_| begun).into_iter().collect();
        let id = self.item_id(number, block);
        let status = status.word();
        match block {
            Block::Thought(_) => json!({
                "id": id,
                "type": "reasoning",
                "status": status,
                "summary": [],
                "content": content,
            }),
            Block::Text(_) => json!({
                "id": id,
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": content,
            }),
            Block::Call { id: call_id, name, arguments } => json!({
                "id": id,
                "type": "function_call",
                "status": status,
                "call_id": call_id,
                "name": name,
                "arguments": if begun { arguments } else { "" },
            }),
        }
    }

    /// The one part of an item that has parts.
    pub(super) fn part(&self, block: &Block, records: &[TokenRecord]) -> Option<Value> {
        match block {
            Block::Thought(text) => Some(json!({ "type": "reasoning_text", "text": text })),
            Block::Text(text) => Some(json!({
                "type": "output_text",
                "text": text,
                "annotations": [],
                "logprobs": self.logprobs(records),
            })),
            Block::Call { .. } => None,
        }
    }

    /// Empty where nobody asked for them.
    pub(super) fn logprobs(&self, records: &[TokenRecord]) -> Value {
        serde_json::to_value(logprobs::chat(&self.rendering, records).content).unwrap_or_default()
    }

    fn response(
        &self,
        status: Status,
        output: &Value,
        incomplete_details: &Value,
        usage: Option<&Usage>,
    ) -> Value {
        let Heading { id, created, model } = &self.heading;
        let Echoed { instructions, max_output_tokens, temperature, top_p, effort, metadata, form } =
            &self.echoed;
        let Form { tools, tool_choice, parallel_tool_calls, format } = form;
        json!({
            "id": id,
            "object": "response",
            "created_at": created,
            "status": status.word(),
            "error": null,
            "incomplete_details": incomplete_details,
            "instructions": instructions,
            "max_output_tokens": max_output_tokens,
            "model": model,
            "output": output,
            "parallel_tool_calls": parallel_tool_calls,
            "previous_response_id": null,
            "reasoning": { "effort": effort, "summary": null },
            "store": false,
            "temperature": decimal(*temperature),
            "text": { "format": format },
            "tool_choice": tool_choice,
            "tools": tools,
            "top_p": decimal(*top_p),
            "truncation": "disabled",
            "usage": usage.map(counts),
            "metadata": metadata,
        })
    }
}

/// 0.7 as it was written, and not as the nearest single-precision number has it.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

fn counts(usage: &Usage) -> Value {
    let thought = usage.completion_tokens_details.map_or(0, |details| details.reasoning_tokens);
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.prompt_tokens_details.cached_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": thought },
        "total_tokens": usage.total_tokens,
    })
}
