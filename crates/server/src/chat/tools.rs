//! Tools as clients declare them, and what they mean for prompt, output and answer.

use folio_core::params::Params;
use folio_text::{Tool, ToolFormat, enforce};
use serde_json::{Map, Value};

use super::speech::Reading;
use crate::error::{ApiError, quote};
use crate::request::fields::fields;
use crate::request::json::Json;
use crate::request::structured::{Wanted, refuse_beams};
use crate::state::Served;

/// The most tools of a request, as OpenAI bounds it.
const MOST_TOOLS: usize = 128;
/// The longest name of a tool, in bytes.
const LONGEST_NAME: usize = 64;

fields! {
    /// The fields that concern tools and thinking.
    pub(crate) struct ToolFields {
        tools: Json,
        tool_choice: Json,
        parallel_tool_calls: bool,
        include_reasoning: bool,
    }
}

/// What a request's tools mean.
#[derive(Debug, Default)]
pub(crate) struct ToolPlan {
    /// For the template.
    pub(crate) tools: Option<Value>,
    /// How the answer is read.
    pub(crate) reading: Reading,
    /// What the answer has to be.
    pub(crate) wanted: Option<Wanted>,
}

enum Choice {
    None,
    Auto,
    Required,
    Named(String),
}

/// Checks the fields.
///
/// # Errors
/// 400 that names the first field that is wrong or not served.
pub(crate) fn plan(
    fields: ToolFields,
    wanted: Option<Wanted>,
    params: &Params,
    served: &Served,
) -> Result<ToolPlan, ApiError> {
    let ToolFields { tools, tool_choice, parallel_tool_calls, include_reasoning } = fields;
    let reading = Reading {
        reasoning: served.texts.reasoning,
        shows_reasoning: include_reasoning.unwrap_or(true),
        ..Reading::default()
    };
    let declared = match tools {
        Some(Json(tools)) => declared(&tools)?.map(|list| (tools, list)),
        None => None,
    };
    let Some((value, list)) = declared else {
        return match tool_choice {
            None => Ok(ToolPlan { tools: None, reading, wanted }),
            Some(Json(Value::String(word))) if word == "none" => {
                Ok(ToolPlan { tools: None, reading, wanted })
            }
            Some(_) => Err(ApiError::field("tool_choice", "needs `tools`")),
        };
    };
    let parallel = parallel_tool_calls.unwrap_or(true);
    let choice = choice(tool_choice)?;
    let (format, list) = match &choice {
        Choice::None => return Ok(ToolPlan { tools: Some(value), reading, wanted }),
        Choice::Auto => {
            let format = served.texts.tools.ok_or_else(|| {
                ApiError::field(
                    "tool_choice",
                    "cannot be `auto`: how this model writes its calls is not known; start the server with \
                     --tool-call-parser, or use `required`",
                )
            })?;
            let reading = Reading { tools: Some(format), parallel, ..reading };
            return Ok(ToolPlan { tools: Some(value), reading, wanted });
        }
        // Whatever the model is used to, a grammar makes it write this one.
        Choice::Required => (served.texts.tools.unwrap_or(ToolFormat::Llama3), list),
        Choice::Named(name) => {
            let named: Vec<Tool> = list.into_iter().filter(|tool| tool.name == *name).collect();
            if named.is_empty() {
                let problem = format!("is {}, which is none of `tools`", quote(name));
                return Err(ApiError::field("tool_choice.function.name", problem));
            }
            (served.texts.tools.unwrap_or(ToolFormat::Llama3), named)
        }
    };
    if wanted.is_some() {
        let problem = "cannot be combined with a grammar of your own unless it is `auto` or `none`";
        return Err(ApiError::field("tool_choice", problem));
    }
    refuse_beams(params, "tool_choice")?;
    let named = matches!(choice, Choice::Named(_));
    let parallel = parallel && !named;
    let grammar = enforce(format, &list, parallel, &served.texts.tokenizer)
        .map_err(|error| ApiError::field("tools", error.to_string()))?;
    let reading = Reading { tools: Some(format), parallel, named, ..reading };
    Ok(ToolPlan { tools: Some(value), reading, wanted: Some(Wanted { field: "tools", grammar }) })
}

fn choice(given: Option<Json>) -> Result<Choice, ApiError> {
    let wrong = || {
        ApiError::field(
            "tool_choice",
            "must be `none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}",
        )
    };
    let Some(Json(given)) = given else { return Ok(Choice::Auto) };
    match &given {
        Value::String(word) => match word.as_str() {
            "none" => Ok(Choice::None),
            "auto" => Ok(Choice::Auto),
            "required" => Ok(Choice::Required),
            _ => Err(wrong()),
        },
        Value::Object(map) => {
            let function = map.get("function").and_then(Value::as_object).ok_or_else(wrong)?;
            let name = function.get("name").and_then(Value::as_str).ok_or_else(wrong)?;
            let exact = map.get("type").and_then(Value::as_str) == Some("function");
            if !exact || map.len() != 2 || function.len() != 1 {
                return Err(wrong());
            }
            Ok(Choice::Named(name.to_owned()))
        }
        _ => Err(wrong()),
    }
}

/// The tools of a list; `None` of an empty one.
fn declared(tools: &Value) -> Result<Option<Vec<Tool>>, ApiError> {
    let Value::Array(tools) = tools else {
        return Err(ApiError::field("tools", "must be a list"));
    };
    if tools.len() > MOST_TOOLS {
        let count = tools.len();
        return Err(ApiError::field("tools", format!("has {count} entries; at most {MOST_TOOLS}")));
    }
    let list: Result<Vec<Tool>, ApiError> = tools
        .iter()
        .enumerate()
        .map(|(index, tool)| one(tool, &format!("tools[{index}]")))
        .collect();
    let list = list?;
    Ok((!list.is_empty()).then_some(list))
}

fn one(tool: &Value, at: &str) -> Result<Tool, ApiError> {
    let members = known(tool, at, &["type", "function"])?;
    if members.get("type").and_then(Value::as_str) != Some("function") {
        return Err(ApiError::field(format!("{at}.type"), "must be `function`"));
    }
    let at = format!("{at}.function");
    let function = members.get("function").ok_or_else(|| ApiError::field(&at, "is missing"))?;
    let function = known(function, &at, &["name", "description", "parameters", "strict"])?;
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        let problem = format!("must have 1 to {LONGEST_NAME} letters, digits, `_`, `-` and `.`");
        return Err(ApiError::field(format!("{at}.name"), problem));
    }
    let described = function.get("description").is_none_or(|it| it.is_string() || it.is_null());
    if !described {
        return Err(ApiError::field(format!("{at}.description"), "must be a string"));
    }
    if !function.get("strict").is_none_or(|it| it.is_boolean() || it.is_null()) {
        return Err(ApiError::field(format!("{at}.strict"), "must be true or false"));
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(parameters @ Value::Object(_)) => parameters.clone(),
        Some(_) => return Err(ApiError::field(format!("{at}.parameters"), "must be an object")),
    };
    Ok(Tool { name: name.to_owned(), parameters })
}

/// The members of an object that has no others than `names`.
fn known<'a>(
    value: &'a Value,
    at: &str,
    names: &[&str],
) -> Result<&'a Map<String, Value>, ApiError> {
    let members = value.as_object().ok_or_else(|| ApiError::field(at, "must be an object"))?;
    match members.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(ApiError::field(format!("{at}.{key}"), "is an unknown field")),
        None => Ok(members),
    }
}
