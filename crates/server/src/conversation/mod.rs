//! What every endpoint with messages shares: from what was said to a prompt, what tools mean, and the way into the engine.

pub(crate) mod dialogue;
pub(crate) mod ending;
pub(crate) mod start;
pub(crate) mod thinking;
pub(crate) mod tools;

use std::time::{SystemTime, UNIX_EPOCH};

use folio_core::ids::Token;
use folio_text::{DateTime, RenderInput, TemplateError};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::generate::encode::encode;
use crate::state::Served;
use ending::PromptEnd;

/// What a template gets to see.
#[derive(Debug)]
pub(crate) struct Spoken {
    pub(crate) messages: Value,
    pub(crate) tools: Option<Value>,
    /// Further variables of the template, such as `enable_thinking`.
    pub(crate) variables: Map<String, Value>,
    pub(crate) prompt_end: PromptEnd,
}

/// The prompt that the model's template makes of a conversation.
///
/// # Errors
/// 400 when there is no template, or when it refuses the messages; it names `field`.
pub(crate) fn tokens_of(
    served: &Served,
    spoken: Spoken,
    add_special_tokens: bool,
    field: &'static str,
) -> Result<Vec<Token>, ApiError> {
    let Spoken { mut messages, tools, variables, prompt_end } = spoken;
    let Some(template) = &served.texts.template else {
        return Err(ApiError::bad_request(
            "the model has no chat template; write the prompt yourself and send it to /v1/completions",
        ));
    };
    prompt_end.mark(&mut messages, field)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let input = RenderInput {
        messages: &messages,
        add_generation_prompt: prompt_end == PromptEnd::Answer,
        tools: tools.as_ref(),
        extra: Some(&variables),
        now: DateTime::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(0)),
        max_output: served.texts.tokenizer.max_bytes(),
    };
    let rendered = match template.render(&input) {
        Err(TemplateError::Raised { .. }) if is_developed(&messages) => {
            let messages = &without_developers(&messages);
            template.render(&RenderInput { messages, ..input })
        }
        rendered => rendered,
    };
    let mut text = rendered.map_err(|error| match error {
        TemplateError::Internal => ApiError::internal(error.to_string()),
        bad @ TemplateError::BadVariable { .. } => {
            ApiError::bad_request(bad.to_string()).with_param("chat_template_kwargs")
        }
        refused => ApiError::bad_request(refused.to_string()).with_param(field),
    })?;
    prompt_end.cut(&mut text, field)?;
    encode(served, &text, add_special_tokens, field)
}

/// What newer clients call the system.
const DEVELOPER: &str = "developer";

fn is_developed(messages: &Value) -> bool {
    messages.as_array().into_iter().flatten().any(|message| message["role"] == DEVELOPER)
}

/// The same conversation for a template that refuses to hear developers: OpenAI gave the system that name.
fn without_developers(messages: &Value) -> Value {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().into_iter().flatten() {
        if message["role"] == DEVELOPER {
            message["role"] = Value::from("system");
        }
    }
    messages
}
