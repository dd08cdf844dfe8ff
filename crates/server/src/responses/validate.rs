//! From a [`ResponsesBody`] to a conversation.

use serde_json::{Map, Value, json};

use super::tools::{self, Form};
use super::types::{
    Input, Item, ItemFields, ItemPart, ItemPartFields, ReasoningOptions, ResponsesBody,
    ResponsesFields,
};
use crate::auth::Caller;
use crate::conversation::Spoken;
use crate::conversation::dialogue::{Dialogue, EarlierCall};
use crate::conversation::ending::PromptEnd;
use crate::conversation::thinking;
use crate::conversation::tools::{Answering, plan};
use crate::error::{ApiError, quote};
use crate::request::common::{self, Common, DecodingFields, Dialect, Groups};
use crate::request::fields::{Int, Strings, TextOr};
use crate::request::json::Json;
use crate::request::output::OutputFields;
use crate::state::Served;

/// A request that can be rendered.
#[derive(Debug)]
pub(crate) struct ValidResponses {
    pub(crate) spoken: Spoken,
    pub(crate) answering: Answering,
    pub(crate) echoed: Echoed,
    pub(crate) common: Common,
}

/// What an answer repeats of its request.
#[derive(Clone, Debug)]
pub(crate) struct Echoed {
    pub(super) instructions: Option<String>,
    pub(super) max_output_tokens: Option<i64>,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    pub(super) effort: Option<String>,
    pub(super) metadata: Value,
    pub(super) form: Form,
}

/// Roles that templates know.
const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// What `include` may ask for.
const LOGPROBS: &str = "message.output_text.logprobs";
/// What it may ask for, too: to be able to send thoughts back, which are told in the clear anyway.
const THOUGHTS: &str = "reasoning.encrypted_content";

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
        tools,
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
        metadata,
        reasoning,
        // OpenAI's default is true, so clients send it who never ask for what is stored; the answer says false.
        store: _,
    } = responses;
    unserved_responses.refuse()?;
    let (effort, variables) = effort(reasoning, served)?;
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
    let (asked, form) = tools::asked(tools, text)?;
    let (tools, answering) = plan(asked, &common.params, served)?;
    if common.params.sampling.logprobs.is_some() && answering.reading.tells_apart() {
        let problem = "cannot have log-probabilities of an answer that is read for thoughts or calls; use /v1/chat/completions";
        return Err(ApiError::field("include", problem));
    }
    let sampling = &common.params.sampling;
    let echoed = Echoed {
        instructions,
        max_output_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        effort,
        metadata: metadata.map_or_else(|| json!({}), |Json(metadata)| metadata),
        form,
    };
    let spoken = Spoken { messages, tools, variables, prompt_end: PromptEnd::Answer };
    Ok(ValidResponses { spoken, answering, echoed, common })
}

/// How much the model is to think, and what its template hears of that.
fn effort(
    reasoning: Option<ReasoningOptions>,
    served: &Served,
) -> Result<(Option<String>, Map<String, Value>), ApiError> {
    let Some(ReasoningOptions { fields, unserved }) = reasoning else {
        return Ok((None, Map::new()));
    };
    unserved.refuse().map_err(|error| error.within("reasoning"))?;
    let variables = thinking::effort(served, "reasoning.effort", fields.effort.as_deref())?;
    Ok((fields.effort, variables))
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
    if let Some(other) = include.iter().find(|what| ![LOGPROBS, THOUGHTS].contains(&what.as_str()))
    {
        let problem = format!("may have \"{LOGPROBS}\" and \"{THOUGHTS}\", not {}", quote(other));
        return Err(ApiError::field("include", problem));
    }
    match (include.iter().any(|what| what == LOGPROBS), top) {
        (true, top) => Ok(Some(top.map_or(0, |top| top.0))),
        (false, None | Some(Int(0))) => Ok(None),
        (false, Some(_)) => {
            let problem = format!("is only told when `include` has \"{LOGPROBS}\"");
            Err(ApiError::field("top_logprobs", problem))
        }
    }
}

fn conversation(instructions: Option<&str>, input: Option<Input>) -> Result<Value, ApiError> {
    let mut dialogue = Dialogue::default();
    if let Some(instructions) = instructions {
        dialogue.say("system", instructions);
    }
    match input {
        None => return Err(ApiError::field("input", "is missing")),
        Some(TextOr::Text(text)) => dialogue.say("user", &text),
        Some(TextOr::List(items)) if items.is_empty() => {
            return Err(ApiError::field("input", "needs at least one message"));
        }
        Some(TextOr::List(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                add(&mut dialogue, item, &format!("input[{index}]"))?;
            }
        }
    }
    Ok(dialogue.finish())
}

