//! Values as Python writes them: `str`, `repr`, `json.dumps`, and the names of types in its error messages.
//!
//! Chat templates were tested against Python, so `{{ tools }}`, `'n: ' ~ 1e16` and `tools | tojson` must give its text to the
//! letter. Everything is written into a [`Sink`] that stops at the rendering's purse, so no value can expand past it.

use std::borrow::Cow;

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, State};

use super::error::{TemplateError, failed, stop};
use super::meter::{WORK, charge, is_dict, is_list, left};

/// What appending costs beside the bytes: many short pieces take longer than one long piece.
const PIECE: usize = 16;

/// A string that refuses to grow past the purse.
pub(super) struct Sink {
    text: String,
    room: usize,
    spent: usize,
}

impl Sink {
    /// An empty sink with all that is left in the purse as room.
    pub(super) fn new(state: &mut State<'_, '_>) -> Self {
        Self { text: String::new(), room: left(state), spent: 0 }
    }

    /// Appends `text`.
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.spent += text.len() + PIECE;
        if self.spent > self.room {
            return Err(stop(TemplateError::TooMuchWork { limit: WORK }));
        }
        self.text.push_str(text);
        Ok(())
    }

    fn push_char(&mut self, c: char) -> Result<(), Error> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// Pays for the text and gives it out.
    pub(super) fn finish(self, state: &mut State<'_, '_>) -> Result<String, Error> {
        charge(state, self.spent)?;
        Ok(self.text)
    }
}

/// `str(value)`, paid.
pub(super) fn text_of<'v>(
    state: &mut State<'_, '_>,
    value: &'v Value,
) -> Result<Cow<'v, str>, Error> {
    if let Some(text) = value.as_str() {
        charge(state, text.len())?;
        return Ok(Cow::Borrowed(text));
    }
    let mut sink = Sink::new(state);
    write_str(&mut sink, value)?;
    Ok(Cow::Owned(sink.finish(state)?))
}

/// Appends `str(value)`.
pub(super) fn write_str(sink: &mut Sink, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => sink.push(text),
        None if value.is_undefined() => Ok(()),
        None => write_repr(sink, value),
    }
}

fn write_repr(sink: &mut Sink, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return write_quoted(sink, text);
    }
    let Some(object) = value.as_object() else { return sink.push(&scalar(value)) };
    if is_dict(value) {
        sink.push("{")?;
        for (i, (key, item)) in object.try_iter_pairs().into_iter().flatten().enumerate() {
            sink.push(if i > 0 { ", " } else { "" })?;
            write_repr(sink, &key)?;
            sink.push(": ")?;
            write_repr(sink, &item)?;
        }
        return sink.push("}");
    }
    if is_list(value) {
        let tuple = value.downcast_object_ref::<Tuple>();
        sink.push(if tuple.is_some() { "(" } else { "[" })?;
        for (i, item) in object.try_iter().into_iter().flatten().enumerate() {
            sink.push(if i > 0 { ", " } else { "" })?;
            write_repr(sink, &item)?;
        }
        return sink.push(match tuple {
            Some(tuple) if tuple.len() == 1 => ",)",
            Some(_) => ")",
            None => "]",
        });
    }
    sink.push("<")?;
    sink.push(type_name(value))?;
    sink.push(">")
}

fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number if !value.is_integer() => {
            float_repr(f64::try_from(value.clone()).unwrap_or(f64::NAN))
        }
        _ => value.to_string(),
    }
}

/// Appends `text`, with what `escape` gives for a character in its place.
pub(super) fn write_escaped(
    sink: &mut Sink,
    text: &str,
    escape: impl Fn(char) -> Option<String>,
) -> Result<(), Error> {
    let mut copied = 0;
    for (at, c) in text.char_indices() {
        if let Some(escaped) = escape(c) {
            sink.push(&text[copied..at])?;
            sink.push(&escaped)?;
            copied = at + c.len_utf8();
        }
    }
    sink.push(&text[copied..])
}

