//! A completion as server-sent events. Tokens that are ready together become one chunk per choice.

use super::echo::Style;
use super::respond::{Completion, CompletionChoice};
use crate::generate::answer::{Gathered, Heading};
use crate::generate::choice::Piece;
use crate::generate::run::{Run, Usage};
use crate::generate::timings::Timings;
use crate::request::common::UsageReports;
use crate::sse::{DONE, Events, event};

/// The events of one answer.
#[derive(Debug)]
pub(crate) struct CompletionStream {
    run: Option<Run>,
    heading: Heading,
    style: Style,
    usage: UsageReports,
    /// Which choices have had their first chunk, and with it their prompt.
    begun: Vec<bool>,
}

impl CompletionStream {
    pub(crate) fn new(run: Run, heading: Heading, style: Style, usage: UsageReports) -> Self {
        let begun = vec![false; run.choices()];
        Self { run: Some(run), heading, style, usage, begun }
    }

    fn chunk(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Option<Usage>,
        timings: Option<Timings>,
    ) -> String {
        let chunk = Completion {
            id: &self.heading.id,
            object: "text_completion",
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: self.usage.shown(usage),
            timings,
        };
        serde_json::to_string(&chunk).unwrap_or_default()
    }

    fn choice(&mut self, piece: Piece) -> CompletionChoice {
        let Piece { index, text, records, tokens, finish, score } = piece;
        let mut said = Gathered { text, records, tokens, finish, score };
        let first = self.begun.get_mut(index).is_some_and(|begun| !std::mem::replace(begun, true));
        let Some(run) = self.run.as_ref().filter(|_| first) else {
            return CompletionChoice::new(index, said, &self.style);
        };
        said = self.style.with_prompt(index, said, run);
        CompletionChoice::new(index, said, &self.style).with_prompt(&self.style, run)
    }
}

impl Events for CompletionStream {
    async fn next(&mut self) -> Option<String> {
        let run = self.run.as_mut()?;
        let step = run.next().await;
        let usage = self.style.usage(run.usage());
        let mut out = String::new();
        match step {
            Some(Ok(pieces)) => {
                for piece in pieces {
                    let run = self.run.as_ref();
                    let so_far = run.and_then(|run| self.usage.so_far(run, piece.index));
                    let so_far = so_far.map(|usage| self.style.usage(usage));
                    let choice = self.choice(piece);
                    event(&mut out, &self.chunk(vec![choice], so_far, None));
                }
            }
            // Without `[DONE]`, so that nobody takes it for a whole answer.
            Some(Err(error)) => {
                self.run = None;
                event(&mut out, &error.to_json());
            }
            None => {
                let timings = Timings::of(run);
                self.run = None;
                if self.usage != UsageReports::Never {
                    event(&mut out, &self.chunk(Vec::new(), Some(usage), timings));
                }
                out.push_str(DONE);
            }
        }
        Some(out)
    }
}
