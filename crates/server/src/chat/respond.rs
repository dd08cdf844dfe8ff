//! A chat answer in one JSON body.

use serde::Serialize;

use super::speech::{Said, Speaker};
use crate::error::ApiError;
use crate::generate::answer::{Gathered, Heading, StopReason, gather};
use crate::generate::choice::Rendering;
use crate::generate::logprobs::{self, ChatLogprobs};
use crate::generate::run::{Run, Usage};

#[derive(Debug, Serialize)]
struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChatChoice>,
    usage: Usage,
    system_fingerprint: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatChoice {
    index: usize,
    message: Answer,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<StopReason>,
    /// What a ranking made of the choice; only where choices are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Answer {
    role: &'static str,
    #[serde(flatten)]
    said: Said,
    refusal: Option<()>,
}

/// The whole answer as JSON.
///
/// # Errors
/// When the engine failed.
pub(crate) async fn respond(
    mut run: Run,
    heading: &Heading,
    rendering: &Rendering,
) -> Result<String, ApiError> {
    let gathered = gather(&mut run).await?;
    let choices = gathered.into_iter().enumerate().map(|(index, choice)| {
        let Gathered { text, records, finish, score } = choice;
        let mut speaker = Speaker::new(&rendering.reading, index);
        let said = speaker.push(text, true).whole();
        ChatChoice {
            index,
            message: Answer { role: "assistant", said, refusal: None },
            logprobs: rendering
                .with_records
                .then(|| logprobs::chat(&rendering.tokenizer, &records)),
            finish_reason: finish.as_ref().map(|finish| speaker.finish_reason(finish)),
            stop_reason: finish.as_ref().and_then(StopReason::of),
            score,
        }
    });
    let answer = ChatCompletion {
        id: &heading.id,
        object: "chat.completion",
        created: heading.created,
        model: &heading.model,
        choices: choices.collect(),
        usage: run.usage(),
        system_fingerprint: None,
    };
    serde_json::to_string(&answer).map_err(|_| ApiError::internal("the answer is not valid JSON"))
}
