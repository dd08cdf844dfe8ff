//! What is looked at before the grammar library sees a grammar: its size and how deep it nests. The library recurses.

use serde_json::Value;

use super::GrammarError;

/// The longest grammar, in bytes; a schema counts as its JSON.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// The most levels of a schema, and the most brackets open at one time in a grammar or regular expression.
pub(super) const MAX_DEPTH: usize = 64;
/// The most choices.
pub(super) const MAX_CHOICES: usize = 4096;

pub(super) fn length(bytes: usize) -> Result<(), GrammarError> {
    if bytes > MAX_BYTES {
        return Err(GrammarError::TooLarge { what: "bytes", count: bytes, limit: MAX_BYTES });
    }
    Ok(())
}

/// Bounds the levels of a schema. Without recursion, since it may be as deep as it likes.
pub(crate) fn schema(schema: &Value) -> Result<(), GrammarError> {
    let mut todo = vec![(schema, 1)];
    while let Some((value, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            return Err(GrammarError::TooDeep { limit: MAX_DEPTH });
        }
        match value {
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                if map.contains_key("x-guidance") {
                    let detail = "`x-guidance` is not supported; leave it out".to_owned();
                    return Err(GrammarError::Invalid { detail });
                }
                todo.extend(map.values().map(|item| (item, depth + 1)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    Ok(())
}

/// Bounds the brackets that are open at one time, those in strings included.
pub(super) fn brackets(text: &str) -> Result<(), GrammarError> {
    let mut depth = 0_usize;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(GrammarError::TooDeep { limit: MAX_DEPTH });
        }
    }
    Ok(())
}
