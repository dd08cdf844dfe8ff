//! Reading one call, an object with a name and arguments, character by character.

/// What reading a character led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on.
    More,
    /// The object, or the value, ended with this character.
    Done,
    /// This is no call.
    Broken,
}

/// Follows one JSON value to its end without judging it.
#[derive(Debug, Clone, Default)]
pub(super) struct ValueReader {
    depth: u32,
    in_string: bool,
    escaped: bool,
    begun: bool,
    /// Neither an object, a list nor a string.
    bare: bool,
}

/// Where a value stands after a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Before its first character.
    Before,
    /// Inside; the character belongs to it.
    Inside,
    /// The character is its last one.
    Last,
    /// It ended before the character.
    After,
}

impl ValueReader {
    pub(super) fn read(&mut self, c: char) -> Value {
        if !self.begun {
            if c.is_whitespace() {
                return Value::Before;
            }
            self.begun = true;
            match c {
                '{' | '[' => self.depth = 1,
                '"' => self.in_string = true,
                _ => self.bare = true,
            }
            return Value::Inside;
        }
        if self.bare {
            let ends = c.is_whitespace() || matches!(c, ',' | '}' | ']');
            return if ends { Value::After } else { Value::Inside };
        }
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
        } else {
            match c {
                '"' => self.in_string = true,
                '{' | '[' => self.depth = self.depth.saturating_add(1),
                '}' | ']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        if self.depth == 0 && !self.in_string { Value::Last } else { Value::Inside }
    }
}

#[derive(Debug, Clone)]
enum Place {
    Open,
    Key,
    InKey { escaped: bool },
    Colon,
    Member(ValueReader),
    Comma,
}

/// Reads `{"name": "…", "arguments": …}`; the arguments may be called `parameters`.
#[derive(Debug, Clone)]
pub(super) struct CallReader {
    place: Place,
    key: String,
    value: String,
    /// Known once its value has ended.
    pub(super) name: Option<String>,
    /// Characters of the arguments that have not been taken yet.
    pub(super) arguments: String,
    /// Whether there were any.
    pub(super) has_arguments: bool,
}

/// The longest name of a member that means anything.
const LONGEST_KEY: usize = 64;

impl CallReader {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Open,
            key: String::new(),
            value: String::new(),
            name: None,
            arguments: String::new(),
            has_arguments: false,
        }
    }

    pub(super) fn read(&mut self, c: char) -> Step {
        match &mut self.place {
            Place::Open if c.is_whitespace() => Step::More,
            Place::Open if c == '{' => self.go(Place::Key),
            Place::Key | Place::Comma if c.is_whitespace() => Step::More,
            Place::Key if c == '"' => {
                self.key.clear();
                self.go(Place::InKey { escaped: false })
            }
            Place::InKey { escaped: false } if c == '"' => self.go(Place::Colon),
            Place::InKey { escaped } => {
                *escaped = !*escaped && c == '\\';
                self.key.push(c);
                if self.key.len() > LONGEST_KEY { Step::Broken } else { Step::More }
            }
            Place::Colon if c.is_whitespace() => Step::More,
            Place::Colon if c == ':' => {
                self.value.clear();
                self.go(Place::Member(ValueReader::default()))
            }
            Place::Member(reader) => match reader.read(c) {
                Value::Before => Step::More,
                Value::Inside => self.keep(c),
                Value::Last => {
                    self.keep(c);
                    self.end_member()
                }
                Value::After => match self.end_member() {
                    Step::More => self.read(c),
                    other => other,
                },
            },
            Place::Comma if c == ',' => self.go(Place::Key),
            Place::Comma if c == '}' => {
                if self.name.is_some() {
                    Step::Done
                } else {
                    Step::Broken
                }
            }
            Place::Open | Place::Key | Place::Colon | Place::Comma => Step::Broken,
        }
    }

    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::More
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    fn keep(&mut self, c: char) -> Step {
        // An argument list that is itself a string is shown when it is whole; others as they come.
        let shown = self.has_arguments || (self.value.is_empty() && c != '"');
        if self.is_arguments() && shown {
            self.has_arguments = true;
            self.arguments.push(c);
        } else if self.is_arguments() || self.key == "name" {
            self.value.push(c);
        }
        Step::More
    }

    fn end_member(&mut self) -> Step {
        self.place = Place::Comma;
        if self.value.is_empty() {
            return Step::More;
        }
        let text: Option<String> = serde_json::from_str(&self.value).ok();
        match (text, self.is_arguments()) {
            (Some(text), true) => {
                self.has_arguments = true;
                self.arguments.push_str(&text);
            }
            (Some(text), false) if !text.is_empty() => self.name = Some(text),
            _ => return Step::Broken,
        }
        Step::More
    }
}
