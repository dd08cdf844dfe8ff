//! Where a model's thinking ends and its answer begins.
//!
//! Models that think write `<think>…</think>` before they answer, or their template has written `<think>` for them.
//! **Invariant:** however a text is cut into pieces, the joined results are the same.

use crate::hold::find_or_hold;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Splits a stream of text.
#[derive(Debug, Clone)]
pub struct ReasoningParser {
    state: State,
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks so far; `thinking` if the prompt ended inside.
    Start {
        thinking: bool,
    },
    Thinking,
    Answering,
}

/// A piece of text, split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// What the model thinks.
    pub reasoning: String,
    /// What it answers.
    pub answer: String,
}

impl ReasoningParser {
    /// For an answer to `prompt`: one that ends in `<think>` has begun the thinking already.
    #[must_use]
    pub fn after(prompt: &str) -> Self {
        let thinking = Self::has_begun(prompt);
        Self { state: State::Start { thinking }, held: String::new() }
    }

    /// Whether a prompt ends inside of thoughts.
    #[must_use]
    pub fn has_begun(prompt: &str) -> bool {
        prompt.trim_end().ends_with(OPEN)
    }

    /// Takes a piece of text and returns what is decided by now.
    pub fn push(&mut self, text: &str) -> Split {
        self.held.push_str(text);
        let mut split = Split::default();
        if let State::Start { thinking } = self.state {
            let begun = self.held.trim_start();
            if begun.is_empty() || (begun.len() < OPEN.len() && OPEN.starts_with(begun)) {
                return split;
            }
            if let Some(rest) = begun.strip_prefix(OPEN) {
                self.held = rest.to_owned();
                self.state = State::Thinking;
            } else {
                self.state = if thinking { State::Thinking } else { State::Answering };
            }
        }
        if self.state == State::Thinking {
            let (thought, found) = find_or_hold(&mut self.held, CLOSE);
            split.reasoning = thought;
            if found {
                self.state = State::Answering;
            }
        }
        if self.state == State::Answering {
            split.answer = std::mem::take(&mut self.held);
        }
        split
    }

    /// What was held back, when the text has ended.
    pub fn finish(&mut self) -> Split {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Thinking | State::Start { thinking: true } => {
                Split { reasoning: held, answer: String::new() }
            }
            State::Answering | State::Start { thinking: false } => {
                Split { reasoning: String::new(), answer: held }
            }
        }
    }
}
