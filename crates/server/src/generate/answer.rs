//! What answers of both endpoints are made of.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::choice::{Finish, Piece, TokenRecord};
use super::run::Run;
use crate::error::ApiError;
use crate::state::Served;

/// What is the same in every part of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Heading {
    /// The heading of a new answer, whose id begins with `prefix`.
    pub(crate) fn new(prefix: &str, model: String, served: &Served) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { id: format!("{prefix}{}", served.unique()), created: since.as_secs(), model }
    }
}

/// What ended a choice: a token of the caller's, or a string of the caller's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    /// The token.
    Token(u32),
    /// The string.
    Text(String),
}

impl StopReason {
    /// vLLM's `stop_reason`: nothing for the model's own end and for limits.
    pub(crate) fn of(finish: &Finish) -> Option<Self> {
        match finish {
            Finish::StopToken(token) => Some(Self::Token(token.0)),
            Finish::StopString(text) => Some(Self::Text(text.clone())),
            Finish::End | Finish::Length => None,
        }
    }
}

/// Pieces of one choice, put together.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) text: String,
    pub(crate) records: Vec<TokenRecord>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) finish: Option<Finish>,
    pub(crate) score: Option<f64>,
}

/// Waits for the whole answer.
///
/// # Errors
/// When the engine failed.
pub(crate) async fn gather(run: &mut Run) -> Result<Vec<Gathered>, ApiError> {
    let mut choices: Vec<Gathered> = (0..run.choices()).map(|_| Gathered::default()).collect();
    while let Some(pieces) = run.next().await {
        for Piece { index, text, records, tokens, finish, score } in pieces? {
            let Some(choice) = choices.get_mut(index) else { continue };
            choice.text.push_str(&text);
            choice.records.extend(records);
            choice.tokens.extend(tokens);
            choice.finish = finish.or(choice.finish.take());
            choice.score = score.or(choice.score);
        }
    }
    Ok(choices)
}
