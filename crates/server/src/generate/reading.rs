//! What a choice says: its text split into thoughts, calls and the rest.
//!
//! Every endpoint with messages reads its answers here and only says in its own words what was read. **Invariant:** however
//! the text is cut into pieces, the parts joined are the same.

use folio_core::ids::Token;
use folio_text::{ReasoningParser, ToolDelta, ToolFormat, ToolParser};

use crate::state::Served;

/// How the answers of a request are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Whether thoughts are told apart.
    pub(crate) reasoning: bool,
    /// Whether they are shown.
    pub(crate) shows_reasoning: bool,
    /// How calls are written, where there are tools.
    pub(crate) tools: Option<ToolFormat>,
    /// Whether there may be more than one call.
    pub(crate) parallel: bool,
    /// Whether the caller said which tool is called.
    pub(crate) named: bool,
    /// Where thinking may have begun already: the end of the prompt.
    pub(crate) prompt_end: String,
    /// The tokens that begin and end thoughts, where the tokenizer has them.
    pub(crate) marks: Option<(u32, u32)>,
    /// What the ids of calls are made of, the same for all choices.
    pub(crate) seed: String,
}

/// Whether the model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// It answers at once.
    No,
    /// It may begin with the first of these tokens, and then ends with the second.
    May { begins: u32, ends: u32 },
    /// The prompt has begun it, and this token ends it.
    Begun { ends: u32 },
}

impl Thinking {
    /// After one more token.
    pub(crate) fn after(self, token: Token) -> Self {
        match self {
            Self::Begun { ends } if token.0 != ends => self,
            Self::May { begins, ends } if token.0 == begins => Self::Begun { ends },
            _ => Self::No,
        }
    }
}

impl Reading {
    /// How an answer to `prompt` is read.
    pub(crate) fn after(mut self, served: &Served, prompt: &[Token]) -> Self {
        /// More than any `<think>` with what stands around it.
        const TAIL: usize = 24;
        let tokenizer = &served.texts.tokenizer;
        if self.reasoning {
            let tail = prompt.get(prompt.len().saturating_sub(TAIL)..).unwrap_or_default();
            let tail: Vec<u32> = tail.iter().map(|token| token.0).collect();
            self.prompt_end = tokenizer.decode(&tail, false).unwrap_or_default();
            self.marks = tokenizer.token_id("<think>").zip(tokenizer.token_id("</think>"));
        }
        self.seed = served.unique();
        self
    }

    /// Whether the model thinks first, as far as tokens tell. A grammar holds from the end of the thinking on.
    pub(crate) fn thinking(&self) -> Thinking {
        let Some((begins, ends)) = self.marks else { return Thinking::No };
        if ReasoningParser::has_begun(&self.prompt_end) {
            return Thinking::Begun { ends };
        }
        if self.prompt_end.trim_end().ends_with("</think>") {
            return Thinking::No;
        }
        Thinking::May { begins, ends }
    }

    /// Whether answers may have other parts than text.
    pub(crate) fn tells_apart(&self) -> bool {
        self.reasoning || self.tools.is_some()
    }

    /// Whether the text must show control tokens.
    pub(crate) fn needs_special_tokens(&self) -> bool {
        self.tools.is_some_and(ToolFormat::needs_special_tokens)
    }
}

/// A part of an answer, or more of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Thoughts.
    Thought(String),
    /// What is said.
    Text(String),
    /// A call begins.
    Call {
        /// Counts from 0 in each choice.
        number: usize,
        id: String,
        name: String,
    },
    /// More of the arguments of a call.
    Arguments { number: usize, more: String },
}

/// Reads one choice.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolParser>,
    shows_reasoning: bool,
    parallel: bool,
    ids: CallIds,
    calls: usize,
}

impl Reader {
    /// For choice number `choice`.
    pub(crate) fn new(reading: &Reading, choice: usize) -> Self {
        let &Reading { reasoning, shows_reasoning, tools, parallel, .. } = reading;
        let short = matches!(tools, Some(ToolFormat::Mistral { .. }));
        Self {
            reasoning: reasoning.then(|| ReasoningParser::after(&reading.prompt_end)),
            tools: tools.map(ToolParser::new),
            shows_reasoning,
            parallel,
            ids: CallIds { seed: reading.seed.clone(), short, choice },
            calls: 0,
        }
    }

    /// The next piece of the text, the last one if it `ends` there.
    pub(crate) fn push(&mut self, text: &str, ends: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        let answer = match &mut self.reasoning {
            None => text.to_owned(),
            Some(parser) => {
                let mut split = parser.push(text);
                if ends {
                    let rest = parser.finish();
                    split.reasoning.push_str(&rest.reasoning);
                    split.answer.push_str(&rest.answer);
                }
                if self.shows_reasoning && !split.reasoning.is_empty() {
                    parts.push(Part::Thought(split.reasoning));
                }
                split.answer
            }
        };
        let Some(parser) = &mut self.tools else {
            if !answer.is_empty() {
                parts.push(Part::Text(answer));
            }
            return parts;
        };
        let mut deltas = parser.push(&answer);
        if ends {
            deltas.extend(parser.finish());
        }
        parts.extend(deltas.into_iter().filter_map(|delta| self.part(delta)));
        parts
    }

    fn part(&mut self, delta: ToolDelta) -> Option<Part> {
        self.calls += usize::from(matches!(delta, ToolDelta::Call { .. }));
        // Where one call is wanted, others are left out.
        let surplus = self.calls > 1 && !self.parallel;
        let number = self.calls.saturating_sub(1);
        match delta {
            ToolDelta::Text(text) => Some(Part::Text(text)),
            ToolDelta::Call { .. } | ToolDelta::Arguments(_) if surplus => None,
            ToolDelta::Call { name } => Some(Part::Call { number, id: self.ids.of(number), name }),
            ToolDelta::Arguments(more) => Some(Part::Arguments { number, more }),
        }
    }

    /// Whether a tool has been called.
    pub(crate) fn has_called(&self) -> bool {
        self.calls > 0
    }
}

/// Names for the calls of one choice.
#[derive(Clone, Debug)]
struct CallIds {
    /// Unlike that of any other request.
    seed: String,
    /// Mistral's templates want nine letters and digits.
    short: bool,
    choice: usize,
}

impl CallIds {
    /// The name of call `number`; no two of a request are alike below 65536 calls of a choice.
    fn of(&self, number: usize) -> String {
        let Self { seed, short, choice } = self;
        if !short {
            let seed = seed.get(..24).unwrap_or(seed);
            return format!("call_{seed}{choice:04x}{number:04x}");
        }
        let start = seed.get(..9).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let place = (u64::try_from(*choice).unwrap_or_default() << 16)
            + u64::try_from(number).unwrap_or_default() % (1 << 16);
        format!("{:09x}", (start.unwrap_or_default() + place) % (1 << 36))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_calls_of_a_request_have_one_name() {
        for (short, longest) in [(true, 9), (false, 40)] {
            let mut names = HashSet::new();
            for (choice, calls) in [(0, 5000), (1, 5000), (64, 100), (1023, 100)] {
                let seed = "fffffffffedcba9876543210fedcba98".to_owned();
                let ids = CallIds { seed, short, choice };
                for number in 0..calls {
                    let name = ids.of(number);
                    // Nine letters and digits for Mistral, at most forty characters for OpenAI.
                    assert!(if short { name.len() == 9 } else { name.len() <= longest }, "{name}");
                    assert!(!short || name.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
                    assert!(names.insert(name), "choice {choice}, call {number}");
                }
            }
        }
    }
}
