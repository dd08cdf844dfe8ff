//! Messages as chat templates see them, put together from what other APIs call items and blocks.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// The most bytes of tool-call arguments in one request: parsed, they take many times that.
const ARGUMENT_BYTES: usize = 1 << 20;

/// The arguments of earlier calls, read within bounds that hold for a whole request.
#[derive(Debug)]
pub(crate) struct Arguments {
    left: usize,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { left: ARGUMENT_BYTES }
    }
}

impl Arguments {
    /// Templates want arguments as an object; what is not JSON stays the string it is.
    ///
    /// # Errors
    /// 400 that names `field` when those of all calls are too long together.
    pub(crate) fn read(&mut self, text: String, field: &str) -> Result<Value, ApiError> {
        self.left = self.left.checked_sub(text.len()).ok_or_else(|| {
            let problem =
                format!("makes the arguments of all calls longer than {ARGUMENT_BYTES} bytes");
            ApiError::field(field, problem)
        })?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// An earlier call.
#[derive(Debug)]
pub(crate) struct EarlierCall {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    /// JSON.
    pub(crate) arguments: String,
}

impl EarlierCall {
    /// As templates see it. `field` is what the caller calls its arguments.
    ///
    /// # Errors
    /// As [`Arguments::read`].
    pub(crate) fn shown(self, read: &mut Arguments, field: &str) -> Result<Value, ApiError> {
        let Self { id, name, arguments } = self;
        let arguments = read.read(arguments, field)?;
        let mut out = Map::new();
        if let Some(id) = id {
            out.insert("id".to_owned(), Value::String(id));
        }
        out.insert("type".to_owned(), json!("function"));
        out.insert("function".to_owned(), json!({ "name": name, "arguments": arguments }));
        Ok(Value::Object(out))
    }
}

/// A conversation that is being put together. What the assistant thinks, says and calls in a row is one message.
#[derive(Debug, Default)]
pub(crate) struct Dialogue {
    messages: Vec<Value>,
    /// The assistant's message that is not ended.
    turn: Option<Map<String, Value>>,
    arguments: Arguments,
}

impl Dialogue {
    /// Somebody else than the assistant says something.
    pub(crate) fn say(&mut self, role: &str, text: &str) {
        self.end_turn();
        self.messages.push(json!({ "role": role, "content": text }));
    }

    /// What a call led to.
    pub(crate) fn result(&mut self, call_id: &str, text: &str) {
        self.end_turn();
        let message = json!({ "role": "tool", "content": text, "tool_call_id": call_id });
        self.messages.push(message);
    }

    /// The assistant thinks.
    pub(crate) fn think(&mut self, text: String) {
        self.turn_without(&["content", "reasoning_content", "tool_calls"])
            .insert("reasoning_content".to_owned(), Value::String(text));
    }

    /// The assistant says something.
    pub(crate) fn answer(&mut self, text: String) {
        self.turn_without(&["content", "tool_calls"])
            .insert("content".to_owned(), Value::String(text));
    }

    /// The assistant calls a tool.
    ///
    /// # Errors
    /// As [`EarlierCall::shown`].
    pub(crate) fn call(&mut self, call: EarlierCall, field: &str) -> Result<(), ApiError> {
        let call = call.shown(&mut self.arguments, field)?;
        let calls = self.turn_without(&[]).entry("tool_calls").or_insert_with(|| json!([]));
        if let Value::Array(calls) = calls {
            calls.push(call);
        }
        Ok(())
    }

    /// Whatever the assistant does next is another message.
    pub(crate) fn end_turn(&mut self) {
        if let Some(turn) = self.turn.take() {
            let mut message = Map::from_iter([("role".to_owned(), json!("assistant"))]);
            // Templates ask for the content even where there is none.
            message.insert("content".to_owned(), Value::Null);
            message.extend(turn);
            self.messages.push(Value::Object(message));
        }
    }

    /// All messages.
    pub(crate) fn finish(mut self) -> Value {
        self.end_turn();
        Value::Array(self.messages)
    }

    /// The assistant's message, a new one if it has any of these members.
    fn turn_without(&mut self, members: &[&str]) -> &mut Map<String, Value> {
        let has = |turn: &Map<String, Value>| members.iter().any(|name| turn.contains_key(*name));
        if self.turn.as_ref().is_some_and(has) {
            self.end_turn();
        }
        self.turn.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_assistant_does_in_a_row_is_one_message() {
        let call = |name: &str| EarlierCall {
            id: Some(format!("call_{name}")),
            name: name.to_owned(),
            arguments: "{\"a\": 1}".to_owned(),
        };
        let mut dialogue = Dialogue::default();
        dialogue.say("user", "Hi");
        dialogue.think("Hm.".to_owned());
        dialogue.answer("Let me see.".to_owned());
        dialogue.call(call("x"), "f").unwrap();
        dialogue.call(call("y"), "f").unwrap();
        dialogue.result("call_x", "1");
        dialogue.answer("One".to_owned());
        dialogue.answer("Two".to_owned());
        let shown = |name: &str| {
            let function = json!({"name": name, "arguments": {"a": 1}});
            json!({"id": format!("call_{name}"), "type": "function", "function": function})
        };
        assert_eq!(
            dialogue.finish(),
            json!([
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm.",
                 "tool_calls": [shown("x"), shown("y")]},
                {"role": "tool", "content": "1", "tool_call_id": "call_x"},
                {"role": "assistant", "content": "One"},
                {"role": "assistant", "content": "Two"},
            ])
        );
        let mut read = Arguments::default();
        assert!(read.read(" ".repeat(ARGUMENT_BYTES), "f").is_ok());
        assert_eq!(read.read("1".to_owned(), "f").unwrap_err().status(), 400);
    }
}
