//! Reading calls out of a text that comes in pieces.
//!
//! **Invariant:** however a text is cut into pieces, the joined results are the same. Every decision waits for the
//! characters it needs, and none looks at where a piece ended.

use super::ToolFormat;
use super::call::{CallReader, Step, Value, ValueReader};
use crate::hold::find_or_hold;

/// What became of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolDelta {
    /// Text that is no call.
    Text(String),
    /// A call begins.
    Call {
        /// The tool's name.
        name: String,
    },
    /// More of the arguments of the last call.
    Arguments(String),
}

/// Reads the calls of one answer.
#[derive(Debug, Clone)]
pub struct ToolParser {
    format: ToolFormat,
    state: State,
    held: String,
}

#[derive(Debug, Clone)]
enum State {
    /// Nothing yet; of interest to Llama, whose calls are the whole answer.
    Start,
    /// Text, in which a call may begin.
    Text,
    /// Text, and nothing else will come.
    Plain,
    /// After Mistral's marker.
    Opened,
    /// Mistral's name before the arguments.
    Name,
    /// In an object; `raw` is what it would be as text, until the call is told.
    Object { reader: Box<CallReader>, raw: String, listed: bool },
    /// In arguments that follow a name.
    Value(ValueReader),
    /// After an object: what closes it.
    Close { listed: bool },
    /// Between calls.
    Between,
}

const HERMES_OPEN: &str = "<tool_call>";
const HERMES_CLOSE: &str = "</tool_call>";
const MISTRAL_OPEN: &str = "[TOOL_CALLS]";
const MISTRAL_ID: &str = "[CALL_ID]";
const MISTRAL_ARGUMENTS: &str = "[ARGS]";
const LLAMA_OPEN: &str = "<|python_tag|>";

/// The longest name before arguments, and the longest id between the two.
const LONGEST_NAME: usize = 256;

impl ToolParser {
    /// A parser at the start of an answer.
    #[must_use]
    pub fn new(format: ToolFormat) -> Self {
        let state = if format == ToolFormat::Llama3 { State::Start } else { State::Text };
        Self { format, state, held: String::new() }
    }

