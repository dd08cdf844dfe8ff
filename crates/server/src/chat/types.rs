//! The body of `POST /v1/chat/completions` as it arrives: types and names are checked, values are not yet.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;

use super::tools::ToolFields;
use crate::request::common::{DecodingFields, SamplingFields, SharedFields};
use crate::request::fields::{Given, Int, List, Strings, TextOr, fields, object};
use crate::request::json::Json;
use crate::request::output::{ConstraintFields, OutputFields};
use crate::request::structured::StructuredFields;
use crate::request::unserved::{NOT_STORED, UnservedFields, unserved};

/// The whole body.
#[derive(Debug)]
pub(crate) struct ChatBody {
    pub(crate) chat: ChatFields,
    pub(crate) shared: SharedFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) decoding: DecodingFields,
    pub(crate) constraints: ConstraintFields,
    pub(crate) output: OutputFields,
    pub(crate) structured: StructuredFields,
    pub(crate) tools: ToolFields,
    pub(crate) unserved: UnservedFields,
    pub(crate) unserved_chat: UnservedChatFields,
}
object!(ChatBody {
    chat: ChatFields,
    shared: SharedFields,
    sampling: SamplingFields,
    decoding: DecodingFields,
    constraints: ConstraintFields,
    output: OutputFields,
    structured: StructuredFields,
    tools: ToolFields,
    unserved: UnservedFields,
    unserved_chat: UnservedChatFields,
});

fields! {
    /// What only this endpoint knows.
    pub(crate) struct ChatFields {
        messages: List<Message>,
        max_tokens: Int,
        max_completion_tokens: Int,
        logprobs: bool,
        top_logprobs: Int,
        add_generation_prompt: bool,
        continue_final_message: bool,
        echo: bool,
        modalities: Strings,
        chat_template_kwargs: Json,
        reasoning_effort: String,
    }
}

const TOOLS: &str = "it has become `tools` and `tool_choice`";
const ONLY_TEXT: &str = "only text is served";
const REASONING: &str = "reasoning is told apart, as it comes";
const TEMPLATE: &str = "the model's own chat template is used";

unserved! {
    /// Known in this endpoint and not acted on.
    pub(crate) struct UnservedChatFields {
        store: Any, NOT_STORED;
        functions: Empty, TOOLS;
        function_call: Word, TOOLS;
        audio: Null, ONLY_TEXT;
        prediction: Null, "predicted output is not used";
        separate_reasoning: True, REASONING;
        stream_reasoning: True, REASONING;
        verbosity: Word, "the length of answers is not steered";
        web_search_options: Null, "nothing is fetched";
        chat_template: Null, TEMPLATE;
        documents: Empty, TEMPLATE;
        mm_processor_kwargs: Empty, ONLY_TEXT;
    }
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) fields: MessageFields,
}
object!(Message { fields: MessageFields });

fields! {
    /// The fields of a message.
    pub(crate) struct MessageFields {
        role: String,
        content: TextOr<Part>,
        name: String,
        tool_calls: List<ToolCall>,
        tool_call_id: String,
        reasoning_content: String,
        reasoning: String,
        refusal: Given,
        audio: Given,
        function_call: Given,
        annotations: Given,
    }
}

/// A call the assistant made earlier.
#[derive(Debug)]
pub(crate) struct ToolCall {
    pub(crate) fields: ToolCallFields,
}
object!(ToolCall { fields: ToolCallFields });

fields! {
    /// The fields of a tool call.
    pub(crate) struct ToolCallFields {
        id: String,
        kind as "type": String,
        index: Given,
        function: CalledFunction,
    }
}

/// Which function was called, with what.
#[derive(Debug)]
pub(crate) struct CalledFunction {
    pub(crate) fields: CalledFunctionFields,
}
object!(CalledFunction { fields: CalledFunctionFields });

fields! {
    /// The fields of a called function.
    pub(crate) struct CalledFunctionFields {
        name: String,
        arguments: String,
    }
}

/// One part of a message. Parts of other kinds have fields of their own; the kind is what gets refused then.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) kind: Option<String>,
    pub(crate) text: Option<String>,
    /// The first field that is neither.
    pub(crate) other: Option<String>,
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TypeAndText;
        impl<'de> Visitor<'de> for TypeAndText {
            type Value = Part;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with `type` and `text`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
                let mut part = Part::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "type" => part.kind = map.next_value()?,
                        "text" => part.text = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            part.other.get_or_insert(key);
                        }
                    }
                }
                Ok(part)
            }
        }
        deserializer.deserialize_map(TypeAndText)
    }
}
