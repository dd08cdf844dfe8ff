//! Tools and formats as responses spell them.

use folio_text::{Grammar, Tool};
use serde_json::{Value, json};

use super::types::{FormatFields, ResponseToolFields, TextFields, TextFormat, TextOptions};
use crate::conversation::tools::{
    Asked, Choice, Declared, choice_in_words, declared, function, known, only_functions,
};
use crate::error::{ApiError, quote};
use crate::request::json::Json;
use crate::request::structured::Wanted;
use crate::request::unserved::{Neutral, refuse_unless};

/// What an answer repeats of how it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) tools: Value,
    pub(super) tool_choice: Value,
    pub(super) parallel_tool_calls: bool,
    pub(super) format: Value,
}

/// What the fields ask for, and what of it the answer repeats.
///
/// # Errors
/// 400 that names the first field that is wrong or not served.
pub(super) fn asked(
    fields: ResponseToolFields,
    text: Option<TextOptions>,
) -> Result<(Asked, Form), ApiError> {
    let ResponseToolFields { tools, tool_choice, parallel_tool_calls } = fields;
    let (format, wanted) = format(text)?;
    let parallel = parallel_tool_calls.unwrap_or(true);
    let form = Form {
        tools: tools.as_ref().map_or_else(|| json!([]), |Json(tools)| tools.clone()),
        tool_choice: tool_choice.as_ref().map_or_else(|| json!("auto"), |Json(it)| it.clone()),
        parallel_tool_calls: parallel,
        format,
    };
    let declared = tools.map(|Json(tools)| declared(tools, one)).transpose()?.flatten();
    let mut choice = tool_choice.map(|Json(given)| choice(&given)).transpose()?;
    if declared.is_none() {
        // Clients send the default along.
        choice = choice.filter(|choice| !matches!(choice, Choice::Auto));
    }
    let tools = declared.map(|declared| Declared::in_words_of_chat(declared, "parameters"));
    Ok((Asked { tools, choice, parallel, shows_reasoning: true, thoughts: None, wanted }, form))
}

fn choice(given: &Value) -> Result<Choice, ApiError> {
    choice_in_words(given).or_else(|| named(given)).ok_or_else(|| {
        ApiError::field(
            "tool_choice",
            "must be `none`, `auto`, `required` or {\"type\": \"function\", \"name\": …}",
        )
    })
}

fn named(given: &Value) -> Option<Choice> {
    let map = given.as_object()?;
    let name = map.get("name")?.as_str()?;
    let exact = map.get("type")? == "function" && map.len() == 2;
    exact.then(|| Choice::Named { name: name.to_owned(), field: "tool_choice.name" })
}

fn one(tool: &Value, at: &str) -> Result<Tool, ApiError> {
    only_functions(tool, at)?;
    let members = known(tool, at, &["type", "name", "description", "parameters", "strict"])?;
    function(members, at, "parameters")
}

/// The form of the text as the answer repeats it, and its grammar. With `strict` or without, a schema is followed.
fn format(text: Option<TextOptions>) -> Result<(Value, Option<Wanted>), ApiError> {
    let plain = || (json!({ "type": "text" }), None);
    let Some(TextOptions { fields: TextFields { format, verbosity } }) = text else {
        return Ok(plain());
    };
    let reason = "the length of answers is not steered";
    refuse_unless("text.verbosity", verbosity, Neutral::Word, reason)?;
    let Some(TextFormat { fields }) = format else { return Ok(plain()) };
    let FormatFields { kind, name, description, schema, strict } = fields;
    let kind = kind.ok_or_else(|| ApiError::field("text.format.type", "is missing"))?;
    if kind != "json_schema" && schema.is_some() {
        let problem = format!("does not go with the type {}", quote(&kind));
        return Err(ApiError::field("text.format.schema", problem));
    }
    match kind.as_str() {
        "text" => Ok(plain()),
        "json_object" => {
            let grammar = Grammar::json_object();
            let wanted = Wanted::format("text.format", grammar);
            Ok((json!({ "type": kind }), Some(wanted)))
        }
        "json_schema" => {
            const FIELD: &str = "text.format.schema";
            let Json(schema) = schema.ok_or_else(|| ApiError::field(FIELD, "is missing"))?;
            let shown = json!({
                "type": kind,
                "name": name,
                "description": description,
                "schema": schema,
                "strict": strict,
            });
            Ok((shown, Some(Wanted::format(FIELD, Grammar::schema(schema)))))
        }
        other => {
            let problem =
                format!("must be `text`, `json_object` or `json_schema`, not {}", quote(other));
            Err(ApiError::field("text.format.type", problem))
        }
    }
}
