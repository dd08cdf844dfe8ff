//! From a [`MessagesBody`] to a conversation.

use serde_json::{Value, json};

use super::types::{
    Block, BlockFields, Blocks, CountBody, DialogueFields, MessagesBody, MessagesFields, Turn,
    TurnFields,
};
use crate::auth::Caller;
use crate::chat::ending::PromptEnd;
use crate::error::{ApiError, quote};
use crate::request::common::{
    self, Common, DecodingFields, Dialect, Groups, SamplingFields, SharedFields,
};
use crate::request::fields::{List, Strings};
use crate::request::output::{ConstraintFields, OutputFields};
use crate::request::unserved::UnservedFields;
use crate::state::Served;

/// A request that can be rendered.
#[derive(Debug)]
pub(crate) struct ValidMessages {
    /// The messages as the template sees them.
    pub(crate) messages: Value,
    pub(crate) prompt_end: PromptEnd,
    pub(crate) common: Common,
}

/// Checks a body.
///
/// # Errors
/// 400 that names the first field that is wrong or not served; 404 for another model.
pub(crate) fn validate(
    body: MessagesBody,
    served: &Served,
    caller: Caller,
) -> Result<ValidMessages, ApiError> {
    let MessagesBody { dialogue, sampling, unserved } = body;
    let MessagesFields { max_tokens, stop_sequences, stream, temperature, top_p, top_k } = sampling;
    unserved.refuse()?;
    let DialogueFields { model, messages, system } = dialogue;
    let Some(max_tokens) = max_tokens else {
        return Err(ApiError::field("max_tokens", "is missing"));
    };
    let shared = SharedFields {
        model,
        stream,
        stop: stop_sequences.map(|stops| Strings(stops.0)),
        ..SharedFields::default()
    };
    let sampling = SamplingFields { temperature, top_p, top_k, ..SamplingFields::default() };
    let dialect = Dialect {
        max_tokens_field: "max_tokens",
        max_tokens: Some(max_tokens.0),
        logprobs_field: "logprobs",
        logprobs: None,
        prompt_logprobs: None,
        add_special_tokens: false,
    };
    let groups = Groups {
        shared,
        sampling,
        decoding: DecodingFields::default(),
        constraints: ConstraintFields::default(),
        output: OutputFields::default(),
        unserved: UnservedFields::default(),
    };
    let common = common::validate(groups, dialect, served, caller)
        .map_err(|error| error.renamed("stop", "stop_sequences"))?;
    let (messages, prompt_end) = conversation(system, messages)?;
    Ok(ValidMessages { messages, prompt_end, common })
}

/// The conversation of a body that is only counted.
///
/// # Errors
/// As for one that is answered.
pub(crate) fn countable(body: CountBody, served: &Served) -> Result<(Value, PromptEnd), ApiError> {
    let CountBody { dialogue, unserved } = body;
    let DialogueFields { model, messages, system } = dialogue;
    unserved.refuse()?;
    served.known_model(model)?;
    conversation(system, messages)
}

/// A last turn of the assistant's is gone on with.
fn conversation(
    system: Option<Blocks>,
    turns: Option<List<Turn>>,
) -> Result<(Value, PromptEnd), ApiError> {
    let mut messages: Vec<Value> = Vec::new();
    if let Some(system) = system {
        let content = text_of(system, "system")?;
        messages.push(json!({ "role": "system", "content": content }));
    }
    let turns = turns.unwrap_or_default().0;
    if turns.is_empty() {
        return Err(ApiError::field("messages", "needs at least one message"));
    }
    let mut prompt_end = PromptEnd::Answer;
    for (index, turn) in turns.into_iter().enumerate() {
        let at = |field: &str| format!("messages[{index}].{field}");
        let TurnFields { role, content } = turn.fields;
        let role = role.ok_or_else(|| ApiError::field(at("role"), "is missing"))?;
        prompt_end = match role.as_str() {
            "user" => PromptEnd::Answer,
            "assistant" => PromptEnd::InLastMessage,
            other => {
                let problem = format!("must be `user` or `assistant`, not {}", quote(other));
                return Err(ApiError::field(at("role"), problem));
            }
        };
        let content = content.ok_or_else(|| ApiError::field(at("content"), "is missing"))?;
        messages.push(json!({ "role": role, "content": text_of(content, &at("content"))? }));
    }
    Ok((Value::Array(messages), prompt_end))
}

fn text_of(blocks: Blocks, field: &str) -> Result<String, ApiError> {
    let blocks: Vec<Block> = match blocks {
        Blocks::Text(text) => return Ok(text),
        Blocks::List(blocks) => blocks,
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for (number, block) in blocks.into_iter().enumerate() {
        let at = |part: &str| format!("{field}[{number}].{part}");
        // Caching needs no advice, and what is cited is text.
        let BlockFields { kind, text, cache_control: _, citations: _ } = block.fields;
        match kind.as_deref() {
            Some("text") => {}
            Some(kind) => {
                let problem = format!("is {}: only blocks of type `text` are served", quote(kind));
                return Err(ApiError::field(at("type"), problem));
            }
            None => return Err(ApiError::field(at("type"), "is missing")),
        }
        texts.push(text.ok_or_else(|| ApiError::field(at("text"), "is missing"))?);
    }
    Ok(texts.join("\n"))
}
