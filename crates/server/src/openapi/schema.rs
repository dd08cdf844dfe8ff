//! What JSON a type reads, as a JSON Schema.
//!
//! The macros that declare request types write their schema, too, so the document lists exactly the fields that are read.
//! Types with a reader of their own say here what they read.

use serde_json::{Map, Value, json};

use crate::chat::types::Part;
use crate::completions::types::Prompts;
use crate::request::fields::{
    Biases, Early, Given, Ids, Int, List, MOST_ENTRIES, Strings, TextOr, WORDS,
};
use crate::request::json::{Json, JsonText};
use crate::request::unserved::Neutral;

/// A type that is read from JSON.
pub(crate) trait Schema {
    /// The values that are read. Whether they make sense together is found out later.
    fn schema() -> Value;
}

/// A group of members of a JSON object.
pub(crate) trait Members {
    /// Adds each member's schema under its name.
    fn members(into: &mut Map<String, Value>);
}

/// An object with these members and no others, none of which must be there.
pub(crate) fn closed(members: Map<String, Value>) -> Value {
    let members: Map<String, Value> =
        members.into_iter().map(|(name, schema)| (name, or_null(schema))).collect();
    json!({ "type": "object", "properties": members, "additionalProperties": false })
}

/// `null` stands for a member that is left out.
fn or_null(schema: Value) -> Value {
    let Value::Object(mut plain) = schema else { return schema };
    match (plain.get("type").cloned(), plain.contains_key("enum")) {
        (Some(Value::String(kind)), false) => {
            plain.insert(
                "type".to_owned(),
                if kind == "null" { json!(kind) } else { json!([kind, "null"]) },
            );
            Value::Object(plain)
        }
        _ if plain.keys().all(|key| key == "description") => Value::Object(plain),
        _ => {
            let description = plain.shift_remove("description");
            let mut either = Map::new();
            either.insert("anyOf".to_owned(), json!([plain, { "type": "null" }]));
            either.extend(description.map(|text| ("description".to_owned(), text)));
            Value::Object(either)
        }
    }
}

/// A member that is read and may only ask for nothing.
pub(crate) fn neutral(neutral: Neutral, reason: &str) -> Value {
    let (mut schema, told) = match neutral {
        Neutral::Any => (json!({}), reason.to_owned()),
        Neutral::Null => (json!({ "type": "null" }), format!("Not served: {reason}.")),
        Neutral::False => (json!({ "enum": [false] }), format!("Not served: {reason}.")),
        Neutral::True => (json!({ "enum": [true] }), format!("Only at its default: {reason}.")),
        Neutral::Empty => {
            let empty = json!([{ "type": "array", "maxItems": 0 }, { "type": "object", "maxProperties": 0 }]);
            (json!({ "anyOf": empty }), format!("Not served: {reason}."))
        }
        Neutral::Word => (json!({ "enum": WORDS }), format!("Only at its default: {reason}.")),
    };
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), json!(told));
    }
    schema
}

/// Writes the schema of types that read themselves.
macro_rules! schemas {
    ($($type:ty => $schema:expr;)*) => {
        $(impl Schema for $type {
            fn schema() -> Value {
                $schema
            }
        })*
    };
}

schemas! {
    bool => json!({ "type": "boolean" });
    f64 => json!({ "type": "number" });
    String => json!({ "type": "string" });
    Int => json!({ "type": "integer" });
    Ids => json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX } });
    Strings => one_or(&String::schema(), &List::<String>::schema());
    Biases => json!({ "type": "object", "propertyNames": { "pattern": "^-?[0-9]+$" }, "additionalProperties": f64::schema() });
    Early => json!({ "enum": [false, true, "never"] });
    Given => json!({});
    Json => json!({});
    JsonText => json!({});
    Prompts => json!({ "anyOf": [
        String::schema(),
        { "type": "array", "items": String::schema() },
        Ids::schema(),
        { "type": "array", "items": Ids::schema() },
    ] });
    Part => json!({ "type": "object", "properties": { "type": { "const": "text" }, "text": String::schema() } });
}

impl<T: Schema> Schema for List<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema(), "maxItems": MOST_ENTRIES })
    }
}

impl<T: Schema> Schema for TextOr<T> {
    fn schema() -> Value {
        one_or(&String::schema(), &List::<T>::schema())
    }
}

fn one_or(one: &Value, many: &Value) -> Value {
    json!({ "anyOf": [one, many] })
}
