//! `POST /v1/chat/completions`: messages in, an assistant's message out.

pub(crate) mod respond;
pub(crate) mod speech;
mod stream;
pub(crate) mod tools;
pub(crate) mod types;
pub(crate) mod validate;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::response::Response;
use folio_core::ids::Token;
use folio_core::schedule::Job;
use folio_text::{DateTime, RenderInput, TemplateError};
use serde_json::Value;

use crate::admin::json;
use crate::app::request_id;
use crate::auth::caller;
use crate::error::ApiError;
use crate::generate::answer::Heading;
use crate::generate::choice::Rendering;
use crate::generate::constraint::Follow;
use crate::generate::encode::{encode, on_text_thread};
use crate::generate::report::Report;
use crate::generate::run::{FieldNames, Order, Run, Setting};
use crate::request::body::read_json;
use crate::request::common::Delivery;
use crate::sse;
use crate::state::{App, Served};
use stream::ChatStream;
use tools::ToolPlan;
use types::ChatBody;
use validate::{ValidChat, validate};

/// The handler.
pub(crate) async fn chat(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let arrival = Instant::now();
    let ticket = app.enter()?;
    let (parts, body) = request.into_parts();
    let body: ChatBody = read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let ValidChat { messages, add_generation_prompt, max_tokens_field, tools, mut common } =
        validate(body, &app.served, caller(&parts))?;
    let special = common.add_special_tokens;
    common.skip_special_tokens &= !tools.reading.needs_special_tokens();
    let ToolPlan { tools, reading, wanted } = tools;
    let thinking = reading.thinking_ends(&app.served);
    let (prompt, constraint) = on_text_thread(&app, move |served| {
        let prompt = tokens_of(served, &messages, tools.as_ref(), add_generation_prompt, special)?;
        let constraint = wanted.map(|wanted| Follow::new(served, &wanted, thinking));
        Ok((prompt, constraint.transpose()?))
    })
    .await?;
    let mut rendering = Rendering::new(&app.served, &common);
    let ids: Vec<u32> = prompt.iter().map(|token| token.0).collect();
    rendering.reading = reading.after(&app.served, &ids);
    let heading = Heading::new("chatcmpl", common.model, &app.served);
    let report = Report::new(heading.id.clone(), request_id(&parts), "chat", arrival);
    let setting = Setting {
        ticket,
        rendering: rendering.clone(),
        fields: FieldNames { prompt: "messages", max_tokens: max_tokens_field },
        report,
        constraint,
    };
    let job = Job::new(prompt, common.params, common.salt);
    let run = Run::start(&app, vec![Order { job, offset: 0 }], setting)?;
    match common.delivery {
        Delivery::Whole => Ok(json(respond::respond(run, &heading, &rendering).await?)),
        Delivery::Stream { include_usage } => {
            let stream = ChatStream::new(run, heading, rendering, include_usage);
            Ok(sse::respond(stream, app.served.limits.keep_alive))
        }
    }
}

/// The prompt that the model's template makes of `messages`.
///
/// # Errors
/// 400 when there is no template, or when it refuses the messages.
pub(crate) fn tokens_of(
    served: &Served,
    messages: &Value,
    tools: Option<&Value>,
    add_generation_prompt: bool,
    add_special_tokens: bool,
) -> Result<Vec<Token>, ApiError> {
    let Some(template) = &served.texts.template else {
        return Err(ApiError::bad_request(
            "the model has no chat template; write the prompt yourself and send it to /v1/completions",
        ));
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let input = RenderInput {
        messages,
        add_generation_prompt,
        tools,
        extra: None,
        now: DateTime::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(0)),
        max_output: served.texts.tokenizer.max_bytes(),
    };
    let text = template.render(&input).map_err(|error| match error {
        TemplateError::Internal => ApiError::internal(error.to_string()),
        refused => ApiError::bad_request(refused.to_string()).with_param("messages"),
    })?;
    encode(served, &text, add_special_tokens, "messages")
}
