//! A grammar that lets a model write nothing but calls of its tools, in its own format.

use std::fmt::Write;

use serde_json::{Value, json};

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
}

/// The grammar of one call of one of `tools`, or of one and more with `parallel`.
///
/// # Errors
/// When a tool's parameters are no schema that can be followed.
pub fn enforce(
    format: ToolFormat,
    tools: &[Tool],
    parallel: bool,
    tokenizer: &Tokenizer,
) -> Result<Grammar, GrammarError> {
    let mark = |text: &str| match tokenizer.token_id(text) {
        Some(id) if tokenizer.is_special(id) => format!("<[{id}]>"),
        _ => quote(text),
    };
    let more = |between: &str| if parallel { format!(" ({between} call)*") } else { String::new() };
    let (name, middle, end) = match format {
        ToolFormat::Hermes => ("{\"name\": ", ", \"arguments\": ", "}"),
        ToolFormat::Llama3 => ("{\"name\": ", ", \"parameters\": ", "}"),
        ToolFormat::Mistral { writes: MistralStyle::List } => {
            ("{\"name\": ", ", \"arguments\": ", "}")
        }
        ToolFormat::Mistral { writes: MistralStyle::Args } => ("", "", ""),
    };
    let mut text = match format {
        ToolFormat::Hermes => format!(
            "start: call{}\ncall: {} \"\\n\" body \"\\n\" {}\n",
            more("\"\\n\""),
            mark("<tool_call>"),
            mark("</tool_call>"),
        ),
        ToolFormat::Llama3 => format!("start: call{}\ncall: body\n", more("\"; \"")),
        ToolFormat::Mistral { writes: MistralStyle::List } => format!(
            "start: {} \"[\" call{} \"]\"\ncall: body\n",
            mark("[TOOL_CALLS]"),
            more("\", \""),
        ),
        ToolFormat::Mistral { writes: MistralStyle::Args } => {
            format!("start: call{}\ncall: {} body\n", more(""), mark("[TOOL_CALLS]"))
        }
    };
    let bodies: Vec<String> = (0..tools.len()).map(|i| format!("body{i}")).collect();
    let _ = writeln!(text, "body: {}", bodies.join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        let parameters = arguments(&tool.parameters)?;
        let args = matches!(format, ToolFormat::Mistral { writes: MistralStyle::Args });
        let head = if args {
            format!("{} {}", quote(&tool.name), mark("[ARGS]"))
        } else {
            quote(&format!("{name}{}{middle}", quote(&tool.name)))
        };
        let tail = if end.is_empty() { String::new() } else { format!(" {}", quote(end)) };
        let _ = writeln!(text, "body{i}: {head} args{i}{tail}\nargs{i}: %json {parameters}");
    }
    Ok(Grammar::Lark(text))
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
