//! A chat answer as server-sent events. Tokens that are ready together become one delta per choice.

use serde::Serialize;

use super::speech::{Said, Speaker};
use crate::error::ApiError;
use crate::generate::answer::{Heading, StopReason};
use crate::generate::choice::{Piece, Rendering};
use crate::generate::logprobs::{self, ChatLogprobs};
use crate::generate::run::{Run, Usage};
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
    rendering: Rendering,
    include_usage: bool,
    /// Which choices have had their first delta.
    begun: Vec<bool>,
    /// What reads each choice.
    speakers: Vec<Speaker>,
}

impl ChatStream {
    pub(crate) fn new(
        run: Run,
        heading: Heading,
        rendering: Rendering,
        include_usage: bool,
    ) -> Self {
        let begun = vec![false; run.choices()];
        let speaker = |choice| Speaker::new(&rendering.reading, choice);
        let speakers = (0..run.choices()).map(speaker).collect();
        Self { run: Some(run), heading, rendering, include_usage, begun, speakers }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        let chunk = Chunk {
            id: &self.heading.id,
            object: "chat.completion.chunk",
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: self.include_usage.then_some(usage),
        };
        serde_json::to_string(&chunk).unwrap_or_default()
    }

    /// `None` when there is nothing to tell yet.
    fn choice(&mut self, piece: Piece) -> Option<ChunkChoice> {
        let Piece { index, text, records, finish, score } = piece;
        let speaker = self.speakers.get_mut(index)?;
        let said = speaker.push(text, finish.is_some());
        if said.is_empty() && records.is_empty() && finish.is_none() {
            return None;
        }
        let finish_reason = finish.as_ref().map(|finish| speaker.finish_reason(finish));
        let first = self.begun.get_mut(index).is_some_and(|begun| !std::mem::replace(begun, true));
        let tokenizer = &self.rendering.tokenizer;
        Some(ChunkChoice {
            index,
            delta: Delta { role: first.then_some("assistant"), said },
            logprobs: (!records.is_empty()).then(|| logprobs::chat(tokenizer, &records)),
            finish_reason,
            stop_reason: finish.as_ref().map(StopReason::of),
            score,
        })
    }

    fn end(&mut self, usage: Usage) -> String {
        let mut out = String::new();
        if self.include_usage {
            event(&mut out, &self.chunk(Vec::new(), Some(usage)));
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
            match run.next().await {
                Some(Ok(pieces)) => {
                    let mut out = String::new();
                    for piece in pieces {
                        if let Some(choice) = self.choice(piece) {
                            event(&mut out, &self.chunk(vec![choice], None));
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
                    let usage = run.usage();
                    self.run = None;
                    return Some(self.end(usage));
                }
            }
        }
    }
}
