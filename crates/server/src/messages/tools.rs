//! Tools, thinking and formats as Anthropic's messages spell them.

use folio_text::{Grammar, Tool};
use serde_json::{Map, Value, json};

use super::types::{
    AskingFields, MessageFormat, MessageFormatFields, OutputConfig, OutputConfigFields,
    ThinkingFields, ThinkingOptions,
};
use crate::conversation::thinking;
use crate::conversation::tools::{Asked, Choice, Declared, declared, function, known};
use crate::error::{ApiError, quote};
use crate::request::fields::Int;
use crate::request::json::Json;
use crate::request::structured::Wanted;
use crate::state::Served;

/// What the fields ask for, and what of it the template hears.
///
/// # Errors
/// 400 that names the first field that is wrong or not served.
pub(super) fn asked(
    fields: AskingFields,
    served: &Served,
) -> Result<(Asked, Map<String, Value>), ApiError> {
    let AskingFields {
        tools,
        tool_choice,
        thinking,
        output_config,
        output_format,
        context_management,
    } = fields;
    unedited(context_management)?;
    let declared = tools.map(|Json(tools)| declared(tools, one)).transpose()?.flatten();
    let (choice, parallel) = match tool_choice {
        None => (None, true),
        Some(Json(given)) => choice(&given)?,
    };
    let thoughts = thinking.map(|ThinkingOptions { fields }| thinks(fields, served)).transpose()?;
    let Thoughts { variables, shown, most } =
        thoughts.unwrap_or_else(|| Thoughts { variables: Map::new(), shown: true, most: None });
    let tools = declared.map(|declared| Declared::in_words_of_chat(declared, "input_schema"));
    let wanted = wanted(output_config, output_format)?;
    let asked = Asked { tools, choice, parallel, shows_reasoning: shown, thoughts: most, wanted };
    Ok((asked, variables))
}

/// The conversation is read as it is sent. Clients ask by themselves for an edit that keeps everything.
fn unedited(management: Option<Json>) -> Result<(), ApiError> {
    let Some(Json(management)) = management else { return Ok(()) };
    let members = known(&management, "context_management", &["edits"])?;
    let keeps_all = json!({ "type": "clear_thinking_20251015", "keep": "all" });
    let unedited = members.get("edits").is_none_or(|edits| {
        edits.as_array().is_some_and(|edits| edits.iter().all(|edit| *edit == keeps_all))
    });
    if unedited {
        return Ok(());
    }
    let problem = format!("may have {keeps_all} only: send the conversation as it is to be read");
    Err(ApiError::field("context_management.edits", problem))
}

/// Which tools, and whether there may be more calls than one.
fn choice(given: &Value) -> Result<(Option<Choice>, bool), ApiError> {
    let members = known(given, "tool_choice", &["type", "name", "disable_parallel_tool_use"])?;
    let alone = match members.get("disable_parallel_tool_use") {
        None => false,
        Some(Value::Bool(alone)) => *alone,
        Some(_) => {
            let field = "tool_choice.disable_parallel_tool_use";
            return Err(ApiError::field(field, "must be true or false"));
        }
    };
    let field = "tool_choice.name";
    let name = members.get("name").and_then(Value::as_str);
    let choice = match (members.get("type").and_then(Value::as_str), name) {
        (Some("none"), None) => Choice::None,
        (Some("auto"), None) => Choice::Auto,
        (Some("any"), None) => Choice::Required,
        (Some("tool"), Some(name)) => Choice::Named { name: name.to_owned(), field },
        (Some("tool"), None) => return Err(ApiError::field(field, "is missing")),
        (Some("none" | "auto" | "any"), Some(_)) => {
            return Err(ApiError::field(field, "only goes with the type `tool`"));
        }
        _ => {
            let problem = "must be `auto`, `any`, `tool` or `none`";
            return Err(ApiError::field("tool_choice.type", problem));
        }
    };
    Ok((Some(choice), !alone))
}

