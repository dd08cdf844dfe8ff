//! Streams whose events tell one choice as a story, block by block. The endpoint says in which words.

use std::fmt;

use super::choice::{Piece, TokenRecord};
use super::run::{Run, Usage};
use super::told::{Block, Growth, Told};
use crate::error::ApiError;
use crate::generate::reading::Reading;
use crate::sse::Events;

/// The events of an endpoint, appended as bytes on the wire. Blocks are numbered from 0.
pub(crate) trait Script: Send + 'static {
    /// Before anything was generated.
    fn begin(&mut self, out: &mut String, usage: &Usage);
    /// A block begins; what is in it already is told by `grow`.
    fn open(&mut self, out: &mut String, number: usize, block: &Block);
    /// There is more in a block.
    fn grow(&mut self, out: &mut String, number: usize, block: &Block, more: More<'_>);
    /// A block is complete, or was `cut` off by a limit.
    fn close(&mut self, out: &mut String, number: usize, block: &Block, ending: Ending<'_>);
    /// All has been said.
    fn end(&mut self, out: &mut String, told: &Told, usage: &Usage);
    /// There will be no more.
    fn fail(&mut self, out: &mut String, error: &ApiError);
}

/// What a block grows by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct More<'a> {
    pub(crate) delta: &'a str,
    /// The tokens that came with it, where they are asked for.
    pub(crate) records: &'a [TokenRecord],
}

/// How a block ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending<'a> {
    /// Whether by a limit.
    pub(crate) cut: bool,
    /// The tokens of the answer, where they are asked for.
    pub(crate) records: &'a [TokenRecord],
}

/// The stream of one choice.
pub(crate) struct Narration<S> {
    run: Option<Run>,
    script: S,
    has_begun: bool,
    told: Told,
    /// How many of the records have been told.
    records_told: usize,
}

impl<S> fmt::Debug for Narration<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Narration").field("run", &self.run).finish_non_exhaustive()
    }
}

impl<S: Script> Narration<S> {
    pub(crate) fn new(run: Run, reading: &Reading, script: S) -> Self {
        let told = Told::new(reading);
        Self { run: Some(run), script, has_begun: false, told, records_told: 0 }
    }

    fn tell(&mut self, out: &mut String, piece: Piece) {
        let Piece { index: _, text, records, tokens: _, finish, score: _ } = piece;
        let Self { script, told, records_told, .. } = self;
        told.records.extend(records);
        let ends = finish.is_some();
        told.finish = finish.or(told.finish.take());
        let records = std::mem::take(&mut told.records);
        told.push(&text, ends, |blocks, Growth { begins, delta }| {
            let Some((block, before)) = blocks.split_last() else { return };
            let number = before.len();
            if *begins {
                if let Some(last) = before.last() {
                    let ending = Ending { cut: false, records: &records };
                    script.close(out, number - 1, last, ending);
                }
                script.open(out, number, block);
            }
            if !delta.is_empty() {
                let news = records.get(*records_told..).unwrap_or_default();
                *records_told = records.len();
                script.grow(out, number, block, More { delta, records: news });
            }
        });
        told.records = records;
    }

    fn end(&mut self, out: &mut String, usage: &Usage) {
        let Self { script, told, .. } = self;
        if let Some((last, before)) = told.blocks.split_last() {
            let ending = Ending { cut: told.was_cut(), records: &told.records };
            script.close(out, before.len(), last, ending);
        }
        script.end(out, told, usage);
    }
}

impl<S: Script> Events for Narration<S> {
    async fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        loop {
            let run = self.run.as_mut()?;
            if !std::mem::replace(&mut self.has_begun, true) {
                self.script.begin(&mut out, &run.usage());
                return Some(out);
            }
            let step = run.next().await;
            let usage = run.usage();
            match step {
                Some(Ok(pieces)) => {
                    pieces.into_iter().for_each(|piece| self.tell(&mut out, piece));
                }
                Some(Err(error)) => {
                    self.run = None;
                    self.script.fail(&mut out, &error);
                }
                None => {
                    self.run = None;
                    self.end(&mut out, &usage);
                }
            }
            // What is held back is told later.
            if !out.is_empty() {
                return Some(out);
            }
        }
    }
}
