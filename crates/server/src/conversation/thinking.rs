//! Whether the model is to think, where its template can turn that on and off.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::state::Served;

/// What templates that can turn thinking off look at.
const SWITCH: &str = "enable_thinking";

/// What the template hears; nothing where it would not listen.
pub(crate) fn switched(served: &Served, on: bool) -> Map<String, Value> {
    can_switch(served).then(|| (SWITCH.to_owned(), Value::Bool(on))).into_iter().collect()
}

/// What the template hears when thinking is turned off.
///
/// # Errors
/// 400 that names `field` when the model goes on thinking.
pub(crate) fn off(
    served: &Served,
    field: &str,
    word: &str,
) -> Result<Map<String, Value>, ApiError> {
    if served.texts.reasoning && !can_switch(served) {
        let problem = "this model's template cannot turn thinking off";
        return Err(ApiError::field(field, format!("cannot be `{word}`: {problem}")));
    }
    Ok(switched(served, false))
}

/// What the template hears of OpenAI's effort, which can only be none or the usual.
///
/// # Errors
/// 400 that names `field` for any other, and where none is asked for and cannot be had.
pub(crate) fn effort(
    served: &Served,
    field: &str,
    effort: Option<&str>,
) -> Result<Map<String, Value>, ApiError> {
    match effort {
        None | Some("auto" | "default" | "medium") => Ok(Map::new()),
        Some("none") => off(served, field, "none"),
        Some(_) => {
            let problem = "must be `none` or `medium`: how much a model thinks is not steered";
            Err(ApiError::field(field, problem))
        }
    }
}

fn can_switch(served: &Served) -> bool {
    let template = served.texts.template.as_ref();
    template.is_some_and(|template| template.source().contains(SWITCH))
}
