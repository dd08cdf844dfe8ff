//! A chat answer in one JSON body.

use serde::Serialize;

use super::said::{Said, Speaker};
use crate::error::ApiError;
use crate::generate::answer::{Gathered, Heading, StopReason, gather};
use crate::generate::choice::Rendering;
use crate::generate::logprobs::{self, ChatLogprobs, PromptLogprobs};
use crate::generate::run::{Run, Usage};
use crate::generate::timings::Timings;

#[derive(Debug, Serialize)]
struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChatChoice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    system_fingerprint: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// How the choices of one request are written.
#[derive(Clone, Debug)]
pub(crate) struct ChatStyle {
    pub(crate) rendering: Rendering,
    /// What every choice begins with, besides what is generated.
    pub(crate) opening: String,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
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
    style: &ChatStyle,
) -> Result<String, ApiError> {
    let ChatStyle { rendering, opening } = style;
    let gathered = gather(&mut run).await?;
    let choices = gathered.into_iter().enumerate().map(|(index, choice)| {
        let Gathered { text, records, tokens, finish, score } = choice;
        let mut speaker = Speaker::new(&rendering.reading, index, opening);
        let said = speaker.push(&text, true).whole();
        ChatChoice {
            index,
            message: Answer { role: "assistant", said, refusal: None },
            logprobs: rendering.with_records.then(|| logprobs::chat(rendering, &records)),
            finish_reason: finish.as_ref().map(|finish| speaker.finish_reason(finish)),
            stop_reason: finish.as_ref().and_then(StopReason::of),
            score,
            token_ids: rendering.output.token_ids.then_some(tokens),
        }
    });
    let lane = run.lane_of(0);
    let output = rendering.output;
    let answer = ChatCompletion {
        id: &heading.id,
        object: "chat.completion",
        created: heading.created,
        model: &heading.model,
        choices: choices.collect(),
        usage: run.usage(),
        timings: Timings::of(&run),
        system_fingerprint: None,
        prompt_logprobs: lane
            .filter(|_| output.prompt_logprobs)
            .map(|lane| logprobs::prompt(rendering, &lane.prompt, &lane.scores)),
        prompt_token_ids: lane.filter(|_| output.token_ids).map(|lane| lane.prompt.clone()),
    };
    serde_json::to_string(&answer).map_err(|_| ApiError::internal("the answer is not valid JSON"))
}
