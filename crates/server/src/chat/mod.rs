//! `POST /v1/chat/completions`: messages in, an assistant's message out.

mod respond;
mod said;
mod stream;
pub(crate) mod tools;
pub(crate) mod types;
pub(crate) mod validate;

use axum::extract::{Request, State};
use axum::response::Response;

use crate::admin::json;
use crate::conversation::start::{Begun, Conversation, Names, start};
use crate::error::ApiError;
use crate::generate::origin::Origin;
use crate::generate::run::FieldNames;
use crate::request::common::Delivery;
use crate::sse;
use crate::state::App;
use respond::ChatStyle;
use stream::ChatStream;
use types::ChatBody;
use validate::{ValidChat, validate};

/// The handler.
pub(crate) async fn chat(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (origin, body) = Origin::of::<ChatBody>(request, &app).await?;
    let ValidChat { spoken, answering, opening, max_tokens_field, common } =
        validate(body, &app.served, origin.caller())?;
    let delivery = common.delivery;
    let fields = FieldNames { prompt: "messages", max_tokens: max_tokens_field };
    let names = Names { id: "chatcmpl-", endpoint: "chat", fields };
    let conversation = Conversation { spoken, answering, common, names };
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
