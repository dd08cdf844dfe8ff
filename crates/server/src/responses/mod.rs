//! `POST /v1/responses`: OpenAI's newer shape of a chat. Nothing is stored: a conversation is sent whole each time, and the
//! items of earlier answers may be sent back as they came.

mod respond;
mod stream;
mod tools;
pub(crate) mod types;
mod validate;

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::admin::json;
use crate::auth::caller;
use crate::conversation::start::{Begun, Conversation, Names, Origin, start};
use crate::error::ApiError;
use crate::generate::answer::gather;
use crate::generate::narrate::Narration;
use crate::generate::run::FieldNames;
use crate::generate::told::Told;
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
    let ValidResponses { spoken, answering, echoed, common } =
        validate(body, &app.served, caller(&parts))?;
    let delivery = common.delivery;
    let fields = FieldNames { prompt: "input", max_tokens: "max_output_tokens" };
    let names = Names { id: "resp", endpoint: "responses", fields };
    let conversation = Conversation { spoken, answering, common, names };
    let origin = Origin { ticket, arrival, parts };
    let Begun { mut run, heading, rendering } = start(&app, conversation, origin).await?;
    let reading = rendering.reading.clone();
    let story = Story { heading, rendering, echoed };
    match delivery {
        Delivery::Whole => {
            let said = gather(&mut run).await?.into_iter().next().unwrap_or_default();
            let told = Told::whole(&reading, said);
            Ok(json(story.ended(&told, &run.usage()).to_string()))
        }
        Delivery::Stream(_) => {
            let stream = Narration::new(run, &reading, stream::ResponseScript::new(story));
            Ok(sse::respond(stream, app.served.limits.keep_alive))
        }
    }
}