    /// Takes a piece of text and returns what is decided by now.
    pub fn push(&mut self, text: &str) -> Vec<ToolDelta> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        merged(out)
    }

    /// What was held back, when the text has ended.
    pub fn finish(&mut self) -> Vec<ToolDelta> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::new();
        match std::mem::replace(&mut self.state, State::Plain) {
            State::Start | State::Text | State::Plain => out.push(ToolDelta::Text(held)),
            State::Object { reader, raw, .. } if reader.name.is_none() => {
                // A comma after which nothing comes is no text.
                let text = raw + &held;
                out.extend((text.trim() != ",").then_some(ToolDelta::Text(text)));
            }
            State::Opened | State::Name => {
                out.push(ToolDelta::Text(MISTRAL_OPEN.to_owned() + &held));
            }
            State::Between if !held.trim().is_empty() => out.push(ToolDelta::Text(held)),
            State::Object { .. } | State::Value(_) | State::Close { .. } | State::Between => {}
        }
        merged(out)
    }

    /// Decides one thing; whether there may be more to decide.
    fn step(&mut self, out: &mut Vec<ToolDelta>) -> bool {
        match &self.state {
            State::Start => self.start(),
            State::Text => self.text(out),
            State::Plain => {
                out.push(ToolDelta::Text(std::mem::take(&mut self.held)));
                false
            }
            State::Opened => self.opened(),
            State::Name => self.name(out),
            State::Object { .. } => self.object(out),
            State::Value(_) => self.value(out),
            State::Close { listed } => {
                let listed = *listed;
                self.close(listed)
            }
            State::Between => self.between(),
        }
    }

    /// Llama's answer is calls or text, and its first characters say which.
    fn start(&mut self) -> bool {
        let begun = self.held.trim_start();
        if begun.is_empty() || (begun.len() < LLAMA_OPEN.len() && LLAMA_OPEN.starts_with(begun)) {
            return false;
        }
        if let Some(rest) = begun.strip_prefix(LLAMA_OPEN) {
            // The tag itself is never text.
            self.held = rest.to_owned();
            self.state = State::Between;
        } else if begun.starts_with('{') {
            self.state = object(String::new(), false);
        } else {
            self.state = State::Plain;
        }
        true
    }

    fn text(&mut self, out: &mut Vec<ToolDelta>) -> bool {
        let hermes = self.format == ToolFormat::Hermes;
        let marker = if hermes { HERMES_OPEN } else { MISTRAL_OPEN };
        let (text, found) = find_or_hold(&mut self.held, marker);
        if !text.is_empty() {
            out.push(ToolDelta::Text(text));
        }
        if found {
            self.state = if hermes { object(marker.to_owned(), false) } else { State::Opened };
        }
        found
    }

    /// What follows Mistral's marker says in which way the calls are written.
    fn opened(&mut self) -> bool {
        let rest = self.held.trim_start();
        let Some(first) = rest.chars().next() else { return false };
        match first {
            '[' => {
                let rest = rest.get(1..).unwrap_or_default().to_owned();
                let read = self.held.len() - rest.len();
                let raw = MISTRAL_OPEN.to_owned() + self.held.get(..read).unwrap_or_default();
                self.held = rest;
                self.state = object(raw, true);
            }
            '{' => self.state = object(MISTRAL_OPEN.to_owned(), false),
            _ => self.state = State::Name,
        }
        true
    }

    fn name(&mut self, out: &mut Vec<ToolDelta>) -> bool {
        let held = self.held.trim_start();
        let end = held.find(['{', '[']).unwrap_or(held.len());
        if end > LONGEST_NAME {
            return self.no_call(out);
        }
        let (name, rest) = held.split_at(end);
        if rest.is_empty() {
            return false;
        }
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return self.no_call(out);
        }
        let rest = match after_marks(rest) {
            Marks::Unknown => return false,
            Marks::Wrong => return self.no_call(out),
            Marks::Arguments(rest) => rest.to_owned(),
        };
        out.push(ToolDelta::Call { name: name.to_owned() });
        self.held = rest;
        self.state = State::Value(ValueReader::default());
        true
    }

    fn no_call(&mut self, out: &mut Vec<ToolDelta>) -> bool {
        out.push(ToolDelta::Text(MISTRAL_OPEN.to_owned()));
        self.state = State::Text;
        true
    }

    fn object(&mut self, out: &mut Vec<ToolDelta>) -> bool {
        let State::Object { reader, raw, listed } = &mut self.state else { return false };
        for (at, c) in self.held.char_indices() {
            let told = reader.name.is_some();
            let step = reader.read(c);
            if !told {
                raw.push(c);
            }
            if let Some(name) = &reader.name {
                if !told {
                    out.push(ToolDelta::Call { name: name.clone() });
                }
                if !reader.arguments.is_empty() {
                    out.push(ToolDelta::Arguments(std::mem::take(&mut reader.arguments)));
                }
            }
            match step {
                Step::More => continue,
                Step::Done => {
                    if !reader.has_arguments {
                        out.push(ToolDelta::Arguments("{}".to_owned()));
                    }
                    self.state = State::Close { listed: *listed };
                }
                Step::Broken if reader.name.is_none() => {
                    out.push(ToolDelta::Text(std::mem::take(raw)));
                    let llama = self.format == ToolFormat::Llama3;
                    self.state = if llama { State::Plain } else { State::Text };
                }
                // Told already: what follows is not worth reading as a call.
                Step::Broken => self.state = State::Close { listed: false },
            }
            self.held.drain(..at + c.len_utf8());
            return true;
        }
        self.held.clear();
        false
    }

    fn value(&mut self, out: &mut Vec<ToolDelta>) -> bool {
        let State::Value(reader) = &mut self.state else { return false };
        let mut arguments = String::new();
        let mut end = None;
        for (at, c) in self.held.char_indices() {
            match reader.read(c) {
                Value::Before => {}
                Value::Inside => arguments.push(c),
                Value::Last => {
                    arguments.push(c);
                    end = Some(at + c.len_utf8());
                }
                Value::After => end = Some(at),
            }
            if end.is_some() {
                break;
            }
        }
        if !arguments.is_empty() {
            out.push(ToolDelta::Arguments(arguments));
        }
        self.held.drain(..end.unwrap_or(self.held.len()));
        if end.is_some() {
            self.state = State::Between;
        }
        end.is_some()
    }

    /// After an object: Hermes' closing marker, or the rest of Mistral's list. What else stands there is read as text.
    fn close(&mut self, listed: bool) -> bool {
        self.held = self.held.trim_start().to_owned();
        if self.held.is_empty() {
            return false;
        }
        if listed {
            let next = self.held.starts_with(',');
            if next || self.held.starts_with(']') {
                self.held.remove(0);
            }
            self.state = if next { object(",".to_owned(), true) } else { State::Between };
            return true;
        }
        if self.format == ToolFormat::Hermes {
            if let Some(rest) = self.held.strip_prefix(HERMES_CLOSE) {
                self.held = rest.to_owned();
            } else if HERMES_CLOSE.starts_with(self.held.as_str()) {
                return false;
            }
        }
        self.state = State::Between;
        true
    }

    /// Blanks between calls, and Llama's semicolon, are no text.
    fn between(&mut self) -> bool {
        let llama = self.format == ToolFormat::Llama3;
        let blank = |c: char| c.is_whitespace() || (llama && c == ';');
        self.held = self.held.trim_start_matches(blank).to_owned();
        if self.held.is_empty() {
            return false;
        }
        self.state = match (llama, self.held.starts_with('{')) {
            (true, true) => object(String::new(), false),
            (true, false) => State::Plain,
            (false, _) => State::Text,
        };
        true
    }
}

