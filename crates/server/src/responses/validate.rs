//! From a [`ResponsesBody`] to a conversation.

use serde_json::{Value, json};

use super::types::{
    Input, Item, ItemContent, ItemFields, ItemPart, ItemPartFields, ResponsesBody, ResponsesFields,
    TextFields, TextOptions,
};
use crate::auth::Caller;
use crate::error::{ApiError, quote};
use crate::request::common::{self, Common, DecodingFields, Dialect, Groups};
use crate::request::fields::{Int, Strings};
use crate::request::output::OutputFields;
use crate::request::structured::refuse_format;
use crate::request::unserved::{Neutral, refuse_unless};
use crate::state::Served;

/// A request that can be rendered.
#[derive(Debug)]
pub(crate) struct ValidResponses {
    /// The messages as the template sees them.
    pub(crate) messages: Value,
    pub(crate) echoed: Echoed,
    pub(crate) common: Common,
}

/// What an answer repeats of its request.
#[derive(Clone, Debug)]
pub(crate) struct Echoed {
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<i64>,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
}

/// Roles that templates know.
const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// What `include` may ask for.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Checks a body.
///
/// # Errors
/// 400 that names the first field that is wrong or not served; 404 for another model.
pub(crate) fn validate(
    body: ResponsesBody,
    served: &Served,
    caller: Caller,
) -> Result<ValidResponses, ApiError> {
    let ResponsesBody {
        responses,
        shared,
        sampling,
        constraints,
        output,
        unserved,
        unserved_responses,
    } = body;
    let ResponsesFields {
        input,
        instructions,
        max_output_tokens,
        top_logprobs,
        include,
        text,
        truncation,
    } = responses;
    unserved_responses.refuse()?;
    only_plain_text(text)?;
    one_choice(sampling.n)?;
    unknown_here(&output)?;
    if truncation.as_deref().is_some_and(|word| word != "disabled") {
        let problem = "must be \"disabled\": what does not fit is refused; `truncate_prompt_tokens` shortens a prompt";
        return Err(ApiError::field("truncation", problem));
    }
    let max_output_tokens = max_output_tokens.map(|limit| limit.0);
    let dialect = Dialect {
        max_tokens_field: "max_output_tokens",
        max_tokens: max_output_tokens,
        logprobs_field: "top_logprobs",
        logprobs: alternatives(include, top_logprobs)?,
        prompt_logprobs: None,
        add_special_tokens: false,
    };
    let decoding = DecodingFields::default();
    let groups = Groups { shared, sampling, decoding, constraints, output, unserved };
    let common = common::validate(groups, dialect, served, caller)?;
    let messages = conversation(instructions.as_deref(), input)?;
    let sampling = &common.params.sampling;
    let echoed = Echoed {
        instructions,
        max_output_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
    };
    Ok(ValidResponses { messages, echoed, common })
}

fn only_plain_text(text: Option<TextOptions>) -> Result<(), ApiError> {
    let Some(TextOptions { fields: TextFields { format, verbosity } }) = text else {
        return Ok(());
    };
    refuse_unless(
        "text.verbosity",
        verbosity,
        Neutral::Null,
        "the length of answers is not steered",
    )?;
    refuse_format(format).map_err(|error| error.with_param("text.format"))
}

/// 400 for more choices than one.
pub(crate) fn one_choice(n: Option<Int>) -> Result<(), ApiError> {
    match n {
        None | Some(Int(1)) => Ok(()),
        Some(_) => Err(ApiError::field("n", "must be 1 in this endpoint; leave it out")),
    }
}

/// Fields whose answers have no place in this endpoint's.
pub(crate) fn unknown_here(output: &OutputFields) -> Result<(), ApiError> {
    let asked = [
        ("prompt_logprobs", output.prompt_logprobs.is_some()),
        ("return_token_ids", output.return_token_ids == Some(true)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => {
            Err(ApiError::field(field, "has no place in this answer; use /v1/chat/completions"))
        }
        None => Ok(()),
    }
}

fn alternatives(include: Option<Strings>, top: Option<Int>) -> Result<Option<i64>, ApiError> {
    let include = include.unwrap_or_default().0;
    if let Some(other) = include.iter().find(|what| *what != LOGPROBS) {
        let problem = format!("must be [\"{LOGPROBS}\"] or empty, not {}", quote(other));
        return Err(ApiError::field("include", problem));
    }
    match (include.is_empty(), top) {
        (false, top) => Ok(Some(top.map_or(0, |top| top.0))),
        (true, None | Some(Int(0))) => Ok(None),
        (true, Some(_)) => {
            let problem = format!("is only told when `include` has \"{LOGPROBS}\"");
            Err(ApiError::field("top_logprobs", problem))
        }
    }
}

fn conversation(instructions: Option<&str>, input: Option<Input>) -> Result<Value, ApiError> {
    let mut messages: Vec<Value> = Vec::new();
    if let Some(instructions) = instructions {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    match input {
        None => return Err(ApiError::field("input", "is missing")),
        Some(Input::Text(text)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Input::Items(items)) if items.is_empty() => {
            return Err(ApiError::field("input", "needs at least one message"));
        }
        Some(Input::Items(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                messages.push(message(item, index)?);
            }
        }
    }
    Ok(Value::Array(messages))
}

fn message(item: Item, index: usize) -> Result<Value, ApiError> {
    let at = |field: &str| format!("input[{index}].{field}");
    let ItemFields { kind, role, content, id: _, status: _, phase: _ } = item.fields;
    if let Some(kind) = kind.filter(|kind| kind != "message") {
        let problem = format!("is {}: only items of type `message` are served", quote(&kind));
        return Err(ApiError::field(at("type"), problem));
    }
    let role = role.ok_or_else(|| ApiError::field(at("role"), "is missing"))?;
    if !ROLES.contains(&role.as_str()) {
        let problem = format!("must be one of {}, not {}", ROLES.join(", "), quote(&role));
        return Err(ApiError::field(at("role"), problem));
    }
    let text = match content {
        None => return Err(ApiError::field(at("content"), "is missing")),
        Some(ItemContent::Text(text)) => text,
        Some(ItemContent::Parts(parts)) => text_of(parts.0, index)?,
    };
    Ok(json!({ "role": role, "content": text }))
}

fn text_of(parts: Vec<ItemPart>, index: usize) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (number, part) in parts.into_iter().enumerate() {
        let at = |field: &str| format!("input[{index}].content[{number}].{field}");
        let ItemPartFields { kind, text, annotations: _, logprobs: _ } = part.fields;
        match kind.as_deref() {
            Some("input_text" | "output_text" | "text") => {}
            Some(kind) => {
                let problem = format!("is {}: only text parts are served", quote(kind));
                return Err(ApiError::field(at("type"), problem));
            }
            None => return Err(ApiError::field(at("type"), "is missing")),
        }
        texts.push(text.ok_or_else(|| ApiError::field(at("text"), "is missing"))?);
    }
    Ok(texts.join("\n"))
}
