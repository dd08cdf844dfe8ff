//! Every endpoint: where it is, what it is for, what it reads, who answers.

use crate::admin::tokenize::{DetokenizeBody, TokenizeBody, detokenize, tokenize};
use crate::admin::{health, info, kv, models};
use crate::chat::chat;
use crate::chat::types::ChatBody;
use crate::completions::complete;
use crate::completions::types::CompletionBody;
use crate::messages;
use crate::messages::types::{CountBody, MessagesBody};
use crate::openapi::{Answer, Endpoint, docs, document};
use crate::responses::types::ResponsesBody;
use crate::responses::{self, respond};

/// Those that generate, whose answers may carry the server's load.
pub(crate) fn generating() -> [Endpoint; 4] {
    [
        Endpoint::post::<ChatBody, _, _>(
            "/v1/chat/completions",
            "Continues a conversation.",
            Answer::Stream,
            &["messages"],
            chat,
        ),
        Endpoint::post::<CompletionBody, _, _>(
            "/v1/completions",
            "Continues texts.",
            Answer::Stream,
            &["prompt"],
            complete,
        ),
        Endpoint::post::<ResponsesBody, _, _>(
            "/v1/responses",
            "Answers, in the words of OpenAI's responses; nothing is stored.",
            Answer::Stream,
            &["input"],
            respond,
        ),
        Endpoint::post::<MessagesBody, _, _>(
            "/v1/messages",
            "Answers, in the words of Anthropic's messages.",
            Answer::Stream,
            &["messages", "max_tokens"],
            messages::create,
        ),
    ]
}

/// All others.
pub(crate) fn telling() -> Vec<Endpoint> {
    use Answer::{Empty, Json, Refusal, Text};
    vec![
        Endpoint::post::<CountBody, _, _>(
            "/v1/messages/count_tokens",
            "Counts the tokens of what a message would answer.",
            Json,
            &["messages"],
            messages::count,
        ),
        Endpoint::post::<ResponsesBody, _, _>(
            "/v1/responses/input_tokens",
            "Counts the tokens of what a response would answer.",
            Json,
            &["input"],
            responses::count,
        ),
        Endpoint::get(
            "/v1/responses/{id}",
            "Says that no answer is stored.",
            Refusal,
            responses::stored,
        ),
        Endpoint::get(
            "/v1/chat/completions/{id}",
            "Says that no answer is stored.",
            Refusal,
            responses::stored,
        ),
        Endpoint::get("/v1/models", "The names the model answers to.", Json, models::list),
        Endpoint::get("/v1/models/{*name}", "One of the names.", Json, models::one),
        Endpoint::post::<TokenizeBody, _, _>(
            "/tokenize",
            "The tokens of a prompt or of messages.",
            Json,
            &[],
            tokenize,
        ),
        Endpoint::post::<DetokenizeBody, _, _>(
            "/detokenize",
            "The text of tokens.",
            Json,
            &["tokens"],
            detokenize,
        ),
        Endpoint::get("/health", "Whether the engine makes progress.", Empty, health::health),
        Endpoint::get("/ping", "The same.", Empty, health::health),
        Endpoint::post_nothing("/ping", "The same.", Empty, health::health),
        Endpoint::get("/ready", "Whether new requests are welcome.", Empty, health::ready),
        Endpoint::get("/metrics", "Numbers for Prometheus.", Text("text/plain"), health::metrics),
        Endpoint::get("/version", "The version of this server.", Json, health::version),
        Endpoint::get("/load", "How many requests are being served.", Json, info::load),
        Endpoint::get("/server_info", "How the server is configured.", Json, info::server_info),
        Endpoint::get("/get_model_info", "The model, in SGLang's words.", Json, info::model_info),
        Endpoint::get("/debug/kv", "Who holds which KV blocks.", Json, kv::kv),
        Endpoint::get("/openapi.json", "This description.", Json, document),
        Endpoint::get("/docs", "This description, for people.", Text("text/html"), docs),
    ]
}

/// All.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    generating().into_iter().chain(telling()).collect()
}
