//! `POST /v1/responses`: OpenAI's newer shape of a chat. Nothing is stored: a conversation is sent whole each time, and the
//! items of earlier answers may be sent back as they came. And the counting of what a conversation's prompt takes.

mod respond;
mod stream;
mod tools;
pub(crate) mod types;
mod validate;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::admin::json;
use crate::auth::caller;
use crate::conversation::start::{Begun, Conversation, Names, start};
use crate::conversation::tokens_of;
use crate::error::ApiError;
use crate::generate::answer::gather;
use crate::generate::encode::on_text_thread;
use crate::generate::narrate::Narration;
use crate::generate::origin::Origin;
use crate::generate::run::FieldNames;
use crate::generate::told::Told;
use crate::request::body::read_json;
use crate::request::common::{Common, Delivery};
use crate::request::output::truncate;
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

/// The handler that only counts.
pub(crate) async fn count(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body: ResponsesBody =
        read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let valid = validate(body, &app.served, caller(&parts))?;
    let ValidResponses { spoken, common: Common { add_special_tokens, truncation, .. }, .. } =
        valid;
    let tokens = on_text_thread(&app, move |served| {
        let mut prompt = tokens_of(served, spoken, add_special_tokens, "input")?;
        truncate(&mut prompt, truncation);
        Ok(prompt.len())
    })
    .await?;
    let counted = json!({ "object": "response.input_tokens", "input_tokens": tokens });
    Ok(json(counted.to_string()))
}
