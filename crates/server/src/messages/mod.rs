//! `POST /v1/messages`: Anthropic's shape of a chat, with its own errors, and the counting of its tokens.

mod respond;
mod stream;
mod tools;
pub(crate) mod types;
mod validate;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use crate::admin::json;
use crate::app::request_id;
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
use crate::request::common::Delivery;
use crate::sse;
use crate::state::App;
use respond::{MessageError, Teller};
use types::{CountBody, MessagesBody};
use validate::{ValidMessages, countable, validate};

/// The handler of new messages.
pub(crate) async fn create(
    State(app): State<App>,
    request: Request,
) -> Result<Response, MessageError> {
    let id = request_id(request.extensions());
    answer(&app, request).await.map_err(|error| MessageError { error, request_id: id })
}

async fn answer(app: &App, request: Request) -> Result<Response, ApiError> {
    let (origin, body) = Origin::of::<MessagesBody>(request, app).await?;
    let ValidMessages { spoken, answering, common } = validate(body, &app.served, origin.caller())?;
    let delivery = common.delivery;
    let fields = FieldNames { prompt: "messages", max_tokens: "max_tokens" };
    let names = Names { id: "msg_", endpoint: "messages", fields };
    let conversation = Conversation { spoken, answering, common, names };
    let request_id = request_id(&origin.parts.extensions);
    let Begun { mut run, heading, rendering } = start(app, conversation, origin).await?;
    let teller = Teller { heading, request_id };
    match delivery {
        Delivery::Whole => {
            let said = gather(&mut run).await?.into_iter().next().unwrap_or_default();
            let told = Told::whole(&rendering.reading, said);
            Ok(json(teller.whole(&told, &run.usage()).to_string()))
        }
        Delivery::Stream(_) => {
            let script = stream::MessageScript::new(teller);
            let stream = Narration::new(run, &rendering.reading, script);
            Ok(sse::respond(stream, app.served.limits.keep_alive))
        }
    }
}

/// The handler that only counts.
pub(crate) async fn count(
    State(app): State<App>,
    request: Request,
) -> Result<Response, MessageError> {
    let id = request_id(request.extensions());
    counted(&app, request).await.map_err(|error| MessageError { error, request_id: id })
}

async fn counted(app: &App, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body: CountBody = read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let spoken = countable(body, &app.served)?;
    let tokens =
        on_text_thread(app, move |served| tokens_of(served, spoken, false, "messages")).await?;
    Ok(json(json!({ "input_tokens": tokens.len() }).to_string()))
}