/// An item, with only the fields of its kind. Ids and states are bookkeeping of whoever made it.
fn add(dialogue: &mut Dialogue, item: Item, at: &str) -> Result<(), ApiError> {
    let at = |field: &str| format!("{at}.{field}");
    let missing = |field: &str| ApiError::field(at(field), "is missing");
    let ItemFields {
        kind,
        role,
        content,
        id: _,
        status: _,
        phase: _,
        call_id,
        name,
        arguments,
        output,
        summary,
        encrypted_content,
    } = item.fields;
    let kind = kind.as_deref().unwrap_or("message");
    served_kind(kind, &at("type"))?;
    item.others.refuse::<ItemFields>(at)?;
    let of = |kinds: &[&str]| kinds.contains(&kind);
    let foreign = [
        ("role", role.is_some() && !of(&["message"])),
        ("content", content.is_some() && !of(&["message", "reasoning"])),
        ("call_id", call_id.is_some() && !of(&["function_call", "function_call_output"])),
        ("name", name.is_some() && !of(&["function_call"])),
        ("arguments", arguments.is_some() && !of(&["function_call"])),
        ("output", output.is_some() && !of(&["function_call_output"])),
        ("summary", summary.is_some() && !of(&["reasoning"])),
    ];
    if let Some((field, _)) = foreign.into_iter().find(|(_, foreign)| *foreign) {
        return Err(ApiError::field(
            at(field),
            format!("does not go with an item of type `{kind}`"),
        ));
    }
    if encrypted_content.is_some() {
        return Err(ApiError::field(at("encrypted_content"), "cannot be read; leave it out"));
    }
    match kind {
        "function_call" => {
            let name = name.ok_or_else(|| missing("name"))?;
            let arguments = arguments.ok_or_else(|| missing("arguments"))?;
            let id = Some(call_id.ok_or_else(|| missing("call_id"))?);
            dialogue.call(EarlierCall { id, name, arguments }, &at("arguments"))
        }
        "function_call_output" => {
            let call_id = call_id.ok_or_else(|| missing("call_id"))?;
            let output = output.ok_or_else(|| missing("output"))?;
            dialogue.result(&call_id, &text_of(output, &at("output"))?);
            Ok(())
        }
        "reasoning" => {
            // What was thought, or else a summary of it that another server made.
            let thought = match content {
                Some(content) => text_of(content, &at("content"))?,
                None => text_of(TextOr::List(summary.unwrap_or_default().0), &at("summary"))?,
            };
            if !thought.is_empty() {
                dialogue.think(thought);
            }
            Ok(())
        }
        _ => message(dialogue, role, content, &at),
    }
}

fn served_kind(kind: &str, field: &str) -> Result<(), ApiError> {
    const KINDS: [&str; 4] = ["message", "function_call", "function_call_output", "reasoning"];
    if KINDS.contains(&kind) {
        return Ok(());
    }
    let problem =
        format!("is {}: items of these types are served: {}", quote(kind), KINDS.join(", "));
    Err(ApiError::field(field, problem))
}

fn message(
    dialogue: &mut Dialogue,
    role: Option<String>,
    content: Option<TextOr<ItemPart>>,
    at: &dyn Fn(&str) -> String,
) -> Result<(), ApiError> {
    let role = role.ok_or_else(|| ApiError::field(at("role"), "is missing"))?;
    if !ROLES.contains(&role.as_str()) {
        let problem = format!("must be one of {}, not {}", ROLES.join(", "), quote(&role));
        return Err(ApiError::field(at("role"), problem));
    }
    let content = content.ok_or_else(|| ApiError::field(at("content"), "is missing"))?;
    let text = text_of(content, &at("content"))?;
    if role == "assistant" {
        dialogue.answer(text);
    } else {
        dialogue.say(&role, &text);
    }
    Ok(())
}

fn text_of(parts: TextOr<ItemPart>, at: &str) -> Result<String, ApiError> {
    const KINDS: [&str; 5] =
        ["input_text", "output_text", "text", "reasoning_text", "summary_text"];
    let parts = match parts {
        TextOr::Text(text) => return Ok(text),
        TextOr::List(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (number, part) in parts.into_iter().enumerate() {
        let at = |field: &str| format!("{at}[{number}].{field}");
        let ItemPartFields { kind, text, annotations: _, logprobs: _ } = part.fields;
        match kind.as_deref() {
            Some(kind) if KINDS.contains(&kind) => {}
            Some(kind) => {
                let problem = format!("is {}: only text parts are served", quote(kind));
                return Err(ApiError::field(at("type"), problem));
            }
            None => return Err(ApiError::field(at("type"), "is missing")),
        }
        part.others.refuse::<ItemPartFields>(at)?;
        texts.push(text.ok_or_else(|| ApiError::field(at("text"), "is missing"))?);
    }
    Ok(texts.join("\n"))
}
