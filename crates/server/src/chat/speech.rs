//! What a choice says: its text split into thoughts, calls and the rest.
//!
//! Streamed or not, each choice is read by the same parsers, so that the parts of a stream joined are the whole answer.

use folio_core::ids::Token;
use folio_text::{ReasoningParser, ToolDelta, ToolFormat, ToolParser};
use serde::Serialize;

use crate::generate::choice::Finish;
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
    /// What the ids of calls begin with, the same for all choices.
    pub(crate) seed: String,
}

impl Reading {
    /// How an answer to `prompt` is read.
    pub(crate) fn after(mut self, served: &Served, prompt: &[Token]) -> Self {
        /// More than any `<think>` with what stands around it.
        const TAIL: usize = 24;
        if self.reasoning {
            let tail = prompt.get(prompt.len().saturating_sub(TAIL)..).unwrap_or_default();
            let tail: Vec<u32> = tail.iter().map(|token| token.0).collect();
            self.prompt_end = served.texts.tokenizer.decode(&tail, false).unwrap_or_default();
        }
        self.seed = served.unique();
        self
    }

    /// The token that ends the thinking, where thoughts come first: a grammar holds from there on.
    pub(crate) fn thinking_ends(&self, served: &Served) -> Option<u32> {
        served.texts.tokenizer.token_id("</think>").filter(|_| self.reasoning)
    }

    /// Whether the text must show control tokens.
    pub(crate) fn needs_special_tokens(&self) -> bool {
        self.tools.is_some_and(ToolFormat::needs_special_tokens)
    }
}

/// A part of an answer, or a whole one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Said {
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<Call>,
}

/// A call, or more of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Call {
    /// Only in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// With the beginning of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// Reads one choice.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    reading: Reading,
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolParser>,
    choice: usize,
    calls: usize,
    /// Shown before everything else.
    opening: String,
}

impl Speaker {
    /// For choice number `choice`, which begins with `opening`.
    pub(crate) fn new(reading: &Reading, choice: usize, opening: &str) -> Self {
        let reasoning = reading.reasoning.then(|| ReasoningParser::after(&reading.prompt_end));
        let tools = reading.tools.map(ToolParser::new);
        Self {
            reading: reading.clone(),
            reasoning,
            tools,
            choice,
            calls: 0,
            opening: opening.to_owned(),
        }
    }

    /// The next part of the text, the last one if it `ends` there.
    pub(crate) fn push(&mut self, text: &str, ends: bool) -> Said {
        let text = std::mem::take(&mut self.opening) + text;
        let mut said = Said::default();
        let answer = match &mut self.reasoning {
            None => text,
            Some(parser) => {
                let mut split = parser.push(&text);
                if ends {
                    let rest = parser.finish();
                    split.reasoning.push_str(&rest.reasoning);
                    split.answer.push_str(&rest.answer);
                }
                let shown = self.reading.shows_reasoning && !split.reasoning.is_empty();
                said.reasoning = shown.then_some(split.reasoning);
                split.answer
            }
        };
        let Some(parser) = &mut self.tools else {
            let told_apart = self.reasoning.is_some() && answer.is_empty();
            said.content = (!told_apart).then_some(answer);
            return said;
        };
        let mut deltas = parser.push(&answer);
        if ends {
            deltas.extend(parser.finish());
        }
        for delta in deltas {
            self.tell(delta, &mut said);
        }
        said
    }

    fn tell(&mut self, delta: ToolDelta, said: &mut Said) {
        // Where one call is wanted, others are left out.
        let surplus = |calls: usize| calls > 1 && !self.reading.parallel;
        match delta {
            ToolDelta::Text(text) => said.content.get_or_insert_default().push_str(&text),
            ToolDelta::Call { name } => {
                self.calls += 1;
                if !surplus(self.calls) {
                    let function = Function { name: Some(name), arguments: String::new() };
                    let (index, id) = (Some(self.calls - 1), Some(self.id()));
                    said.tool_calls.push(Call { index, id, kind: Some("function"), function });
                }
            }
            ToolDelta::Arguments(more) if !surplus(self.calls) => {
                let index = self.calls.checked_sub(1);
                match said.tool_calls.last_mut() {
                    Some(call) if call.index == index => call.function.arguments.push_str(&more),
                    _ => {
                        let function = Function { name: None, arguments: more };
                        said.tool_calls.push(Call { index, id: None, kind: None, function });
                    }
                }
            }
            ToolDelta::Arguments(_) => {}
        }
    }

    /// A name for a call. Mistral's templates want nine letters and digits.
    fn id(&self) -> String {
        let Self { reading, choice, calls, .. } = self;
        let mistral = matches!(reading.tools, Some(ToolFormat::Mistral { .. }));
        let seed = reading.seed.get(..if mistral { 5 } else { 24 }).unwrap_or(&reading.seed);
        let number = (choice * 64 + calls) % 0x1_0000;
        if mistral { format!("{seed}{number:04x}") } else { format!("call_{seed}{number:04x}") }
    }

    /// The value of `finish_reason`. Who named the tool knows that it was called.
    pub(crate) fn finish_reason(&self, finish: &Finish) -> &'static str {
        match finish {
            Finish::Length => finish.reason(),
            _ if self.calls > 0 && !self.reading.named => "tool_calls",
            _ => finish.reason(),
        }
    }
}

impl Said {
    /// As a whole answer: calls without numbers.
    pub(crate) fn whole(mut self) -> Self {
        for call in &mut self.tool_calls {
            call.index = None;
        }
        self
    }

    /// Whether there is nothing in it that a client must see.
    pub(crate) fn is_empty(&self) -> bool {
        self.content.as_ref().is_none_or(String::is_empty)
            && self.reasoning.is_none()
            && self.tool_calls.is_empty()
    }
}
