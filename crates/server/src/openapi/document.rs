//! The endpoints as an OpenAPI 3.1 document.

use serde_json::{Map, Value, json};

use super::endpoint::{Answer, Endpoint};

/// The whole document.
pub(super) fn of(endpoints: &[Endpoint]) -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints {
        // The router marks a parameter that takes in the rest of a path.
        let path = endpoint.path.replace("{*", "{");
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[endpoint.method] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "folio",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Large language models served from paged memory. The API is OpenAI's with vLLM's extensions; \
                            what is not listed here is refused by name.",
        },
        "paths": paths,
        "components": {
            "schemas": { "Error": error() },
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "key": [] }],
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = json!({
        "summary": endpoint.summary,
        "responses": {
            "default": {
                "description": "Refused or failed; `message` names the field at fault and says what to do.",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
            },
        },
    });
    if let Some(content) = content(endpoint.answer) {
        operation["responses"]["200"] =
            json!({ "description": "All is well.", "content": content });
    }
    if let Some(body) = &endpoint.body {
        let mut schema = (body.schema)();
        for name in body.required {
            not_null(&mut schema["properties"][*name]);
        }
        schema["required"] = json!(body.required);
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    let parameters: Vec<Value> = parameters(endpoint.path)
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        })
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    operation
}

/// What must be there cannot be `null`, which stands for what is not.
fn not_null(schema: &mut Value) {
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| kind != "null");
    }
    if let Some(either) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        either.retain(|one| one["type"] != "null");
    }
}

/// The names between braces.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.trim_start_matches('*')))
}

fn content(answer: Answer) -> Option<Value> {
    let object = json!({ "schema": { "type": "object" } });
    let text = json!({ "schema": { "type": "string" } });
    Some(match answer {
        Answer::Refusal => return None,
        Answer::Json => json!({ "application/json": object }),
        Answer::Stream => json!({ "application/json": object, "text/event-stream": text }),
        Answer::Text(kind) => json!({ kind: text }),
        Answer::Empty => json!({}),
    })
}

/// OpenAI's shape of an error, and Anthropic's, which has `type` beside it.
fn error() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {
            "type": { "const": "error" },
            "error": {
                "type": "object",
                "required": ["message", "type"],
                "properties": {
                    "message": { "type": "string" },
                    "type": { "type": "string" },
                    "param": { "type": ["string", "null"] },
                    "code": { "type": "integer" },
                },
            },
        },
    })
}
