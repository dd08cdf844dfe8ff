//! How the prompt of a conversation ends: after the last message, with the beginning of an answer, or inside the last
//! message, which the model goes on with.

use serde_json::Value;

use crate::error::ApiError;

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

    /// Cuts a rendered conversation off where the model is to go on.
    ///
    /// # Errors
    /// 400 when the template does not show the last message.
    pub(crate) fn cut(self, rendered: &mut String, messages: &Value) -> Result<(), ApiError> {
        if self != Self::InLastMessage {
            return Ok(());
        }
        let last = last_text(messages, None).unwrap_or_default();
        let lost = || {
            let problem = "needs a last message whose text the model's template shows; send one that is not empty";
            ApiError::field("continue_final_message", problem)
        };
        let core = last.trim();
        let from = if core.is_empty() { None } else { rendered.rfind(core) }.ok_or_else(lost)?;
        // A template may have trimmed the text; where it has not, the spaces at its end are part of the prompt.
        let whole = last.trim_start();
        let kept = if rendered.get(from..).is_some_and(|rest| rest.starts_with(whole)) {
            whole
        } else {
            core
        };
        rendered.truncate(from + kept.len());
        Ok(())
    }
}

/// The text of the last message, if it has one and is of this role.
pub(crate) fn last_text<'a>(messages: &'a Value, role: Option<&str>) -> Option<&'a str> {
    let last = messages.as_array()?.last()?;
    let of_role = |role: &str| last.get("role").and_then(Value::as_str) == Some(role);
    if role.is_some_and(|role| !of_role(role)) {
        return None;
    }
    last.get("content")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_prompt_is_cut_after_the_last_text_as_the_template_shows_it() {
        let cut = |rendered: &str, text: &str| {
            let mut rendered = rendered.to_owned();
            let messages = json!([{"role": "assistant", "content": text}]);
            PromptEnd::InLastMessage.cut(&mut rendered, &messages).map(|()| rendered)
        };
        assert_eq!(cut("<a>One, two<end>", "One, two").unwrap(), "<a>One, two");
        assert_eq!(cut("<a>One, <end>", "One, ").unwrap(), "<a>One, ");
        assert_eq!(cut("<a>One,<end>", " One, ").unwrap(), "<a>One,");
        assert_eq!(cut("One<a>One<end>", "One").unwrap(), "One<a>One");
        assert!(cut("<a><end>", "One").is_err());
        assert!(cut("<a><end>", "  ").is_err());
    }
}
