//! Work on text that may take long, kept off the threads that serve connections.
//!
//! Rendering a template or tokenising a long prompt is computation, bounded by the text crate in fuel and input. It runs
//! on blocking threads, a few at a time, and a request waits for it only so long.

use std::sync::Arc;

use folio_core::ids::Token;
use folio_text::TokenizerError;

use crate::error::ApiError;
use crate::state::{App, Served};

/// Runs `work` on a text thread.
///
/// # Errors
/// Whatever `work` returns; 503 when the time for texts is over, 500 when it panicked.
pub(crate) async fn on_text_thread<T, F>(app: &App, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&Served) -> Result<T, ApiError> + Send + 'static,
{
    let turn = async {
        let permit = Arc::clone(&app.text_threads)
            .acquire_owned()
            .await
            .map_err(|_| ApiError::unavailable("the server is shutting down"))?;
        let app = app.clone();
        // The permit goes with the work: work that nobody waits for any more still occupies its thread.
        let worker = tokio::task::spawn_blocking(move || {
            let result = work(&app.served);
            drop(permit);
            result
        });
        worker.await.unwrap_or_else(|_| {
            Err(ApiError::internal("the text of this request could not be processed"))
        })
    };
    let limit = app.served.limits.text_time;
    tokio::time::timeout(limit, turn).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        Err(ApiError::unavailable(format!(
            "the text of this request could not be processed within {seconds} seconds; try again later or shorten it"
        )))
    })
}

/// The tokens of a text, or a 400 that names `field`.
pub(crate) fn encode(
    served: &Served,
    text: &str,
    add_special_tokens: bool,
    field: &str,
) -> Result<Vec<Token>, ApiError> {
    let context = served.max_model_len;
    let encoded = served.texts.tokenizer.encode(text, add_special_tokens);
    let ids = encoded.map_err(|error| match error {
        TokenizerError::TooLong { length, limit } => ApiError::field(
            field,
            format!(
                "has {length} bytes, but at most {limit} are read, since the context is {context} tokens; shorten it"
            ),
        ),
        other => ApiError::field(field, format!("cannot be tokenised: {other}")),
    })?;
    Ok(ids.into_iter().map(Token).collect())
}

/// Ids sent by the caller as tokens, or a 400 that names `field`.
pub(crate) fn known_tokens(ids: Vec<u32>, vocab: u32, field: &str) -> Result<Vec<Token>, ApiError> {
    if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id >= vocab) {
        let last = vocab.saturating_sub(1);
        return Err(ApiError::field(
            field,
            format!("holds the token id {id} at place {index}; ids go from 0 to {last}"),
        ));
    }
    Ok(ids.into_iter().map(Token).collect())
}
