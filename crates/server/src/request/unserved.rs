//! Fields that clients of OpenAI and vLLM send and that this server does not act on.
//!
//! Nothing is silently ignored: such a field is accepted only at the value that asks for nothing and is refused by name
//! otherwise. [`unserved!`] makes the decision part of the declaration, so a field cannot be listed without one.

use super::fields::Given;
use crate::error::ApiError;

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
        $crate::request::fields::fields! { @undescribed
            $(#[$meta])*
            $vis struct $group { $($field: $crate::request::fields::Given,)* }
        }

        impl $crate::openapi::schema::Members for $group {
            fn members(into: &mut serde_json::Map<String, serde_json::Value>) {
                use $crate::request::unserved::Neutral;
                $(let schema = $crate::openapi::schema::neutral(Neutral::$neutral, $reason);
                into.insert(stringify!($field).to_owned(), schema);)*
            }
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

pub(crate) const NOT_STORED: &str = "accepted at any value; nothing is stored";
pub(crate) const BOOKKEEPING: &str = "accepted at any value";

unserved! {
    /// Known in both endpoints.
    pub(crate) struct UnservedFields {
        user: Any, BOOKKEEPING;
        metadata: Any, BOOKKEEPING;
        safety_identifier: Any, BOOKKEEPING;
        prompt_cache_key: Any, BOOKKEEPING;
        request_id: Any, BOOKKEEPING;
        service_tier: Word, "there is one tier";
        guided_json: Null, "write it as `structured_outputs.json`";
        guided_regex: Null, "write it as `structured_outputs.regex`";
        guided_choice: Null, "write it as `structured_outputs.choice`";
        guided_grammar: Null, "write it as `structured_outputs.grammar`";
        guided_decoding_backend: Null, "there is one backend";
        guided_whitespace_pattern: Null, "write it as `structured_outputs.whitespace_pattern`";
        no_stop_trim: False, "write it as `include_stop_str_in_output`";
        return_hidden_states: False, "hidden states are not told";
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
