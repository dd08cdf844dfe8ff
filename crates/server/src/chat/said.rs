//! What a choice says, in the words of chat.

use serde::Serialize;

use crate::generate::choice::Finish;
use crate::generate::reading::{Part, Reader, Reading};

/// A part of an answer, or a whole one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Said {
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

/// A call, or more of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Call {
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

/// Tells what one choice says.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    reader: Reader,
    /// Whether an answer may be without content.
    tells_apart: bool,
    /// Whether the caller said which tool is called.
    named: bool,
    /// Shown before everything else.
    opening: String,
}

impl Speaker {
    /// For choice number `choice`, which begins with `opening`.
    pub(super) fn new(reading: &Reading, choice: usize, opening: &str) -> Self {
        Self {
            reader: Reader::new(reading, choice),
            tells_apart: reading.tells_apart(),
            named: reading.named,
            opening: opening.to_owned(),
        }
    }

    /// The next part of the text, the last one if it `ends` there.
    pub(super) fn push(&mut self, text: &str, ends: bool) -> Said {
        let text = std::mem::take(&mut self.opening) + text;
        let mut said = Said::default();
        if !self.tells_apart {
            said.content = Some(String::new());
        }
        for part in self.reader.push(&text, ends) {
            said.add(part);
        }
        said
    }

    /// The value of `finish_reason`. Who named the tool knows that it was called.
    pub(super) fn finish_reason(&self, finish: &Finish) -> &'static str {
        match finish {
            Finish::Length => finish.reason(),
            _ if self.reader.has_called() && !self.named => "tool_calls",
            _ => finish.reason(),
        }
    }
}

impl Said {
    fn add(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.content.get_or_insert_default().push_str(&text),
            Part::Thought(text) => self.reasoning.get_or_insert_default().push_str(&text),
            Part::Call { number, id, name } => {
                let function = Function { name: Some(name), arguments: String::new() };
                let (index, id) = (Some(number), Some(id));
                self.tool_calls.push(Call { index, id, kind: Some("function"), function });
            }
            Part::Arguments { number, more } => match self.tool_calls.last_mut() {
                Some(call) if call.index == Some(number) => call.function.arguments += &more,
                _ => {
                    let function = Function { name: None, arguments: more };
                    self.tool_calls.push(Call {
                        index: Some(number),
                        id: None,
                        kind: None,
                        function,
                    });
                }
            },
        }
    }

    /// As a whole answer: calls without numbers.
    pub(super) fn whole(mut self) -> Self {
        for call in &mut self.tool_calls {
            call.index = None;
        }
        self
    }

    /// Whether there is nothing in it that a client must see.
    pub(super) fn is_empty(&self) -> bool {
        self.content.as_ref().is_none_or(String::is_empty)
            && self.reasoning.is_none()
            && self.tool_calls.is_empty()
    }
}
