//! `POST /v1/responses`: OpenAI's newer shape of a chat. Nothing is stored: a conversation is sent whole each time, and the
//! items of earlier answers may be sent back as they came.

mod respond;
mod stream;
pub(crate) mod types;
mod validate;

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::admin::json;
use crate::auth::caller;
use crate::chat::ending::PromptEnd;
use crate::chat::start::{Begun, Conversation, Names, Origin, start};
use crate::chat::tools::ToolPlan;
use crate::error::ApiError;
use crate::generate::answer::gather;
use crate::generate::narrate::Narration;
use crate::generate::run::FieldNames;
use crate::request::body::read_json;
use crate::request::common::Delivery;
use crate::sse;
use crate::state::App;
use respond::Story;
use types::ResponsesBody;
use validate::{ValidResponses, validate};

/// The handler.
pub(crate) async fn respond(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrival = Instant::now();
    let (parts, body) = request.into_parts();
    let ticket = app.enter(caller(&parts))?;
    let body: ResponsesBody =
        read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let ValidResponses { messages, echoed, common } = validate(body, &app.served, caller(&parts))?;
    let delivery = common.delivery;
    let fields = FieldNames { prompt: "input", max_tokens: "max_output_tokens" };
    let names = Names { id: "resp", endpoint: "responses", fields };
    let (prompt_end, tools) = (PromptEnd::Answer, ToolPlan::default());
    let conversation = Conversation { messages, prompt_end, tools, common, names };
    let origin = Origin { ticket, arrival, parts };
    let Begun { mut run, heading, rendering } = start(&app, conversation, origin).await?;
    let message_id = format!("msg_{}", app.served.unique());
    let story = Story { heading, rendering, echoed, message_id };
    match delivery {
        Delivery::Whole => {
            let said = gather(&mut run).await?.into_iter().next().unwrap_or_default();
            Ok(json(story.ended(&said, &run.usage()).to_string()))
        }
        Delivery::Stream(_) => {
            let stream = Narration::new(run, stream::ResponseScript::new(story));
            Ok(sse::respond(stream, app.served.limits.keep_alive))
        }
    }
}
