//! A completion in one JSON body, and what its chunks share with it.

use serde::Serialize;

use super::echo::Style;
use crate::error::ApiError;
use crate::generate::answer::{Gathered, Heading, StopReason, gather};
use crate::generate::choice::Finish;
use crate::generate::logprobs::{self, CompletionLogprobs, PromptLogprobs};
use crate::generate::run::{Run, Usage};
use crate::generate::timings::Timings;

#[derive(Debug, Serialize)]
pub(super) struct Completion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<CompletionChoice>,
    /// In chunks: `null` until the end when usage was asked for, and not at all otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timings: Option<Timings>,
}

#[derive(Debug, Serialize)]
pub(super) struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<StopReason>,
    /// What a ranking made of the choice; at its end, and only where choices are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

impl CompletionChoice {
    pub(super) fn new(index: usize, said: Gathered, style: &Style) -> Self {
        let Gathered { text, records, tokens, finish, score } = said;
        let rendering = &style.rendering;
        Self {
            index,
            text,
            logprobs: rendering.with_records.then(|| logprobs::completion(rendering, &records)),
            finish_reason: finish.as_ref().map(Finish::reason),
            stop_reason: finish.as_ref().and_then(StopReason::of),
            score,
            prompt_logprobs: None,
            token_ids: rendering.output.token_ids.then_some(tokens),
            prompt_token_ids: None,
        }
    }

    /// The choice with what was asked for about its prompt.
    pub(super) fn with_prompt(mut self, style: &Style, run: &Run) -> Self {
        let rendering = &style.rendering;
        if let Some(lane) = run.lane_of(self.index) {
            let output = rendering.output;
            self.prompt_token_ids = output.token_ids.then(|| lane.prompt.clone());
            self.prompt_logprobs = output
                .prompt_logprobs
                .then(|| logprobs::prompt(rendering, &lane.prompt, &lane.scores));
        }
        self
    }
}

/// The whole answer as JSON.
///
/// # Errors
/// When the engine failed.
pub(crate) async fn respond(
    mut run: Run,
    heading: &Heading,
    style: &Style,
) -> Result<String, ApiError> {
    let gathered = gather(&mut run).await?;
    let choices = gathered.into_iter().enumerate().map(|(index, said)| {
        let said = style.with_prompt(index, said, &run);
        CompletionChoice::new(index, said, style).with_prompt(style, &run)
    });
    let answer = Completion {
        id: &heading.id,
        object: "text_completion",
        created: heading.created,
        model: &heading.model,
        choices: choices.collect(),
        usage: Some(Some(style.usage(run.usage()))),
        timings: Timings::of(&run),
    };
    serde_json::to_string(&answer).map_err(|_| ApiError::internal("the answer is not valid JSON"))
}
