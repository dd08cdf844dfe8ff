//! From a [`MessagesBody`] to a conversation.

use serde_json::Value;

use super::tools;
use super::types::{
    Block, BlockFields, CountBody, DialogueFields, MessagesBody, MessagesFields, TextBlock,
    TextBlockFields, Turn, TurnFields,
};
use crate::auth::Caller;
use crate::conversation::Spoken;
use crate::conversation::dialogue::{Dialogue, EarlierCall};
use crate::conversation::ending::PromptEnd;
use crate::conversation::tools::{Answering, Declared, plan};
use crate::error::{ApiError, quote};
use crate::request::common::{
    self, Common, DecodingFields, Dialect, Groups, SamplingFields, SharedFields,
};
use crate::request::fields::{List, Strings, TextOr};
use crate::request::json::JsonText;
use crate::request::output::{ConstraintFields, OutputFields};
use crate::request::unserved::UnservedFields;
use crate::state::Served;

/// A request that can be rendered.
#[derive(Debug)]
pub(crate) struct ValidMessages {
    pub(crate) spoken: Spoken,
    pub(crate) answering: Answering,
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
    let MessagesBody { dialogue, asking, sampling, unserved } = body;
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
    let (asked, variables) = tools::asked(asking, served)?;
    let (tools, answering) = plan(asked, &common.params, served)?;
    let spoken = Spoken { messages, tools, variables, prompt_end };
    Ok(ValidMessages { spoken, answering, common })
}

/// The conversation of a body that is only counted.
///
/// # Errors
/// As for one that is answered.
pub(crate) fn countable(body: CountBody, served: &Served) -> Result<Spoken, ApiError> {
    let CountBody { dialogue, asking, unserved } = body;
    let DialogueFields { model, messages, system } = dialogue;
    unserved.refuse()?;
    served.known_model(model)?;
    let (asked, variables) = tools::asked(asking, served)?;
    let (messages, prompt_end) = conversation(system, messages)?;
    let tools = asked.tools.map(Declared::shown);
    Ok(Spoken { messages, tools, variables, prompt_end })
}

/// A last turn of the assistant's is gone on with.
fn conversation(
    system: Option<TextOr<TextBlock>>,
    turns: Option<List<Turn>>,
) -> Result<(Value, PromptEnd), ApiError> {
    let mut dialogue = Dialogue::default();
    if let Some(system) = system {
        dialogue.say("system", &text_of(system, "system")?);
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
        let content = content.ok_or_else(|| ApiError::field(at("content"), "is missing"))?;
        prompt_end = match role.as_str() {
            "user" => {
                said_to_assistant(&mut dialogue, "user", content, &at("content"))?;
                PromptEnd::Answer
            }
            "system" if index > 0 => {
                said_to_assistant(&mut dialogue, "system", content, &at("content"))?;
                PromptEnd::Answer
            }
            "assistant" => {
                dialogue.end_turn();
                let ends_in_text = done_by_assistant(&mut dialogue, content, &at("content"))?;
                if ends_in_text { PromptEnd::InLastMessage } else { PromptEnd::LastMessage }
            }
            "system" => {
                let problem = "must be `user` or `assistant` in the first message: what the system says first is the field `system`";
                return Err(ApiError::field(at("role"), problem));
            }
            other => {
                let problem =
                    format!("must be `user`, `assistant` or `system`, not {}", quote(other));
                return Err(ApiError::field(at("role"), problem));
            }
        };
    }
    if prompt_end == PromptEnd::LastMessage {
        let problem = "ends with a block that cannot be gone on with: end it with text, or with a turn of the user's";
        return Err(ApiError::field("messages", problem));
    }
    Ok((dialogue.finish(), prompt_end))
}

/// What the user or the system says, and what the calls led to, in the order they come in.
fn said_to_assistant(
    dialogue: &mut Dialogue,
    role: &str,
    content: TextOr<Block>,
    field: &str,
) -> Result<(), ApiError> {
    let blocks = match content {
        TextOr::Text(text) => {
            dialogue.say(role, &text);
            return Ok(());
        }
        TextOr::List(blocks) => blocks,
    };
    let mut texts: Vec<String> = Vec::new();
    let mut results = false;
    for (number, block) in blocks.into_iter().enumerate() {
        match known_block(block, &format!("{field}[{number}]"))? {
            Said::Text(text) => texts.push(text),
            Said::Result { call_id, text } if role == "user" => {
                results = true;
                if !texts.is_empty() {
                    dialogue.say(role, &std::mem::take(&mut texts).join("\n"));
                }
                dialogue.result(&call_id, &text);
            }
            Said::Result { .. } => {
                let problem = "only stands in turns of the user's";
                return Err(ApiError::field(format!("{field}[{number}].type"), problem));
            }
            Said::Thought(_) | Said::Call(_) => {
                let problem = "only stands in turns of the assistant's";
                return Err(ApiError::field(format!("{field}[{number}].type"), problem));
            }
        }
    }
    if !texts.is_empty() || !results {
        dialogue.say(role, &texts.join("\n"));
    }
    Ok(())
}

