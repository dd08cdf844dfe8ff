//! `/tokenize` and `/detokenize`: the model's tokenizer for clients that count, route or debug.

use axum::extract::{Request, State};
use axum::response::Response;
use folio_core::ids::Token;
use serde::Serialize;
use serde_json::json;

use super::json;
use crate::chat::tools::tools_shown;
use crate::chat::types::Message;
use crate::chat::validate::{conversation, variables};
use crate::conversation::ending::PromptEnd;
use crate::conversation::{Spoken, tokens_of};
use crate::error::ApiError;
use crate::generate::encode::{encode, known_tokens, on_text_thread};
use crate::request::body::read_json;
use crate::request::fields::{Ids, List, fields, object};
use crate::request::json::Json;
use crate::request::unserved::unserved;
use crate::state::App;

fields! {
    /// What `/tokenize` knows: a prompt or messages.
    pub(crate) struct TokenizeFields {
        model: String,
        prompt: String,
        messages: List<Message>,
        add_special_tokens: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
        return_token_strs: bool,
        tools: Json,
        chat_template_kwargs: Json,
    }
}

unserved! {
    /// Known to others and not acted on.
    pub(crate) struct UnservedTokenizeFields {
        user: Any, "accepted at any value";
        chat_template: Null, "the model's own chat template is used";
        mm_processor_kwargs: Empty, "only text is served";
    }
}

#[derive(Debug)]
pub(crate) struct TokenizeBody {
    fields: TokenizeFields,
    unserved: UnservedTokenizeFields,
}
object!(TokenizeBody { fields: TokenizeFields, unserved: UnservedTokenizeFields });

#[derive(Debug, Serialize)]
struct Tokenized {
    count: usize,
    max_model_len: u32,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// The tokens of a prompt, or of a conversation as the chat template writes it.
pub(crate) async fn tokenize(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body: TokenizeBody =
        read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let TokenizeBody { fields, unserved } = body;
    let TokenizeFields {
        model,
        prompt,
        messages,
        add_special_tokens,
        add_generation_prompt,
        continue_final_message,
        return_token_strs,
        tools,
        chat_template_kwargs,
    } = fields;
    unserved.refuse()?;
    app.served.known_model(model)?;
    let tokens = match (prompt, messages) {
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::bad_request("send either `prompt` or `messages`"));
        }
        (Some(prompt), None) => {
            let special = add_special_tokens.unwrap_or(true);
            on_text_thread(&app, move |served| encode(served, &prompt, special, "prompt")).await?
        }
        (None, Some(messages)) => {
            let messages = conversation(messages)?;
            let special = add_special_tokens.unwrap_or(false);
            let prompt_end = PromptEnd::new(add_generation_prompt, continue_final_message)?;
            let (tools, variables) = (tools_shown(tools)?, variables(chat_template_kwargs)?);
            let spoken = Spoken { messages, tools, variables, prompt_end };
            on_text_thread(&app, move |served| tokens_of(served, spoken, special, "messages"))
                .await?
        }
    };
    let tokens: Vec<u32> = tokens.into_iter().map(|Token(id)| id).collect();
    let tokenizer = &app.served.texts.tokenizer;
    let token_strs = return_token_strs
        .unwrap_or(false)
        .then(|| tokens.iter().map(|&id| tokenizer.token_text(id).unwrap_or_default()).collect());
    let answer = Tokenized {
        count: tokens.len(),
        max_model_len: app.served.max_model_len,
        tokens,
        token_strs,
    };
    let body = serde_json::to_string(&answer);
    Ok(json(body.map_err(|_| ApiError::internal("the answer is not valid JSON"))?))
}

fields! {
    /// What `/detokenize` knows.
    pub(crate) struct DetokenizeFields {
        model: String,
        tokens: Ids,
    }
}

#[derive(Debug)]
pub(crate) struct DetokenizeBody {
    fields: DetokenizeFields,
}
object!(DetokenizeBody { fields: DetokenizeFields });

/// The text of tokens, special ones included.
pub(crate) async fn detokenize(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body: DetokenizeBody =
        read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
    let DetokenizeFields { model, tokens } = body.fields;
    app.served.known_model(model)?;
    let Some(Ids(ids)) = tokens else {
        return Err(ApiError::field("tokens", "is missing"));
    };
    let known = known_tokens(ids, app.served.param_limits.vocab, "tokens")?;
    let ids: Vec<u32> = known.into_iter().map(|Token(id)| id).collect();
    let text = on_text_thread(&app, move |served| {
        let tokenizer = &served.texts.tokenizer;
        tokenizer
            .decode(&ids, false)
            .map_err(|error| ApiError::field("tokens", format!("have no text: {error}")))
    })
    .await?;
    Ok(json(json!({ "prompt": text }).to_string()))
}
