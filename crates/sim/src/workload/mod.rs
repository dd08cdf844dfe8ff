//! What is asked of an engine: who comes when, with which prompt, and for how much.
//!
//! | file | its one idea |
//! |---|---|
//! | `lengths` | how long prompts and outputs are: distributions, or those of a file |
//! | `arrivals` | when requests come: Poisson, bursty, or when an earlier one has ended |
//! | `generate` | both together, as plain requests, chats, or behind a shared prefix |
//! | `trace` | requests from a file: CSV, or JSON lines as Mooncake and vLLM write them |

mod arrivals;
mod generate;
mod lengths;
mod trace;

use folio_core::ids::{Salt, Tick, Token};
use folio_core::params::{BadParam, ParamLimits, Params, Requested};
use folio_core::schedule::Job;
use serde::Serialize;

pub use arrivals::Arrivals;
pub use generate::{Content, Recipe};
pub use lengths::Lengths;
pub use trace::{BadTrace, MOST_TOKENS, MOST_TOKENS_IN_TRACE, lengths_from_csv, parse};

use std::collections::VecDeque;

use crate::random::scramble;
use crate::run::{Arrival, Source};

/// Tokens `0..VOCAB` are used in prompts; contents matter only as far as they are equal or not.
pub const VOCAB: u32 = 1 << 16;

/// A part of a prompt: equal streams have equal tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which text this is a part of.
    pub stream: u64,
    /// Where in the text it begins.
    pub start: u32,
    /// Its tokens.
    pub len: u32,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it comes.
    pub at: Tick,
    /// What it consists of, in order.
    pub prompt: Vec<Piece>,
    /// Tokens that each of its sequences generates.
    pub output: u32,
}

impl Request {
    /// Tokens of the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt.iter().fold(0u32, |sum, piece| sum.saturating_add(piece.len))
    }

    /// Tokens below `vocab` that stand for the prompt: equal parts have equal tokens.
    #[must_use]
    pub fn tokens(&self, vocab: u32) -> Vec<Token> {
        let parts = self.prompt.iter().flat_map(|piece| {
            let seed = scramble(piece.stream);
            (piece.start..piece.start.saturating_add(piece.len))
                .map(move |at| scramble(seed ^ u64::from(at)) % u64::from(vocab.max(1)))
        });
        parts.map(|token| Token(u32::try_from(token).unwrap_or(0))).collect()
    }
}

/// How the output of every request is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// One sequence.
    #[default]
    Single,
    /// So many samples of each prompt.
    Samples(u32),
    /// Beam search of this width.
    Beams(u32),
}

/// Requests, in the order in which they come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// By time of arrival.
    pub requests: Vec<Request>,
    /// How they are decoded.
    pub decoding: Decoding,
    /// In a closed loop, how many come by themselves; each of the others comes when one has ended, after this time.
    pub closed: Option<Closed>,
}

/// Users who wait for their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// How many there are.
    pub users: usize,
    /// Microseconds from an answer to the same user's next request.
    pub think: u64,
}

impl Workload {
    /// The parameters of every request, but for the length of its output.
    ///
    /// # Errors
    /// When the number of sequences is out of range.
    pub fn params(&self) -> Result<Params, BadParam> {
        let limits = ParamLimits {
            vocab: VOCAB,
            max_n: 1024,
            max_logprobs: 0,
            max_logit_bias: 0,
            max_stop_token_ids: 0,
            eos: Vec::new(),
        };
        let mut asked = Requested { ignore_eos: true, ..Requested::default() };
        match self.decoding {
            Decoding::Single => {}
            Decoding::Samples(n) => asked.n = Some(i64::from(n)),
            Decoding::Beams(width) => {
                asked.use_beam_search = true;
                asked.n = Some(1);
                asked.beam_width = Some(i64::from(width));
            }
        }
        Params::parse(&asked, &limits, 0)
    }

    /// The arrivals of one run.
    ///
    /// # Errors
    /// When the number of sequences is out of range.
    pub fn arrivals(&self) -> Result<impl Source + '_, BadParam> {
        let params = self.params()?;
        Ok(Arriving { workload: self, params, next: 0, asking: VecDeque::new() })
    }

    /// Mean tokens of prompts and of outputs.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    pub fn mean_lengths(&self) -> (f64, f64) {
        let count = self.requests.len().max(1) as f64;
        let (mut prompt, mut output) = (0.0, 0.0);
        for request in &self.requests {
            prompt += f64::from(request.prompt_tokens());
            output += f64::from(request.output);
        }
        (prompt / count, output / count)
    }
}

/// The requests of a workload as they come.
struct Arriving<'a> {
    workload: &'a Workload,
    params: Params,
    next: usize,
    /// In a closed loop: when users will ask again.
    asking: VecDeque<Tick>,
}

impl Source for Arriving<'_> {
    fn count(&self) -> usize {
        self.workload.requests.len()
    }

    fn next_at(&self) -> Option<Tick> {
        let request = self.workload.requests.get(self.next)?;
        match self.workload.closed {
            Some(closed) if self.next >= closed.users => self.asking.front().copied(),
            _ => Some(request.at),
        }
    }

    fn pop(&mut self) -> Option<(usize, Arrival)> {
        let at = self.next_at()?;
        let (index, request) = (self.next, self.workload.requests.get(self.next)?);
        if self.workload.closed.is_some_and(|closed| index >= closed.users) {
            self.asking.pop_front();
        }
        self.next += 1;
        let params = Params { max_tokens: Some(request.output.max(1)), ..self.params.clone() };
        let job = Job::new(request.tokens(VOCAB), params, Salt::default());
        Some((index, Arrival { at, job, abort_at: None }))
    }

    fn ended(&mut self, now: Tick) {
        if let Some(closed) = self.workload.closed {
            self.asking.push_back(Tick(now.0.saturating_add(closed.think)));
        }
    }
}
