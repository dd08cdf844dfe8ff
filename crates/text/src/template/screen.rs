//! The source of a template, made safe to parse.
//!
//! The parser and the code generator recurse along the source, and have no bound for some shapes: `not not not …`, `a ~ a ~ a …`
//! and a chain of `elif` each overflow the stack if they are long enough. The lexer does not recurse, so its tokens are counted
//! first.
//!
//! Two small edits happen on the way. `{% generation %}` (which marks what to train on, and renders its body) becomes
//! `{% with %}`. And a constant before an operator goes through the filter [`OPERAND`], which changes nothing: otherwise
//! `'a' * 100000000` would be computed while compiling, unpaid and not by Python's rules.

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::error::TemplateError;

/// The longest source, in bytes. The largest published templates have about 20 KB.
const MAX_SOURCE: usize = 256 << 10;
/// The longest line, in bytes: the lexer counts columns in 16 bits.
const MAX_LINE: usize = 60_000;
/// The most tokens between two delimiters.
const MAX_TAG: usize = 2048;
/// The most `elif`s.
const MAX_ELIF: usize = 256;

/// The filter that gives out its operand, and that no constant survives.
pub(super) const OPERAND: &str = "operand";

/// The syntax of chat templates: as Hugging Face configures Jinja.
pub(super) fn syntax() -> Result<SyntaxConfig, TemplateError> {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true);
    builder.build().map_err(|error| TemplateError::syntax(&error))
}

/// Checks the shape of `source` and returns what to parse.
pub(super) fn screen(source: &str) -> Result<String, TemplateError> {
    if source.len() > MAX_SOURCE || source.lines().any(|line| line.len() > MAX_LINE) {
        let detail = format!("it has more than {MAX_SOURCE} bytes, or {MAX_LINE} in one line");
        return Err(TemplateError::Syntax { detail, line: None });
    }
    let mut edits = Edits { source, text: String::with_capacity(source.len()), copied: 0 };
    let mut before = Before::Other;
    let (mut tag, mut elifs, mut in_for) = (0, 0, false);
    for token in tokenize(source, false, syntax()?) {
        let (token, span) = token.map_err(|error| TemplateError::syntax(&error))?;
        tag += 1;
        match (&token, before) {
            (Token::TemplateData(_) | Token::VariableStart | Token::BlockStart, _) => tag = 0,
            (Token::Ident("generation"), Before::Start) => edits.replace(span, "with"),
            (Token::Ident("endgeneration"), Before::Start) => edits.replace(span, "endwith"),
            (Token::Ident("elif"), Before::Start) => elifs += 1,
            (Token::Ident("for"), Before::Start) => in_for = true,
            // The word between the target and what is looped over.
            (Token::Ident("in"), _) if in_for => in_for = false,
            (token, Before::Constant) if is_operator(token) => edits.insert(span, OPERAND),
            _ => {}
        }
        if tag > MAX_TAG || elifs > MAX_ELIF {
            let detail = format!(
                "it has more than {MAX_TAG} tokens between two delimiters or {MAX_ELIF} `elif`s"
            );
            return Err(TemplateError::Syntax { detail, line: Some(span.start_line.into()) });
        }
        before = match token {
            Token::BlockStart => Before::Start,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => Before::Constant,
            Token::Str(_)
            | Token::String(_)
            | Token::Int(_)
            | Token::Int128(_)
            | Token::Float(_) => Before::Constant,
            Token::Ident("true" | "True" | "false" | "False" | "none" | "None") => Before::Constant,
            _ => Before::Other,
        };
    }
    Ok(edits.finish())
}

/// What a token comes after.
#[derive(Clone, Copy)]
enum Before {
    /// `{%`
    Start,
    /// What may be the end of a constant.
    Constant,
    Other,
}

/// Whether the token, after a constant, is an operator that the library would compute while compiling.
fn is_operator(token: &Token<'_>) -> bool {
    match token {
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::FloorDiv
        | Token::Mod
        | Token::Pow => true,
        Token::Tilde | Token::Eq | Token::Ne | Token::Lt | Token::Lte | Token::Gt | Token::Gte => {
            true
        }
        Token::Ident(word) => matches!(*word, "in" | "not"),
        _ => false,
    }
}

struct Edits<'s> {
    source: &'s str,
    text: String,
    copied: usize,
}

impl Edits<'_> {
    fn replace(&mut self, span: Span, by: &str) {
        let (start, end) = (usize_of(span.start_offset), usize_of(span.end_offset));
        self.text.push_str(self.source.get(self.copied..start).unwrap_or_default());
        self.text.push_str(by);
        self.copied = end;
    }

    fn insert(&mut self, before: Span, filter: &str) {
        let start = usize_of(before.start_offset);
        self.text.push_str(self.source.get(self.copied..start).unwrap_or_default());
        // After a space, so that a word and an operator stay apart.
        self.text.push_str(" | ");
        self.text.push_str(filter);
        self.text.push(' ');
        self.copied = start;
    }

    fn finish(mut self) -> String {
        self.text.push_str(self.source.get(self.copied..).unwrap_or_default());
        self.text
    }
}

fn usize_of(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
