//! Fields that clients of OpenAI and vLLM send and that this server does not act on.
//!
//! Nothing is silently ignored: such a field is accepted only at the value that asks for nothing and is refused by name
//! otherwise. [`unserved!`] makes the decision part of the declaration, so a field cannot be listed without one.

use super::fields::{Given, fields, object};
use crate::error::{ApiError, quote};

/// The value of a field that asks for nothing. `null` and absence always do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Neutral {
    /// Every value: the field is the caller's bookkeeping, and no part of the answer depends on it.
    Any,
    /// Only `null`.
    Null,
    /// `false`.
    False,
    /// `true`.
    True,
    /// `[]` or `{}`.
    Empty,
    /// One of [`super::fields::WORDS`].
    Word,
}

/// Declares a group of fields with, for each, its neutral value and the reason given for refusing any other.
macro_rules! unserved {
    ($(#[$meta:meta])* $vis:vis struct $group:ident {
        $($field:ident: $neutral:ident, $reason:expr;)*
    }) => {
        $crate::request::fields::fields! {
            $(#[$meta])*
            $vis struct $group { $($field: $crate::request::fields::Given,)* }
        }

        impl $group {
            /// Refuses the first field that asks for something.
            pub(crate) fn refuse(&self) -> Result<(), $crate::error::ApiError> {
                use $crate::request::unserved::{Neutral, refuse_unless};
                $(refuse_unless(stringify!($field), self.$field, Neutral::$neutral, $reason)?;)*
                Ok(())
            }
        }
    };
}
pub(crate) use unserved;

const GRAMMAR: &str = "output that follows a grammar is not served";
const BOOKKEEPING: &str = "accepted at any value";

unserved! {
    /// Known in both endpoints.
    pub(crate) struct UnservedFields {
        user: Any, BOOKKEEPING;
        metadata: Any, BOOKKEEPING;
        safety_identifier: Any, BOOKKEEPING;
        prompt_cache_key: Any, BOOKKEEPING;
        request_id: Any, BOOKKEEPING;
        store: False, "answers are not stored";
        service_tier: Word, "there is one tier";
        structured_outputs: Null, GRAMMAR;
        guided_json: Null, GRAMMAR;
        guided_regex: Null, GRAMMAR;
        guided_choice: Null, GRAMMAR;
        guided_grammar: Null, GRAMMAR;
        guided_decoding_backend: Null, GRAMMAR;
        guided_whitespace_pattern: Null, GRAMMAR;
        logits_processors: Empty, "code sent by callers is never run";
        kv_transfer_params: Empty, "KV is not transferred between servers";
        vllm_xargs: Empty, "there are no extra arguments";
    }
}

/// 400 that names `field` and gives the `reason`, unless the value is neutral.
pub(crate) fn refuse_unless(
    field: &'static str,
    given: Option<Given>,
    neutral: Neutral,
    reason: &'static str,
) -> Result<(), ApiError> {
    match given {
        Some(given) if !asks_nothing(neutral, given) => Err(ApiError::field(
            field,
            format!("is not supported at this value: {reason}; leave it out"),
        )),
        _ => Ok(()),
    }
}

/// Whether a value is the neutral one.
pub(crate) fn asks_nothing(neutral: Neutral, given: Given) -> bool {
    match (neutral, given) {
        (Neutral::Any, _) => true,
        (Neutral::False, Given::Bool(value)) => !value,
        (Neutral::True, Given::Bool(value)) => value,
        (Neutral::Empty, Given::Collection { empty }) => empty,
        (Neutral::Word, Given::Word) => true,
        _ => false,
    }
}

fields! {
    /// The parts of a response format.
    pub(crate) struct ResponseFormatFields {
        kind as "type": String,
        json_schema: Given,
        schema: Given,
    }
}

/// The value of `response_format`.
#[derive(Debug)]
pub(crate) struct ResponseFormat {
    fields: ResponseFormatFields,
}
object!(ResponseFormat { fields: ResponseFormatFields });

/// `response_format` asks for nothing when it is `{"type": "text"}`.
pub(crate) fn refuse_format(format: Option<ResponseFormat>) -> Result<(), ApiError> {
    let Some(ResponseFormat { fields }) = format else { return Ok(()) };
    let ResponseFormatFields { kind, json_schema, schema } = fields;
    let only_text = "only plain text is served";
    match kind.as_deref() {
        Some("text") => {}
        Some(other) => {
            let problem = format!("{} is not supported: {only_text}", quote(other));
            return Err(ApiError::field("response_format.type", problem));
        }
        None => return Err(ApiError::field("response_format.type", "is missing")),
    }
    refuse_unless("response_format.json_schema", json_schema, Neutral::Null, only_text)?;
    refuse_unless("response_format.schema", schema, Neutral::Null, only_text)
}
