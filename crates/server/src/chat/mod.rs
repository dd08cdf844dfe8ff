//! `POST /v1/chat/completions`: messages in, an assistant's message out.

pub(crate) mod ending;
pub(crate) mod respond;
pub(crate) mod speech;
pub(crate) mod start;
mod stream;
pub(crate) mod tools;
pub(crate) mod types;
pub(crate) mod validate;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::response::Response;
use folio_core::ids::Token;
use folio_text::{DateTime, RenderInput, TemplateError};
use serde_json::Value;

use crate::admin::json;
use crate::auth::caller;
use crate::error::ApiError;
use crate::generate::encode::encode;
use crate::generate::run::FieldNames;
use crate::request::body::read_json;
use crate::request::common::Delivery;
use crate::sse;
use crate::state::{App, Served};
use ending::PromptEnd;
use respond::ChatStyle;
use start::{Begun, Conversation, Names, Origin, start};
use stream::ChatStream;
use types::ChatBody;
use validate::{ValidChat, validate};

/// The handler.
pub(crate) async fn chat(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let arrival = Instant::now();
    let (parts, body) = request.into_parts();
    let ticket = app.enter(caller(&parts))?;
    let body: ChatBody = read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let ValidChat { messages, prompt_end, opening, max_tokens_field, tools, common } =
        validate(body, &app.served, caller(&parts))?;
    let delivery = common.delivery;
    let fields = FieldNames { prompt: "messages", max_tokens: max_tokens_field };
    let names = Names { id: "chatcmpl", endpoint: "chat", fields };
    let conversation = Conversation { messages, prompt_end, tools, common, names };
    let origin = Origin { ticket, arrival, parts };
    let Begun { run, heading, rendering } = start(&app, conversation, origin).await?;
    let style = ChatStyle { rendering, opening };
    match delivery {
        Delivery::Whole => Ok(json(respond::respond(run, &heading, &style).await?)),
        Delivery::Stream(usage) => {
            let stream = ChatStream::new(run, heading, style, usage);
            Ok(sse::respond(stream, app.served.limits.keep_alive))
        }
    }
}

/// The prompt that the model's template makes of `messages`.
///
/// # Errors
/// 400 when there is no template, or when it refuses the messages; it names `field`.
pub(crate) fn tokens_of(
    served: &Served,
    messages: &Value,
    tools: Option<&Value>,
    prompt_end: PromptEnd,
    add_special_tokens: bool,
    field: &'static str,
) -> Result<Vec<Token>, ApiError> {
    let Some(template) = &served.texts.template else {
        return Err(ApiError::bad_request(
            "the model has no chat template; write the prompt yourself and send it to /v1/completions",
        ));
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let input = RenderInput {
        messages,
        add_generation_prompt: prompt_end == PromptEnd::Answer,
        tools,
        extra: None,
        now: DateTime::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(0)),
        max_output: served.texts.tokenizer.max_bytes(),
    };
    let mut text = template.render(&input).map_err(|error| match error {
        TemplateError::Internal => ApiError::internal(error.to_string()),
        refused => ApiError::bad_request(refused.to_string()).with_param(field),
    })?;
    prompt_end.cut(&mut text, messages)?;
    encode(served, &text, add_special_tokens, field)
}