/// What stands between a name and its arguments.
enum Marks<'a> {
    Arguments(&'a str),
    Unknown,
    Wrong,
}

/// Skips `[CALL_ID]…` and `[ARGS]`.
fn after_marks(text: &str) -> Marks<'_> {
    if text.starts_with('{') {
        return Marks::Arguments(text);
    }
    let mut text = text;
    if let Some(rest) = text.strip_prefix(MISTRAL_ID) {
        let end = rest.find('[').unwrap_or(rest.len());
        text = rest.get(end..).unwrap_or_default();
        if end > LONGEST_NAME {
            return Marks::Wrong;
        }
    }
    match text.strip_prefix(MISTRAL_ARGUMENTS) {
        Some(rest) => Marks::Arguments(rest),
        None if [MISTRAL_ID, MISTRAL_ARGUMENTS].iter().any(|mark| mark.starts_with(text)) => {
            Marks::Unknown
        }
        None => Marks::Wrong,
    }
}

fn object(raw: String, listed: bool) -> State {
    State::Object { reader: Box::new(CallReader::new()), raw, listed }
}

/// Joins neighbours of one kind, and leaves out what is empty.
fn merged(deltas: Vec<ToolDelta>) -> Vec<ToolDelta> {
    let mut out: Vec<ToolDelta> = Vec::with_capacity(deltas.len());
    for delta in deltas {
        match (out.last_mut(), delta) {
            (_, ToolDelta::Text(text) | ToolDelta::Arguments(text)) if text.is_empty() => {}
            (Some(ToolDelta::Text(all)), ToolDelta::Text(text))
            | (Some(ToolDelta::Arguments(all)), ToolDelta::Arguments(text)) => all.push_str(&text),
            (_, delta) => out.push(delta),
        }
    }
    out
}
