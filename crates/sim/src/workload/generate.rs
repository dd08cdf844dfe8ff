//! Requests that nobody has sent: lengths and arrivals together.

use folio_core::ids::Tick;

use super::{Arrivals, Decoding, Lengths, Piece, Request, Workload};
use crate::random::Random;

/// What prompts consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Nothing in common.
    #[default]
    Plain,
    /// Each begins with the same so many tokens, which come on top of its own length (the paper's §6.4).
    SharedPrefix(u32),
    /// Each is what was said so far in some conversation: its last 1024 tokens, at most 1024 more are generated (§6.5).
    Chat,
}

/// The longest history that a chat's prompt keeps, and the longest answer.
const CHAT_TOKENS: u32 = 1024;

/// How to generate a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// How many requests.
    pub count: usize,
    /// When they come.
    pub arrivals: Arrivals,
    /// How long they are.
    pub lengths: Lengths,
    /// What they have in common.
    pub content: Content,
    /// How they are decoded.
    pub decoding: Decoding,
    /// Equal seeds give equal workloads. Lengths do not change with the arrivals, nor arrivals with the lengths.
    pub seed: u64,
}

impl Recipe {
    /// The workload.
    #[must_use]
    pub fn generate(&self) -> Workload {
        let mut random = Random::new(self.seed, 1);
        let times = self.arrivals.times(self.count, &mut Random::new(self.seed, 2));
        let requests = match self.content {
            Content::Chat => self.chats(&times, &mut random),
            Content::Plain => self.plain(&times, 0, &mut random),
            Content::SharedPrefix(prefix) => self.plain(&times, prefix, &mut random),
        };
        Workload { requests, decoding: self.decoding, closed: self.arrivals.closed() }
    }

    fn plain(&self, times: &[Tick], prefix: u32, random: &mut Random) -> Vec<Request> {
        let mut requests = Vec::with_capacity(times.len());
        for (&at, stream) in times.iter().zip(1..) {
            let (len, output) = self.lengths.draw(random);
            let mut prompt = vec![Piece { stream, start: 0, len }];
            if prefix > 0 {
                prompt.insert(0, Piece { stream: 0, start: 0, len: prefix });
            }
            requests.push(Request { at, prompt, output });
        }
        requests
    }

    /// Conversations that go on at once, as many as there are requests of one length: a request is the next question in one
    /// of them. Where the history is cut, its beginning is lost, and with it what could be found in a prefix cache.
    fn chats(&self, times: &[Tick], random: &mut Random) -> Vec<Request> {
        let mut said: Vec<u32> = Vec::new();
        let mut requests = Vec::with_capacity(times.len());
        for &at in times {
            let (question, answer) = self.lengths.draw(random);
            let answer = answer.min(CHAT_TOKENS);
            // One in eight questions begins a conversation: these have eight rounds on average.
            let going = said.len();
            let which = if going == 0 || random.uniform() < 1.0 / 8.0 {
                said.push(0);
                going
            } else {
                random.below(going)
            };
            let Some(said) = said.get_mut(which) else { continue };
            let end = said.saturating_add(question);
            let len = end.min(CHAT_TOKENS);
            let stream = u64::try_from(which).unwrap_or(0) + 1;
            requests.push(Request {
                at,
                prompt: vec![Piece { stream, start: end - len, len }],
                output: answer,
            });
            *said = end.saturating_add(answer);
        }
        requests
    }
}
