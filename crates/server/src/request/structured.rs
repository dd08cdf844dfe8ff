//! Output that follows a grammar: `response_format` as OpenAI writes it, `structured_outputs` as vLLM does.

use folio_core::params::{Decoding, Params};
use folio_text::{Blanks, Grammar};
use serde_json::{Value, json};

use super::fields::{Given, List, fields, object};
use super::json::Json;
use super::unserved::{Neutral, refuse_unless};
use crate::error::{ApiError, quote};

fields! {
    /// The two ways to ask for it.
    pub(crate) struct StructuredFields {
        response_format: ResponseFormat,
        structured_outputs: StructuredOutputs,
    }
}

fields! {
    /// The parts of a response format.
    pub(crate) struct ResponseFormatFields {
        kind as "type": String,
        json_schema: JsonSchema,
        schema: Json,
    }
}

/// The value of `response_format`.
#[derive(Debug)]
pub(crate) struct ResponseFormat {
    fields: ResponseFormatFields,
}
object!(ResponseFormat { fields: ResponseFormatFields });

fields! {
    /// The parts of a named schema.
    pub(crate) struct JsonSchemaFields {
        name: String,
        description: String,
        schema: Json,
        strict: bool,
    }
}

/// The value of `response_format.json_schema`.
#[derive(Debug)]
pub(crate) struct JsonSchema {
    fields: JsonSchemaFields,
}
object!(JsonSchema { fields: JsonSchemaFields });

fields! {
    /// The kinds of grammar, of which one may be given, and how JSON is laid out.
    pub(crate) struct StructuredOutputsFields {
        json: Json,
        regex: String,
        choice: List<String>,
        grammar: String,
        json_object: bool,
        structural_tag: Given,
        disable_any_whitespace: bool,
        disable_additional_properties: Given,
        whitespace_pattern: String,
    }
}

/// The value of `structured_outputs`.
#[derive(Debug)]
pub(crate) struct StructuredOutputs {
    fields: StructuredOutputsFields,
}
object!(StructuredOutputs { fields: StructuredOutputsFields });

/// A grammar that the output is to follow, and the field it came in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) field: &'static str,
    pub(crate) grammar: Grammar,
    /// Whether it is the format of what is said, which an answer of calls alone has nothing of.
    pub(crate) is_format: bool,
}

impl Wanted {
    /// The format of what is said.
    pub(crate) fn format(field: &'static str, grammar: Grammar) -> Self {
        Self { field, grammar, is_format: true }
    }

    /// The grammar of all that is written.
    pub(crate) fn whole(field: &'static str, grammar: Grammar) -> Self {
        Self { field, grammar, is_format: false }
    }
}

/// The grammar that a request asks for, if any.
///
/// # Errors
/// 400 that names the field: one that is wrong, two grammars at once, or a grammar for beams.
pub(crate) fn wanted(
    structured: StructuredFields,
    params: &Params,
) -> Result<Option<Wanted>, ApiError> {
    let StructuredFields { response_format, structured_outputs } = structured;
    let format = response_format.map(of_format).transpose()?.flatten();
    let outputs = structured_outputs.map(of_outputs).transpose()?;
    match (format, outputs) {
        (Some(_), Some(_)) => Err(ApiError::field(
            "structured_outputs",
            "cannot be combined with `response_format`; send one of them",
        )),
        (Some(wanted), None) | (None, Some(wanted)) => {
            refuse_beams(params, wanted.field)?;
            Ok(Some(wanted))
        }
        (None, None) => Ok(None),
    }
}

/// Beams follow the model's own distribution.
pub(crate) fn refuse_beams(params: &Params, field: &str) -> Result<(), ApiError> {
    match params.decoding {
        Decoding::Beam(_) => {
            Err(ApiError::field(field, "cannot be combined with `use_beam_search`"))
        }
        Decoding::Sample { .. } => Ok(()),
    }
}

