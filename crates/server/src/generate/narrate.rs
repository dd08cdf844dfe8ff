//! Streams whose events tell one choice as a story: it begins, goes on and ends. The endpoint says in which words.

use std::fmt;

use super::answer::Gathered;
use super::choice::{Finish, Piece, TokenRecord};
use super::run::{Run, Usage};
use crate::error::ApiError;
use crate::sse::Events;

/// The events of an endpoint, as bytes on the wire.
pub(crate) trait Script: Send + 'static {
    /// Before anything was generated.
    fn begin(&mut self, usage: &Usage) -> String;
    /// More text.
    fn text(&mut self, text: &str, records: &[TokenRecord]) -> String;
    /// All has been said.
    fn end(&mut self, said: Gathered, usage: &Usage) -> String;
    /// There will be no more.
    fn fail(&mut self, error: &ApiError) -> String;
}

/// The stream of one choice.
pub(crate) struct Narration<S> {
    run: Option<Run>,
    script: S,
    has_begun: bool,
    said: Gathered,
}

impl<S> fmt::Debug for Narration<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Narration").field("run", &self.run).finish_non_exhaustive()
    }
}

impl<S: Script> Narration<S> {
    pub(crate) fn new(run: Run, script: S) -> Self {
        Self { run: Some(run), script, has_begun: false, said: Gathered::default() }
    }

    fn tell(&mut self, piece: Piece) -> String {
        let Piece { index: _, text, records, tokens: _, finish, score: _ } = piece;
        let told = if text.is_empty() { String::new() } else { self.script.text(&text, &records) };
        self.said.text.push_str(&text);
        self.said.records.extend(records);
        self.said.finish = finish.or(self.said.finish.take());
        told
    }
}

impl<S: Script> Events for Narration<S> {
    async fn next(&mut self) -> Option<String> {
        let run = self.run.as_mut()?;
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(self.script.begin(&run.usage()));
        }
        let step = run.next().await;
        let usage = run.usage();
        Some(match step {
            Some(Ok(pieces)) => pieces.into_iter().map(|piece| self.tell(piece)).collect(),
            Some(Err(error)) => {
                self.run = None;
                self.script.fail(&error)
            }
            None => {
                self.run = None;
                self.script.end(std::mem::take(&mut self.said), &usage)
            }
        })
    }
}

/// Whether a limit ended what was said.
pub(crate) fn was_cut(finish: Option<&Finish>) -> bool {
    matches!(finish, Some(Finish::Length))
}
