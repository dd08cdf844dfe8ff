//! A completion as server-sent events. Tokens that are ready together become one chunk per choice.

use super::echo::Style;
use super::respond::{Completion, CompletionChoice};
use crate::generate::answer::{Gathered, Heading};
use crate::generate::choice::Piece;
use crate::generate::run::{Run, Usage};
use crate::sse::{DONE, Events, event};

/// The events of one answer.
#[derive(Debug)]
pub(crate) struct CompletionStream {
    run: Option<Run>,
    heading: Heading,
    style: Style,
    include_usage: bool,
    /// Which choices have had their first chunk, and with it their prompt.
    begun: Vec<bool>,
}

impl CompletionStream {
    pub(crate) fn new(run: Run, heading: Heading, style: Style, include_usage: bool) -> Self {
        let begun = vec![false; run.choices()];
        Self { run: Some(run), heading, style, include_usage, begun }
    }

    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        let chunk = Completion {
            id: &self.heading.id,
            object: "text_completion",
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: self.include_usage.then_some(usage),
        };
        serde_json::to_string(&chunk).unwrap_or_default()
    }

    fn choice(&mut self, piece: Piece) -> CompletionChoice {
        let Piece { index, text, records, finish, score } = piece;
        let mut said = Gathered { text, records, finish, score };
        let first = self.begun.get_mut(index).is_some_and(|begun| !std::mem::replace(begun, true));
        if first && let Some(run) = &self.run {
            said = self.style.with_prompt(index, said, run);
        }
        CompletionChoice::new(index, said, &self.style)
    }
}

impl Events for CompletionStream {
    async fn next(&mut self) -> Option<String> {
        let run = self.run.as_mut()?;
        let step = run.next().await;
        let usage = run.usage();
        let mut out = String::new();
        match step {
            Some(Ok(pieces)) => {
                for piece in pieces {
                    let choice = self.choice(piece);
                    event(&mut out, &self.chunk(vec![choice], None));
                }
            }
            // Without `[DONE]`, so that nobody takes it for a whole answer.
            Some(Err(error)) => {
                self.run = None;
                event(&mut out, &error.to_json());
            }
            None => {
                self.run = None;
                if self.include_usage {
                    event(&mut out, &self.chunk(Vec::new(), Some(usage)));
                }
                out.push_str(DONE);
            }
        }
        Some(out)
    }
}