fn one(tool: &Value, at: &str) -> Result<Tool, ApiError> {
    match tool.get("type") {
        None | Some(Value::Null) => {}
        Some(kind) if kind == "custom" => {}
        Some(kind) => {
            let kind = quote(kind.as_str().unwrap_or("no string"));
            let problem = format!("is {kind}: only tools of type `custom` are served");
            return Err(ApiError::field(format!("{at}.type"), problem));
        }
    }
    // Caching needs no advice, and arguments are streamed as they come.
    let names = [
        "type",
        "name",
        "description",
        "input_schema",
        "strict",
        "cache_control",
        "eager_input_streaming",
    ];
    function(known(tool, at, &names)?, at, "input_schema")
}

/// How to think.
struct Thoughts {
    /// What the template hears of it.
    variables: Map<String, Value>,
    shown: bool,
    /// The most tokens.
    most: Option<u32>,
}

/// A model that does not think is told nothing.
fn thinks(fields: ThinkingFields, served: &Served) -> Result<Thoughts, ApiError> {
    let wrong = |problem| Err(ApiError::field("thinking.type", problem));
    let ThinkingFields { kind, budget_tokens, display } = fields;
    let variables = match kind.as_deref() {
        Some("disabled") => thinking::off(served, "thinking.type", "disabled")?,
        Some("enabled") if !served.texts.reasoning => {
            return wrong("cannot be `enabled`: this model is not known to think");
        }
        Some("enabled") => thinking::switched(served, true),
        Some("adaptive") => Map::new(),
        _ => return wrong("must be `adaptive`, `enabled` or `disabled`"),
    };
    if budget_tokens.is_some() && kind.as_deref() != Some("enabled") {
        let problem = "only goes with the type `enabled`";
        return Err(ApiError::field("thinking.budget_tokens", problem));
    }
    let most = budget_tokens.map(|Int(most)| match u32::try_from(most) {
        Ok(most) if most > 0 => Ok(most),
        _ => {
            let problem = format!("must be from 1 to {}, not {most}", u32::MAX);
            Err(ApiError::field("thinking.budget_tokens", problem))
        }
    });
    let shown = match display.as_deref() {
        None | Some("summarized") => true,
        Some("omitted") => false,
        Some(_) => {
            let problem = "must be `summarized` or `omitted`";
            return Err(ApiError::field("thinking.display", problem));
        }
    };
    Ok(Thoughts { variables, shown, most: most.transpose()? })
}

/// The grammar of the answer; the format has an older and a newer place.
fn wanted(
    config: Option<OutputConfig>,
    format: Option<MessageFormat>,
) -> Result<Option<Wanted>, ApiError> {
    let (effort, newer) = config.map_or((None, None), |OutputConfig { fields }| {
        let OutputConfigFields { effort, format } = fields;
        (effort, format)
    });
    if effort.is_some_and(|effort| effort != "high") {
        let problem = "must be `high`, which is the same as none: effort is not steered";
        return Err(ApiError::field("output_config.effort", problem));
    }
    match (newer, format) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            let problem = "cannot be combined with `output_config.format`; send one of them";
            Err(ApiError::field("output_format", problem))
        }
        (Some(format), None) => schema(format, "output_config.format.schema"),
        (None, Some(format)) => schema(format, "output_format.schema"),
    }
}

fn schema(format: MessageFormat, field: &'static str) -> Result<Option<Wanted>, ApiError> {
    let MessageFormatFields { kind, schema } = format.fields;
    if kind.as_deref() != Some("json_schema") {
        let outer = field.trim_end_matches(".schema");
        return Err(ApiError::field(format!("{outer}.type"), "must be `json_schema`"));
    }
    let Json(schema) = schema.ok_or_else(|| ApiError::field(field, "is missing"))?;
    Ok(Some(Wanted::format(field, Grammar::schema(schema))))
}