/// With `strict` or without, the schema is followed.
fn of_format(format: ResponseFormat) -> Result<Option<Wanted>, ApiError> {
    const SCHEMA: &str = "response_format.json_schema.schema";
    let ResponseFormatFields { kind, json_schema, schema } = format.fields;
    let kind = kind.ok_or_else(|| ApiError::field("response_format.type", "is missing"))?;
    let foreign =
        |field: &str| ApiError::field(field, format!("does not go with the type {}", quote(&kind)));
    if kind != "json_schema" && json_schema.is_some() {
        return Err(foreign("response_format.json_schema"));
    }
    if kind != "json_object" && schema.is_some() {
        return Err(foreign("response_format.schema"));
    }
    match kind.as_str() {
        "text" => Ok(None),
        "json_object" => {
            let schema = schema.map_or_else(|| json!({"type": "object"}), |schema| schema.0);
            let grammar = Grammar::schema(schema);
            Ok(Some(Wanted::format("response_format", grammar)))
        }
        "json_schema" => {
            let Some(JsonSchema { fields }) = json_schema else {
                return Err(ApiError::field("response_format.json_schema", "is missing"));
            };
            let JsonSchemaFields { name: _, description: _, schema, strict: _ } = fields;
            let schema = schema.ok_or_else(|| ApiError::field(SCHEMA, "is missing"))?;
            Ok(Some(Wanted::format(SCHEMA, Grammar::schema(schema.0))))
        }
        other => {
            let problem =
                format!("must be `text`, `json_object` or `json_schema`, not {}", quote(other));
            Err(ApiError::field("response_format.type", problem))
        }
    }
}

fn of_outputs(outputs: StructuredOutputs) -> Result<Wanted, ApiError> {
    let StructuredOutputsFields {
        json,
        regex,
        choice,
        grammar,
        json_object,
        structural_tag,
        disable_any_whitespace,
        disable_additional_properties,
        whitespace_pattern,
    } = outputs.fields;
    refuse_unless(
        "structured_outputs.structural_tag",
        structural_tag,
        Neutral::Null,
        "write it as a Lark grammar",
    )?;
    refuse_unless(
        "structured_outputs.disable_additional_properties",
        disable_additional_properties,
        Neutral::False,
        "write `additionalProperties` in the schema",
    )?;
    let blanks = match (disable_any_whitespace, whitespace_pattern) {
        (Some(true), Some(_)) => {
            let problem = "cannot be combined with `disable_any_whitespace`";
            return Err(ApiError::field("structured_outputs.whitespace_pattern", problem));
        }
        (Some(true), None) => Blanks::None,
        (_, Some(pattern)) => Blanks::Pattern(pattern),
        _ => Blanks::Some,
    };
    let schema = |schema: Value| Grammar::Schema { schema: schema.into(), blanks: blanks.clone() };
    let object = json_object.filter(|wanted| *wanted);
    let kinds = [
        json.map(|json| Ok(("structured_outputs.json", schema(parsed(json)?)))),
        regex.map(|regex| Ok(("structured_outputs.regex", Grammar::Regex(regex)))),
        choice.map(|choice| Ok(("structured_outputs.choice", Grammar::Choice(choice.0)))),
        grammar.map(|grammar| Ok(("structured_outputs.grammar", Grammar::Lark(grammar)))),
        object.map(|_| Ok(("structured_outputs.json_object", schema(json!({"type": "object"}))))),
    ];
    let mut kinds = kinds.into_iter().flatten().collect::<Result<Vec<_>, ApiError>>()?;
    match (kinds.pop(), kinds.is_empty()) {
        (Some((field, grammar)), true) => Ok(Wanted::whole(field, grammar)),
        (found, _) => {
            let count = kinds.len() + usize::from(found.is_some());
            let problem = format!(
                "must have one of `json`, `regex`, `choice`, `grammar` and `json_object`, not {count}"
            );
            Err(ApiError::field("structured_outputs", problem))
        }
    }
}

/// A schema may be sent as JSON within a string.
fn parsed(json: Json) -> Result<Value, ApiError> {
    match json.0 {
        Value::String(text) => {
            serde_json::from_str::<Json>(&text).map(|json| json.0).map_err(|_| {
                ApiError::field("structured_outputs.json", "is a string that is not valid JSON")
            })
        }
        value => Ok(value),
    }
}
