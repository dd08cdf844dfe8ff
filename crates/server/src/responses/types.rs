//! The body of `POST /v1/responses` as it arrives: types and names are checked, values are not yet.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::request::common::{SamplingFields, SharedFields};
use crate::request::fields::{Given, Int, List, Strings, fields, object, push_bounded};
use crate::request::output::{ConstraintFields, OutputFields};
use crate::request::structured::ResponseFormat;
use crate::request::unserved::{UnservedFields, unserved};

/// The whole body.
#[derive(Debug)]
pub(crate) struct ResponsesBody {
    pub(crate) responses: ResponsesFields,
    pub(crate) shared: SharedFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) constraints: ConstraintFields,
    pub(crate) output: OutputFields,
    pub(crate) unserved: UnservedFields,
    pub(crate) unserved_responses: UnservedResponsesFields,
}
object!(ResponsesBody {
    responses: ResponsesFields,
    shared: SharedFields,
    sampling: SamplingFields,
    constraints: ConstraintFields,
    output: OutputFields,
    unserved: UnservedFields,
    unserved_responses: UnservedResponsesFields,
});

fields! {
    /// What only this endpoint knows.
    pub(crate) struct ResponsesFields {
        input: Input,
        instructions: String,
        max_output_tokens: Int,
        top_logprobs: Int,
        include: Strings,
        text: TextOptions,
        truncation: String,
    }
}

const TOOLS: &str = "tool calling is served at /v1/chat/completions only";
const STATELESS: &str = "nothing is stored; send the whole conversation as `input`";

unserved! {
    /// Known in this endpoint and not acted on.
    pub(crate) struct UnservedResponsesFields {
        previous_response_id: Null, STATELESS;
        conversation: Null, STATELESS;
        background: False, STATELESS;
        prompt: Null, "there are no stored prompts";
        tools: Empty, TOOLS;
        tool_choice: Word, TOOLS;
        parallel_tool_calls: Any, "without tools there is nothing to run in parallel";
        max_tool_calls: Null, TOOLS;
        reasoning: Null, "reasoning is not steered";
        prompt_cache_retention: Any, "the prefix cache decides by itself";
        context_management: Empty, STATELESS;
    }
}

fields! {
    /// How the text is to look.
    pub(crate) struct TextFields {
        format: ResponseFormat,
        verbosity: Given,
    }
}

/// The value of `text`.
#[derive(Debug)]
pub(crate) struct TextOptions {
    pub(crate) fields: TextFields,
}
object!(TextOptions { fields: TextFields });

/// The value of `input`.
#[derive(Debug)]
pub(crate) enum Input {
    /// What the user says.
    Text(String),
    /// A conversation.
    Items(Vec<Item>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrItems;
        impl<'de> Visitor<'de> for TextOrItems {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of messages")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Input, E> {
                Ok(Input::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    push_bounded(&mut items, item)?;
                }
                Ok(Input::Items(items))
            }
        }
        deserializer.deserialize_any(TextOrItems)
    }
}

fields! {
    /// The fields of a message.
    pub(crate) struct ItemFields {
        kind as "type": String,
        role: String,
        content: ItemContent,
        id: String,
        status: String,
        phase: Given,
    }
}

/// One message.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) fields: ItemFields,
}
object!(Item { fields: ItemFields });

/// What a message says.
#[derive(Debug)]
pub(crate) enum ItemContent {
    /// A string.
    Text(String),
    /// A list of parts.
    Parts(List<ItemPart>),
}

impl<'de> Deserialize<'de> for ItemContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = ItemContent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of parts")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<ItemContent, E> {
                Ok(ItemContent::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ItemContent, A::Error> {
                let mut parts = List::default();
                while let Some(part) = seq.next_element()? {
                    push_bounded(&mut parts.0, part)?;
                }
                Ok(ItemContent::Parts(parts))
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

fields! {
    /// The fields of a part of a message. What our own answers carry is taken back.
    pub(crate) struct ItemPartFields {
        kind as "type": String,
        text: String,
        annotations: Given,
        logprobs: Given,
    }
}

/// One part of a message.
#[derive(Debug)]
pub(crate) struct ItemPart {
    pub(crate) fields: ItemPartFields,
}
object!(ItemPart { fields: ItemPartFields });
