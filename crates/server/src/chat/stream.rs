//! A chat answer as server-sent events. Tokens that are ready together become one delta per choice.

use serde::Serialize;

use super::respond::ChatStyle;
use super::said::{Said, Speaker};
use crate::error::ApiError;
use crate::generate::answer::{Heading, StopReason};
use crate::generate::choice::Piece;
use crate::generate::logprobs::{self, ChatLogprobs};
use crate::generate::run::{Run, Usage};
use crate::generate::timings::Timings;
use crate::request::common::UsageReports;
use crate::sse::{DONE, Events, event};

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    /// Sent as `null` until the end when usage was asked for, and not at all otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    /// Sent with the counts at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    /// Sent with the first chunk where token ids are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Option<StopReason>>,
    /// What a ranking made of the choice; only at its end, and only where choices are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Delta {
    /// Sent with a choice's first delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(flatten)]
    said: Said,
}

/// The events of one answer.
#[derive(Debug)]
pub(crate) struct ChatStream {
    run: Option<Run>,
    heading: Heading,
    style: ChatStyle,
    usage: UsageReports,
    /// Whether the prompt's ids have been told, or nobody wants them.
    prompt_told: bool,
    /// Which choices have had their first delta.
    begun: Vec<bool>,
    /// What reads each choice.
    speakers: Vec<Speaker>,
}

impl ChatStream {
    pub(crate) fn new(run: Run, heading: Heading, style: ChatStyle, usage: UsageReports) -> Self {
        let begun = vec![false; run.choices()];
        let speaker = |choice| Speaker::new(&style.rendering.reading, choice, &style.opening);
        let speakers = (0..run.choices()).map(speaker).collect();
        let prompt_told = !style.rendering.output.token_ids;
        Self { run: Some(run), heading, style, usage, prompt_told, begun, speakers }
    }

    fn chunk(
        &mut self,
        choices: Vec<ChunkChoice>,
        usage: Option<Usage>,
        timings: Option<Timings>,
    ) -> String {
        let first = !std::mem::replace(&mut self.prompt_told, true);
        let lane = self.run.as_ref().filter(|_| first).and_then(|run| run.lane_of(0));
        let chunk = Chunk {
            id: &self.heading.id,
            object: "chat.completion.chunk",
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: self.usage.shown(usage),
            timings,
            prompt_token_ids: lane.map(|lane| &lane.prompt[..]),
        };
        serde_json::to_string(&chunk).unwrap_or_default()
    }

    /// `None` when there is nothing to tell yet.
    fn choice(&mut self, piece: Piece) -> Option<ChunkChoice> {
        let Piece { index, text, records, tokens, finish, score } = piece;
        let rendering = &self.style.rendering;
        let begun = self.begun.get_mut(index)?;
        let speaker = self.speakers.get_mut(index)?;
        let said = speaker.push(&text, finish.is_some());
        let told = !said.is_empty() || rendering.output.token_ids || !records.is_empty();
        if !told && finish.is_none() {
            return None;
        }
        let first = !std::mem::replace(begun, true);
        Some(ChunkChoice {
            index,
            delta: Delta { role: first.then_some("assistant"), said },
            logprobs: (!records.is_empty()).then(|| logprobs::chat(rendering, &records)),
            finish_reason: finish.as_ref().map(|finish| speaker.finish_reason(finish)),
            stop_reason: finish.as_ref().map(StopReason::of),
            score,
            token_ids: rendering.output.token_ids.then_some(tokens),
        })
    }

    fn end(&mut self, usage: Usage, timings: Option<Timings>) -> String {
        let mut out = String::new();
        if self.usage != UsageReports::Never {
            event(&mut out, &self.chunk(Vec::new(), Some(usage), timings));
        }
        out.push_str(DONE);
        out
    }

    /// An error ends a stream without `[DONE]`, so that nobody takes it for a whole answer.
    fn fail(error: &ApiError) -> String {
        let mut out = String::new();
        event(&mut out, &error.to_json());
        out
    }
}

impl Events for ChatStream {
    async fn next(&mut self) -> Option<String> {
        loop {
            let run = self.run.as_mut()?;
            let step = run.next().await;
            let usage = run.usage();
            match step {
                Some(Ok(pieces)) => {
                    let mut out = String::new();
                    for piece in pieces {
                        let run = self.run.as_ref();
                        let so_far = run.and_then(|run| self.usage.so_far(run, piece.index));
                        if let Some(choice) = self.choice(piece) {
                            event(&mut out, &self.chunk(vec![choice], so_far, None));
                        }
                    }
                    // What a parser holds back is told later.
                    if !out.is_empty() {
                        return Some(out);
                    }
                }
                Some(Err(error)) => {
                    self.run = None;
                    return Some(Self::fail(&error));
                }
                None => {
                    let timings = Timings::of(run);
                    self.run = None;
                    return Some(self.end(usage, timings));
                }
            }
        }
    }
}
