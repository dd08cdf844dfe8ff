//! From a [`ChatBody`] to a [`ValidChat`]: after this, nothing about the request can be wrong but its length.

use serde_json::{Map, Value};

use super::tools::asked;
use super::types::{
    CalledFunctionFields, ChatBody, ChatFields, Message, MessageFields, Part, ToolCall,
    ToolCallFields,
};
use crate::auth::Caller;
use crate::conversation::Spoken;
use crate::conversation::dialogue::{Arguments, EarlierCall};
use crate::conversation::ending::{PromptEnd, last_answer};
use crate::conversation::thinking;
use crate::conversation::tools::{Answering, plan};
use crate::error::{ApiError, quote};
use crate::request::common::{self, Common, Dialect, Groups};
use crate::request::fields::{Given, Int, List, Strings, TextOr};
use crate::request::json::Json;
use crate::request::structured::wanted;
use crate::request::unserved::{Neutral, asks_nothing};
use crate::state::Served;

/// A request that can be rendered.
#[derive(Debug)]
pub(crate) struct ValidChat {
    pub(crate) spoken: Spoken,
    pub(crate) answering: Answering,
    /// What answers begin with, besides what is generated.
    pub(crate) opening: String,
    /// What the caller calls the output's limit.
    pub(crate) max_tokens_field: &'static str,
    pub(crate) common: Common,
}

/// Roles that templates know.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Checks a body.
///
/// # Errors
/// 400 that names the first field that is wrong or not served; 404 for another model.
pub(crate) fn validate(
    body: ChatBody,
    served: &Served,
    caller: Caller,
) -> Result<ValidChat, ApiError> {
    let ChatBody {
        chat,
        shared,
        sampling,
        decoding,
        constraints,
        output,
        structured,
        tools,
        unserved,
        unserved_chat,
    } = body;
    let ChatFields {
        messages,
        max_tokens,
        max_completion_tokens,
        logprobs,
        top_logprobs,
        add_generation_prompt,
        continue_final_message,
        echo,
        modalities,
        chat_template_kwargs,
        reasoning_effort,
    } = chat;
    unserved_chat.refuse()?;
    only_text(modalities)?;
    let (max_tokens_field, max_tokens) = output_limit(max_tokens, max_completion_tokens)?;
    let groups = Groups { shared, sampling, decoding, constraints, output, unserved };
    let dialect = Dialect {
        max_tokens_field,
        max_tokens,
        logprobs_field: "top_logprobs",
        logprobs: alternatives(logprobs, top_logprobs)?,
        prompt_logprobs: None,
        // A template writes the special tokens itself.
        add_special_tokens: false,
    };
    let common = common::validate(groups, dialect, served, caller)?;
    let messages = conversation(messages.unwrap_or_default())?;
    let opening = last_answer(&messages).filter(|_| echo == Some(true));
    let wanted = wanted(structured, &common.params)?;
    let opening = opening.unwrap_or_default().to_owned();
    let (tools, answering) = plan(asked(tools, wanted)?, &common.params, served)?;
    let prompt_end = PromptEnd::new(add_generation_prompt, continue_final_message)?;
    let mut heard = thinking::effort(served, "reasoning_effort", reasoning_effort.as_deref())?;
    heard.extend(variables(chat_template_kwargs)?);
    let spoken = Spoken { messages, tools, variables: heard, prompt_end };
    Ok(ValidChat { spoken, answering, opening, max_tokens_field, common })
}

/// Messages as the template sees them.
///
/// # Errors
/// 400 that names the first message and field that is wrong.
pub(crate) fn conversation(messages: List<Message>) -> Result<Value, ApiError> {
    if messages.0.is_empty() {
        return Err(ApiError::field("messages", "needs at least one message"));
    }
    let mut arguments = Arguments::default();
    let numbered = messages.0.into_iter().enumerate();
    let spoken: Result<Vec<Value>, ApiError> =
        numbered.map(|(index, message)| spoken(message, index, &mut arguments)).collect();
    Ok(Value::Array(spoken?))
}

fn only_text(modalities: Option<Strings>) -> Result<(), ApiError> {
    match modalities {
        Some(Strings(kinds)) if kinds.iter().any(|kind| kind != "text") => {
            Err(ApiError::field("modalities", "must be [\"text\"]: only text is served"))
        }
        _ => Ok(()),
    }
}

/// The newer name wins; two names that disagree are an error, because one of them was not meant.
fn output_limit(
    old: Option<Int>,
    new: Option<Int>,
) -> Result<(&'static str, Option<i64>), ApiError> {
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ApiError::field(
            "max_completion_tokens",
            format!("is {} but `max_tokens` is {}; send one of them", new.0, old.0),
        )),
        (_, Some(new)) => Ok(("max_completion_tokens", Some(new.0))),
        (old, None) => Ok(("max_tokens", old.map(|limit| limit.0))),
    }
}

