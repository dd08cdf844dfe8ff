//! How the prompt of a conversation ends: after the last message, with the beginning of an answer, or inside the last
//! message, which the model goes on with.

use serde_json::Value;

use crate::error::ApiError;

/// Stands behind the text of the last message while a template renders it, as in `transformers`: the text alone may occur again
/// in what the template writes after it. Where the space at its end is gone, the template trims texts.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Where the model takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptEnd {
    /// After the mark that begins an answer.
    Answer,
    /// After the mark that ends the last message.
    LastMessage,
    /// After the text of the last message.
    InLastMessage,
}

impl PromptEnd {
    /// The end that two fields ask for.
    ///
    /// # Errors
    /// 400 when they contradict each other.
    pub(crate) fn new(
        add_generation_prompt: Option<bool>,
        continue_final_message: Option<bool>,
    ) -> Result<Self, ApiError> {
        match (add_generation_prompt, continue_final_message) {
            (Some(true), Some(true)) => Err(ApiError::field(
                "continue_final_message",
                "cannot be combined with `add_generation_prompt`: the last message is not ended; set one of them to false",
            )),
            (_, Some(true)) => Ok(Self::InLastMessage),
            (Some(false), _) => Ok(Self::LastMessage),
            (_, _) => Ok(Self::Answer),
        }
    }

    /// Marks where the last message ends, if the model is to go on there, before a template renders it.
    ///
    /// # Errors
    /// 400 that names `field` when there is no text to go on with.
    pub(crate) fn mark(self, messages: &mut Value, field: &str) -> Result<(), ApiError> {
        if self != Self::InLastMessage {
            return Ok(());
        }
        let last = messages.as_array_mut().and_then(|all| all.last_mut());
        match last.and_then(|last| last.get_mut("content")) {
            Some(Value::String(text)) if !text.trim().is_empty() => {
                text.push_str(MARK);
                Ok(())
            }
            _ => Err(lost(field)),
        }
    }

    /// Cuts a rendered conversation off where the model is to go on.
    ///
    /// # Errors
    /// 400 that names `field` when the template does not show the last message.
    pub(crate) fn cut(self, rendered: &mut String, field: &str) -> Result<(), ApiError> {
        if self != Self::InLastMessage {
            return Ok(());
        }
        let end = rendered.rfind(MARK.trim_end()).ok_or_else(|| lost(field))?;
        let trims = rendered.get(end..).is_none_or(|rest| !rest.starts_with(MARK));
        rendered.truncate(end);
        if trims {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(())
    }
}

fn lost(field: &str) -> ApiError {
    let problem =
        "needs a last message whose text the model's template shows; send one that is not empty";
    ApiError::field(field, problem)
}

/// The text of the last message, if it is the assistant's and has one.
pub(crate) fn last_answer(messages: &Value) -> Option<&str> {
    let last = messages.as_array()?.last()?;
    (last.get("role")? == "assistant").then(|| last.get("content")?.as_str())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_prompt_is_cut_after_the_last_text_as_the_template_shows_it() {
        let cut = |text: &str, template: fn(&str) -> String| {
            let mut messages = json!([{"role": "assistant", "content": text}]);
            PromptEnd::InLastMessage.mark(&mut messages, "messages")?;
            let mut rendered = template(messages[0]["content"].as_str().unwrap());
            PromptEnd::InLastMessage.cut(&mut rendered, "messages").map(|()| rendered)
        };
        let plain = |text: &str| format!("<a>{text}<end>");
        let trimming = |text: &str| format!("<a>{}<end>", text.trim());
        assert_eq!(cut("One, two", plain).unwrap(), "<a>One, two");
        assert_eq!(cut("One, ", plain).unwrap(), "<a>One, ");
        assert_eq!(cut(" One, ", trimming).unwrap(), "<a>One,");
        // What stands after the text is no part of it, however much like it.
        for text in ["<", "end", "e", "<end>"] {
            assert_eq!(cut(text, plain).unwrap(), format!("<a>{text}"));
        }
        assert!(cut("One", |_| "<a><end>".to_owned()).is_err());
        assert!(cut("  ", plain).is_err());
    }
}
