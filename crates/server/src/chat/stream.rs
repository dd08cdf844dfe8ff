//! A chat answer as server-sent events. Tokens that are ready together become one delta per choice.

use serde::Serialize;

use crate::error::ApiError;
use crate::generate::answer::{Heading, StopReason};
use crate::generate::choice::{Finish, Piece, Rendering};
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
    content: String,
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
}

impl ChatStream {
    pub(crate) fn new(
        run: Run,
        heading: Heading,
        rendering: Rendering,
        include_usage: bool,
    ) -> Self {
        let begun = vec![false; run.choices()];
        Self { run: Some(run), heading, rendering, include_usage, begun }
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

    fn choice(&mut self, piece: Piece) -> ChunkChoice {
        let Piece { index, text, records, finish, score } = piece;
        let first = self.begun.get_mut(index).is_some_and(|begun| !std::mem::replace(begun, true));
        let tokenizer = &self.rendering.tokenizer;
        ChunkChoice {
            index,
            delta: Delta { role: first.then_some("assistant"), content: text },
            logprobs: (!records.is_empty()).then(|| logprobs::chat(tokenizer, &records)),
            finish_reason: finish.as_ref().map(Finish::reason),
            stop_reason: finish.as_ref().map(StopReason::of),
            score,
        }
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
        let run = self.run.as_mut()?;
        match run.next().await {
            Some(Ok(pieces)) => {
                let mut out = String::new();
                for piece in pieces {
                    let choice = self.choice(piece);
                    event(&mut out, &self.chunk(vec![choice], None));
                }
                Some(out)
            }
            Some(Err(error)) => {
                self.run = None;
                Some(Self::fail(&error))
            }
            None => {
                let usage = run.usage();
                self.run = None;
                Some(self.end(usage))
            }
        }
    }
}
