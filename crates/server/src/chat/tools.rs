//! Tools as chat spells them.

use folio_text::Tool;
use serde_json::Value;

use crate::conversation::tools::{
    Asked, Choice, Declared, choice_in_words, declared, function, known, only_functions,
};
use crate::error::ApiError;
use crate::request::fields::fields;
use crate::request::json::Json;
use crate::request::structured::Wanted;

fields! {
    /// The fields that concern tools and thinking.
    pub(crate) struct ToolFields {
        tools: Json,
        tool_choice: Json,
        parallel_tool_calls: bool,
        include_reasoning: bool,
    }
}

/// What the fields ask for, and the grammar that was `wanted` beside them.
///
/// # Errors
/// 400 that names the first field that is wrong.
pub(super) fn asked(fields: ToolFields, wanted: Option<Wanted>) -> Result<Asked, ApiError> {
    let ToolFields { tools, tool_choice, parallel_tool_calls, include_reasoning } = fields;
    Ok(Asked {
        tools: tools.map(|Json(tools)| declared(tools, one)).transpose()?.flatten(),
        choice: tool_choice.map(|Json(given)| choice(&given)).transpose()?,
        parallel: parallel_tool_calls.unwrap_or(true),
        shows_reasoning: include_reasoning.unwrap_or(true),
        thoughts: None,
        wanted,
    })
}

/// The tools that a template shows.
///
/// # Errors
/// 400 that names the first member that is wrong.
pub(crate) fn tools_shown(tools: Option<Json>) -> Result<Option<Value>, ApiError> {
    let declared = tools.map(|Json(tools)| declared(tools, one)).transpose()?.flatten();
    Ok(declared.map(Declared::shown))
}

fn choice(given: &Value) -> Result<Choice, ApiError> {
    choice_in_words(given).or_else(|| named(given)).ok_or_else(|| {
        ApiError::field(
            "tool_choice",
            "must be `none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}",
        )
    })
}

fn named(given: &Value) -> Option<Choice> {
    let map = given.as_object()?;
    let function = map.get("function")?.as_object()?;
    let name = function.get("name")?.as_str()?;
    let exact = map.get("type")? == "function" && map.len() == 2 && function.len() == 1;
    let field = "tool_choice.function.name";
    exact.then(|| Choice::Named { name: name.to_owned(), field })
}

fn one(tool: &Value, at: &str) -> Result<Tool, ApiError> {
    only_functions(tool, at)?;
    let members = known(tool, at, &["type", "function"])?;
    let at = format!("{at}.function");
    let described = members.get("function").ok_or_else(|| ApiError::field(&at, "is missing"))?;
    let described = known(described, &at, &["name", "description", "parameters", "strict"])?;
    function(described, &at, "parameters")
}