fn alternatives(logprobs: Option<bool>, top: Option<Int>) -> Result<Option<i64>, ApiError> {
    match (logprobs, top) {
        (Some(true), top) => Ok(Some(top.map_or(0, |top| top.0))),
        (_, None | Some(Int(0))) => Ok(None),
        (_, Some(_)) => {
            Err(ApiError::field("top_logprobs", "is only allowed when `logprobs` is true"))
        }
    }
}

/// A message as the template sees it.
fn spoken(message: Message, index: usize, arguments: &mut Arguments) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let MessageFields {
        role,
        content,
        name,
        tool_calls,
        tool_call_id,
        reasoning_content,
        reasoning,
        refusal,
        audio,
        function_call,
        annotations,
    } = message.fields;
    let role = role.ok_or_else(|| ApiError::field(at("role"), "is missing"))?;
    if !ROLES.contains(&role.as_str()) {
        let problem = format!("must be one of {}, not {}", ROLES.join(", "), quote(&role));
        return Err(ApiError::field(at("role"), problem));
    }
    let left_out = [
        ("refusal", refusal, Neutral::Null),
        ("audio", audio, Neutral::Null),
        ("function_call", function_call, Neutral::Null),
        ("annotations", annotations, Neutral::Empty),
    ];
    for (field, given, neutral) in left_out {
        refuse_in_message(&at(field), given, neutral)?;
    }
    if content.is_none() && role != "assistant" {
        return Err(ApiError::field(at("content"), "is missing"));
    }
    let mut out = Map::new();
    out.insert("role".to_owned(), Value::String(role));
    let content = content.map(|content| text_of(content, index)).transpose()?;
    out.insert("content".to_owned(), content.map_or(Value::Null, Value::String));
    // The newer name; templates know the older one.
    let reasoning_content = reasoning_content.or(reasoning);
    let optional =
        [("name", name), ("tool_call_id", tool_call_id), ("reasoning_content", reasoning_content)];
    for (field, value) in optional {
        if let Some(value) = value {
            out.insert(field.to_owned(), Value::String(value));
        }
    }
    if let Some(calls) = tool_calls {
        let calls: Result<Vec<Value>, ApiError> = calls
            .0
            .into_iter()
            .enumerate()
            .map(|(call, it)| called(it, index, call, arguments))
            .collect();
        out.insert("tool_calls".to_owned(), Value::Array(calls?));
    }
    Ok(Value::Object(out))
}

fn refuse_in_message(at: &str, given: Option<Given>, neutral: Neutral) -> Result<(), ApiError> {
    match given {
        Some(given) if !asks_nothing(neutral, given) => {
            Err(ApiError::field(at, "is not supported; leave it out"))
        }
        _ => Ok(()),
    }
}

/// Parts are joined by line breaks, as vLLM does for templates that expect a string.
fn text_of(content: TextOr<Part>, index: usize) -> Result<String, ApiError> {
    let parts = match content {
        TextOr::Text(text) => return Ok(text),
        TextOr::List(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (number, Part { kind, text, other }) in parts.into_iter().enumerate() {
        let at = |field: &str| format!("messages[{index}].content[{number}].{field}");
        match kind.as_deref() {
            Some("text") => {}
            Some(kind) => {
                let problem = format!("is {}: only parts of type `text` are served", quote(kind));
                return Err(ApiError::field(at("type"), problem));
            }
            None => return Err(ApiError::field(at("type"), "is missing")),
        }
        if let Some(other) = other {
            return Err(ApiError::field(at(&other), "is an unknown field of a text part"));
        }
        texts.push(text.ok_or_else(|| ApiError::field(at("text"), "is missing"))?);
    }
    Ok(texts.join("\n"))
}

/// An earlier tool call.
fn called(
    call: ToolCall,
    index: usize,
    number: usize,
    read: &mut Arguments,
) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}].tool_calls[{number}].{field}");
    let ToolCallFields { id, kind, index: _, function } = call.fields;
    if let Some(kind) = kind.filter(|kind| kind != "function") {
        return Err(ApiError::field(
            at("type"),
            format!("must be `function`, not {}", quote(&kind)),
        ));
    }
    let function = function.ok_or_else(|| ApiError::field(at("function"), "is missing"))?;
    let CalledFunctionFields { name, arguments } = function.fields;
    let name = name.ok_or_else(|| ApiError::field(at("function.name"), "is missing"))?;
    let call = EarlierCall { id, name, arguments: arguments.unwrap_or_default() };
    call.shown(read, &at("function.arguments"))
}

/// Further variables of the template.
///
/// # Errors
/// 400 when they are no object.
pub(crate) fn variables(given: Option<Json>) -> Result<Map<String, Value>, ApiError> {
    match given {
        None => Ok(Map::new()),
        Some(Json(Value::Object(variables))) => Ok(variables),
        Some(_) => Err(ApiError::field("chat_template_kwargs", "must be an object")),
    }
}
