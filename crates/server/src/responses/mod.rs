//! `POST /v1/responses`: OpenAI's newer shape of a chat. Nothing is stored: a conversation is sent whole each time, and the
//! items of earlier answers may be sent back as they came.

mod respond;
mod stream;
mod tools;
pub(crate) mod types;
mod validate;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::admin::json;
use crate::conversation::start::{Begun, Conversation, Names, start};
use crate::error::ApiError;
use crate::generate::answer::gather;
use crate::generate::narrate::Narration;
use crate::generate::origin::Origin;
use crate::generate::run::FieldNames;
use crate::generate::told::Told;
use crate::request::common::Delivery;
use crate::sse;
use crate::state::App;
use respond::Story;
use types::ResponsesBody;
use validate::{ValidResponses, validate};

/// The handler of those who ask for an earlier answer.
pub(crate) async fn stored() -> ApiError {
    let message = "nothing is stored here, whatever `store` said; keep the answer, and send the whole \
                   conversation with the next request";
    ApiError::new(StatusCode::NOT_FOUND, message.to_owned())
}

/// The handler.
pub(crate) async fn respond(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let (origin, body) = Origin::of::<ResponsesBody>(request, &app).await?;
    let ValidResponses { spoken, answering, echoed, common } =
        validate(body, &app.served, origin.caller())?;
    let delivery = common.delivery;
    let fields = FieldNames { prompt: "input", max_tokens: "max_output_tokens" };
    let names = Names { id: "resp_", endpoint: "responses", fields };
    let conversation = Conversation { spoken, answering, common, names };
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
