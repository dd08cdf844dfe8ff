//! Grammars of calls in a model's own format: nothing but calls of its tools, or text with calls in it.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{MistralStyle, ToolFormat};
use crate::grammar::{Blanks, Grammar, GrammarError, quote, screen, with_blanks};
use crate::tokenizer::Tokenizer;

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// What it is called.
    pub name: String,
    /// The JSON Schema of its arguments; an object.
    pub parameters: Value,
    /// Whether arguments follow the schema in calls that nobody demanded, too.
    pub strict: bool,
}

/// The grammar of one call of one of `tools`, or of one and more with `parallel`, and nothing else.
///
/// # Errors
/// When a tool's parameters are no schema that can be followed.
pub fn enforce(
    format: ToolFormat,
    tools: &[Tool],
    parallel: bool,
    tokenizer: &Tokenizer,
) -> Result<Grammar, GrammarError> {
    let more = |between: &str| if parallel { format!(" ({between} call)*") } else { String::new() };
    let Marks { open, close } = Marks::new(format, tokenizer);
    let start = match format {
        ToolFormat::Hermes => {
            format!("start: call{}\ncall: {open} \"\\n\" body \"\\n\" {close}\n", more("\"\\n\""))
        }
        ToolFormat::Llama3 => format!("start: call{}\ncall: body\n", more("\"; \"")),
        ToolFormat::Mistral { writes: MistralStyle::List } => {
            format!("start: {open} \"[\" call{} \"]\"\ncall: body\n", more("\", \""))
        }
        ToolFormat::Mistral { writes: MistralStyle::Args } => {
            format!("start: call{}\ncall: {open} body\n", more(""))
        }
    };
    let schemas = tools.iter().map(|tool| arguments(&tool.parameters));
    Ok(Grammar::Lark(start + &bodies(format, tools, schemas, tokenizer)?))
}

/// The grammar of text in which there may be calls of `tools`, whose arguments follow the schemas of those that are strict.
/// `None` for Llama's format: nothing tells its calls from other JSON but what is in them.
///
/// # Errors
/// When a strict tool's parameters are no schema that can be followed.
pub fn guide(
    format: ToolFormat,
    tools: &[Tool],
    tokenizer: &Tokenizer,
) -> Result<Option<Grammar>, GrammarError> {
    let Marks { open, close } = Marks::new(format, tokenizer);
    let call = match format {
        ToolFormat::Llama3 => return Ok(None),
        ToolFormat::Hermes => format!("\"\\n\" body \"\\n\" {close}"),
        ToolFormat::Mistral { writes: MistralStyle::List } => {
            "\"[\" body (\", \" body)* \"]\"".to_owned()
        }
        ToolFormat::Mistral { writes: MistralStyle::Args } => "body".to_owned(),
    };
    // A control token is no text and ends it by itself; a mark that is text ends it where it is complete.
    let begun = if open.starts_with('<') {
        format!("begun: TEXT {open}")
    } else {
        format!("begun[lazy]: TEXT {open}")
    };
    let start = format!("start: (begun {call})* TEXT\n{begun}\nTEXT: /(.|\\n)*/\n");
    let any = Value::Object(Map::new());
    let schemas =
        tools.iter().map(|tool| arguments(if tool.strict { &tool.parameters } else { &any }));
    Ok(Some(Grammar::Lark(start + &bodies(format, tools, schemas, tokenizer)?)))
}

/// What stands around a call, as terms of a grammar; nothing in Llama's format.
struct Marks {
    open: String,
    close: String,
}

impl Marks {
    fn new(format: ToolFormat, tokenizer: &Tokenizer) -> Self {
        let (open, close) = match format {
            ToolFormat::Hermes => ("<tool_call>", "</tool_call>"),
            ToolFormat::Mistral { .. } => ("[TOOL_CALLS]", ""),
            ToolFormat::Llama3 => ("", ""),
        };
        Self { open: mark(open, tokenizer), close: mark(close, tokenizer) }
    }
}

/// A mark as a term: a control token where it is one, else its text.
fn mark(text: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.token_id(text) {
        Some(id) if tokenizer.is_special(id) => format!("<[{id}]>"),
        _ => quote(text),
    }
}

/// The rule `body`: a call of one of the tools, whose arguments follow `schemas`.
fn bodies(
    format: ToolFormat,
    tools: &[Tool],
    schemas: impl Iterator<Item = Result<Value, GrammarError>>,
    tokenizer: &Tokenizer,
) -> Result<String, GrammarError> {
    let (name, middle, end) = match format {
        ToolFormat::Llama3 => ("{\"name\": ", ", \"parameters\": ", "}"),
        ToolFormat::Hermes | ToolFormat::Mistral { writes: MistralStyle::List } => {
            ("{\"name\": ", ", \"arguments\": ", "}")
        }
        ToolFormat::Mistral { writes: MistralStyle::Args } => ("", "", ""),
    };
    let all: Vec<String> = (0..tools.len()).map(|i| format!("body{i}")).collect();
    let mut text = format!("body: {}\n", all.join(" | "));
    for (i, (tool, schema)) in tools.iter().zip(schemas).enumerate() {
        let args = matches!(format, ToolFormat::Mistral { writes: MistralStyle::Args });
        let head = if args {
            format!("{} {}", quote(&tool.name), mark("[ARGS]", tokenizer))
        } else {
            quote(&format!("{name}{}{middle}", quote(&tool.name)))
        };
        let tail = if end.is_empty() { String::new() } else { format!(" {}", quote(end)) };
        let _ = writeln!(text, "body{i}: {head} args{i}{tail}\nargs{i}: %json {}", schema?);
    }
    Ok(text)
}

/// The schema of a tool's arguments, which are always an object.
fn arguments(parameters: &Value) -> Result<Value, GrammarError> {
    screen::schema(parameters)?;
    let schema = match parameters {
        Value::Object(map) if map.is_empty() => json!({ "type": "object" }),
        other => other.clone(),
    };
    // As templates show earlier calls, and with no room for a model to lose itself in blanks.
    with_blanks(&schema, &Blanks::None)
}
