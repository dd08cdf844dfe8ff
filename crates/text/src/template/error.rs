//! What can go wrong between a template and a prompt, as sentences.
//!
//! Inside a rendering, errors travel as minijinja errors. One that has a meaning of its own (raised by the template, over a
//! bound) carries its [`TemplateError`] as the source, and [`TemplateError::from`] finds it again: nothing is guessed from the
//! text of a message. Texts that come from a template or a request are cut to [`MAX_DETAIL`].

use minijinja::{Error, ErrorKind};

/// The longest text of a template or a request that an error repeats, in bytes.
const MAX_DETAIL: usize = 500;

/// Why a chat template was not accepted or not rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is not a template that can be run here.
    #[error("the chat template does not compile: {detail}{}", at_line(*.line))]
    Syntax {
        /// What is wrong.
        detail: String,
        /// The line of the template, from 1.
        line: Option<usize>,
    },
    /// The template called `raise_exception`: it refuses this conversation.
    #[error("{message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// The template did something that is an error in Jinja.
    #[error("the chat template failed: {detail}{}", at_line(*.line))]
    Failed {
        /// What is wrong, in Python's words where Python has some.
        detail: String,
        /// The line of the template, from 1.
        line: Option<usize>,
    },
    /// The template ran for too long.
    #[error("the chat template did not finish within {limit} steps; shorten the conversation")]
    OutOfSteps {
        /// The bound.
        limit: u64,
    },
    /// The template copied or compared too much text.
    #[error("the chat template handles more than {limit} bytes of text; shorten the conversation")]
    TooMuchWork {
        /// The bound, in bytes.
        limit: u64,
    },
    /// The prompt is too long.
    #[error(
        "the chat template renders to {length} bytes, the limit is {limit}; shorten the conversation"
    )]
    OutputTooLong {
        /// What was rendered, in bytes.
        length: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// A value of the request is nested too deeply.
    #[error("`{field}` is nested more than {limit} levels deep")]
    InputTooDeep {
        /// The field of the request.
        field: String,
        /// The bound.
        limit: usize,
    },
    /// An extra variable has the name of something the template gets from elsewhere.
    #[error("`{name}` cannot be given to the chat template as an extra variable; {reason}")]
    BadVariable {
        /// The name.
        name: String,
        /// What to do instead.
        reason: &'static str,
    },
    /// The template library panicked. The request fails, nothing else does.
    #[error("the chat template could not be rendered because of an internal error")]
    Internal,
}

fn at_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(" (line {line})"))
}

/// Cuts a text that came from outside to a length that fits into an error.
pub(super) fn clip(text: &str) -> String {
    if text.len() <= MAX_DETAIL {
        return text.to_owned();
    }
    let mut end = MAX_DETAIL;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// A template's failure in words that Python would use.
pub(super) fn failed(detail: impl AsRef<str>) -> Error {
    Error::new(ErrorKind::InvalidOperation, clip(detail.as_ref()))
}

/// Ends the rendering with `error`.
pub(super) fn stop(error: TemplateError) -> Error {
    Error::new(ErrorKind::InvalidOperation, "stopped").with_source(error)
}

impl TemplateError {
    /// The error of a compilation.
    pub(super) fn syntax(error: &Error) -> Self {
        Self::Syntax { detail: describe(error), line: error.line() }
    }

    /// The error of a rendering that was allowed `steps` steps.
    pub(super) fn rendering(error: &Error, steps: u64) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(found) = cause {
            if let Some(own) = found.downcast_ref::<Self>() {
                return own.clone();
            }
            cause = found.source();
        }
        if error.kind() == ErrorKind::OutOfFuel {
            return Self::OutOfSteps { limit: steps };
        }
        Self::Failed { detail: describe(error), line: error.line() }
    }
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => clip(detail),
        None => error.kind().to_string(),
    }
}