/// `repr` of a string: single quotes unless only those occur inside.
fn write_quoted(sink: &mut Sink, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    sink.push_char(quote)?;
    write_escaped(sink, text, |c| {
        Some(match c {
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            c if c == quote => format!("\\{c}"),
            c if is_printable(c) => return None,
            c => match u32::from(c) {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            },
        })
    })?;
    sink.push_char(quote)
}

/// Python's `str.isprintable`, without its table of unassigned code points.
fn is_printable(c: char) -> bool {
    let invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{10ffff}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible)
}

/// `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16.
pub(super) fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let mut text = x.to_string();
    if !text.contains('.') {
        text.push_str(".0");
    }
    text
}

/// The name of a value's type in Python's error messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        _ if value.is_tuple() => "tuple",
        _ if is_list(value) => "list",
        _ if is_dict(value) => "dict",
        ValueKind::Plain => "function",
        _ => "object",
    }
}

/// How `json.dumps` writes.
pub(super) struct JsonStyle {
    /// One level of indentation; `None` writes everything on one line.
    pub(super) indent: Option<String>,
    /// Between elements.
    pub(super) item_separator: String,
    /// Between a key and its value.
    pub(super) key_separator: String,
    /// Write everything outside ASCII as `\u` escapes.
    pub(super) ensure_ascii: bool,
    /// Sort the keys of every dict.
    pub(super) sort_keys: bool,
}

/// Appends `json.dumps(value)`.
pub(super) fn write_json(
    sink: &mut Sink,
    value: &Value,
    style: &JsonStyle,
    level: usize,
) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return write_json_text(sink, text, style.ensure_ascii);
    }
    let Some(object) = value.as_object() else { return sink.push(&json_scalar(value)?) };
    if is_dict(value) {
        let mut pairs: Vec<(Value, Value)> =
            object.try_iter_pairs().into_iter().flatten().collect();
        if style.sort_keys {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        return write_json_items(
            sink,
            ["{", "}"],
            pairs.into_iter(),
            style,
            level,
            |sink, (key, item)| {
                match key.as_str() {
                    Some(text) => write_json_text(sink, text, style.ensure_ascii)?,
                    None => write_json_text(sink, &json_scalar(&key)?, style.ensure_ascii)?,
                }
                sink.push(&style.key_separator)?;
                write_json(sink, &item, style, level + 1)
            },
        );
    }
    if is_list(value) {
        let items = object.try_iter().into_iter().flatten();
        return write_json_items(sink, ["[", "]"], items, style, level, |sink, item| {
            write_json(sink, &item, style, level + 1)
        });
    }
    Err(not_serializable(value))
}

fn write_json_items<T>(
    sink: &mut Sink,
    [open, close]: [&str; 2],
    items: impl Iterator<Item = T>,
    style: &JsonStyle,
    level: usize,
    mut write: impl FnMut(&mut Sink, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |sink: &mut Sink, level: usize| -> Result<(), Error> {
        let Some(indent) = &style.indent else { return Ok(()) };
        sink.push("\n")?;
        (0..level).try_for_each(|_| sink.push(indent))
    };
    sink.push(open)?;
    let mut any = false;
    for item in items {
        sink.push(if any { &style.item_separator } else { "" })?;
        line(sink, level + 1)?;
        write(sink, item)?;
        any = true;
    }
    if any {
        line(sink, level)?;
    }
    sink.push(close)
}

fn write_json_text(sink: &mut Sink, text: &str, ensure_ascii: bool) -> Result<(), Error> {
    sink.push("\"")?;
    write_escaped(sink, text, |c| {
        Some(match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\u{8}' => "\\b".to_owned(),
            '\u{c}' => "\\f".to_owned(),
            c if u32::from(c) < 0x20 || (ensure_ascii && !(' '..='~').contains(&c)) => {
                c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }
            _ => return None,
        })
    })?;
    sink.push("\"")
}

fn json_scalar(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number => match scalar(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            number => number.to_owned(),
        },
        _ => return Err(not_serializable(value)),
    })
}

fn not_serializable(value: &Value) -> Error {
    failed(format!("Object of type {} is not JSON serializable", type_name(value)))
}