/// What the assistant did; whether it said something last.
fn done_by_assistant(
    dialogue: &mut Dialogue,
    content: TextOr<Block>,
    field: &str,
) -> Result<bool, ApiError> {
    let blocks = match content {
        TextOr::Text(text) => {
            dialogue.answer(text);
            return Ok(true);
        }
        TextOr::List(blocks) => blocks,
    };
    let mut texts: Vec<String> = Vec::new();
    let mut ends_in_text = true;
    for (number, block) in blocks.into_iter().enumerate() {
        let at = format!("{field}[{number}]");
        let said = known_block(block, &at)?;
        ends_in_text = matches!(said, Said::Text(_));
        if !ends_in_text && !texts.is_empty() {
            dialogue.answer(std::mem::take(&mut texts).join("\n"));
        }
        match said {
            Said::Text(text) => texts.push(text),
            Said::Thought(text) => dialogue.think(text),
            Said::Call(call) => dialogue.call(call, &format!("{at}.input"))?,
            Said::Result { .. } => {
                let problem = "only stands in turns of the user's";
                return Err(ApiError::field(format!("{at}.type"), problem));
            }
        }
    }
    if ends_in_text {
        dialogue.answer(texts.join("\n"));
    }
    Ok(ends_in_text)
}

/// A block whose fields are those of its kind.
enum Said {
    Text(String),
    Thought(String),
    Call(EarlierCall),
    Result { call_id: String, text: String },
}

fn known_block(block: Block, at: &str) -> Result<Said, ApiError> {
    let at = |field: &str| format!("{at}.{field}");
    let missing = |field: &str| ApiError::field(at(field), "is missing");
    // Caching needs no advice, what is cited is text, and nobody here signs thoughts.
    let BlockFields {
        kind,
        text,
        cache_control: _,
        citations: _,
        thinking,
        signature: _,
        id,
        name,
        input,
        tool_use_id,
        content,
        is_error,
    } = block.fields;
    let kind = kind.ok_or_else(|| missing("type"))?;
    let kind = kind.as_str();
    if !["text", "thinking", "tool_use", "tool_result"].contains(&kind) {
        let problem = format!(
            "is {}: blocks of type `text`, `thinking`, `tool_use` and `tool_result` are served",
            quote(kind)
        );
        return Err(ApiError::field(at("type"), problem));
    }
    block.others.refuse::<BlockFields>(at)?;
    let foreign = [
        ("text", text.is_some(), "text"),
        ("thinking", thinking.is_some(), "thinking"),
        ("id", id.is_some(), "tool_use"),
        ("name", name.is_some(), "tool_use"),
        ("input", input.is_some(), "tool_use"),
        ("tool_use_id", tool_use_id.is_some(), "tool_result"),
        ("content", content.is_some(), "tool_result"),
        ("is_error", is_error.is_some(), "tool_result"),
    ];
    if let Some((field, _, _)) = foreign.into_iter().find(|(_, given, of)| *given && *of != kind) {
        let problem = format!("does not go with a block of type `{kind}`");
        return Err(ApiError::field(at(field), problem));
    }
    match kind {
        "text" => text.map(Said::Text).ok_or_else(|| missing("text")),
        "thinking" => thinking.map(Said::Thought).ok_or_else(|| missing("thinking")),
        "tool_use" => Ok(Said::Call(EarlierCall {
            id: Some(id.ok_or_else(|| missing("id"))?),
            name: name.ok_or_else(|| missing("name"))?,
            arguments: input.map(|JsonText(input)| input).ok_or_else(|| missing("input"))?,
        })),
        _ => {
            let call_id = tool_use_id.ok_or_else(|| missing("tool_use_id"))?;
            let text = content.map(|content| text_of(content, &at("content"))).transpose()?;
            let text = text.unwrap_or_default();
            // Templates have no place for it but the text.
            let text = if is_error == Some(true) { format!("Error: {text}") } else { text };
            Ok(Said::Result { call_id, text })
        }
    }
}

fn text_of(blocks: TextOr<TextBlock>, field: &str) -> Result<String, ApiError> {
    let blocks = match blocks {
        TextOr::Text(text) => return Ok(text),
        TextOr::List(blocks) => blocks,
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for (number, block) in blocks.into_iter().enumerate() {
        let at = |part: &str| format!("{field}[{number}].{part}");
        let TextBlockFields { kind, text, cache_control: _, citations: _ } = block.fields;
        match kind.as_deref() {
            Some("text") => {}
            Some(kind) => {
                let problem = format!("is {}: only blocks of type `text` are served", quote(kind));
                return Err(ApiError::field(at("type"), problem));
            }
            None => return Err(ApiError::field(at("type"), "is missing")),
        }
        block.others.refuse::<TextBlockFields>(at)?;
        texts.push(text.ok_or_else(|| ApiError::field(at("text"), "is missing"))?);
    }
    Ok(texts.join("\n"))
}
