//! The body of `POST /v1/responses` as it arrives: types and names are checked, values are not yet.

use crate::request::common::{SamplingFields, SharedFields};
use crate::request::fields::{Given, Int, List, Strings, TextOr, fields, object};
use crate::request::json::Json;
use crate::request::others::Others;
use crate::request::output::{ConstraintFields, OutputFields};
use crate::request::unserved::{BOOKKEEPING, UnservedFields, unserved};

/// The whole body.
#[derive(Debug)]
pub(crate) struct ResponsesBody {
    pub(crate) responses: ResponsesFields,
    pub(crate) tools: ResponseToolFields,
    pub(crate) shared: SharedFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) constraints: ConstraintFields,
    pub(crate) output: OutputFields,
    pub(crate) unserved: UnservedFields,
    pub(crate) unserved_responses: UnservedResponsesFields,
}
object!(ResponsesBody {
    responses: ResponsesFields,
    tools: ResponseToolFields,
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
        metadata: Json,
        reasoning: ReasoningOptions,
        store: bool,
    }
}

fields! {
    /// The fields that concern tools.
    pub(crate) struct ResponseToolFields {
        tools: Json,
        tool_choice: Json,
        parallel_tool_calls: bool,
    }
}

const STATELESS: &str = "nothing is stored; send the whole conversation as `input`";

unserved! {
    /// Known in this endpoint and not acted on.
    pub(crate) struct UnservedResponsesFields {
        previous_response_id: Null, STATELESS;
        conversation: Null, STATELESS;
        background: False, STATELESS;
        prompt: Null, "there are no stored prompts";
        max_tool_calls: Null, "it bounds calls that a server makes by itself, and none are made here";
        prompt_cache_retention: Any, "the prefix cache decides by itself";
        context_management: Empty, STATELESS;
        client_metadata: Any, BOOKKEEPING;
    }
}

fields! {
    /// How the text is to look.
    pub(crate) struct TextFields {
        format: TextFormat,
        verbosity: Given,
    }
}

fields! {
    /// The parts of a format.
    pub(crate) struct FormatFields {
        kind as "type": String,
        name: String,
        description: String,
        schema: Json,
        strict: bool,
    }
}

/// The value of `text.format`.
#[derive(Debug)]
pub(crate) struct TextFormat {
    pub(crate) fields: FormatFields,
}
object!(TextFormat { fields: FormatFields });

fields! {
    /// How the model is to think.
    pub(crate) struct ReasoningFields {
        effort: String,
    }
}

unserved! {
    /// How thoughts are to be told.
    pub(crate) struct UnservedReasoningFields {
        summary: Word, "thoughts are told as they are";
        generate_summary: Null, "thoughts are told as they are";
    }
}

/// The value of `reasoning`.
#[derive(Debug)]
pub(crate) struct ReasoningOptions {
    pub(crate) fields: ReasoningFields,
    pub(crate) unserved: UnservedReasoningFields,
}
object!(ReasoningOptions { fields: ReasoningFields, unserved: UnservedReasoningFields });

/// The value of `text`.
#[derive(Debug)]
pub(crate) struct TextOptions {
    pub(crate) fields: TextFields,
}
object!(TextOptions { fields: TextFields });

/// The value of `input`: what the user says, or a conversation.
pub(crate) type Input = TextOr<Item>;

fields! {
    /// The fields of all kinds of items.
    pub(crate) struct ItemFields {
        kind as "type": String,
        role: String,
        content: TextOr<ItemPart>,
        id: String,
        status: String,
        phase: Given,
        call_id: String,
        name: String,
        arguments: String,
        output: TextOr<ItemPart>,
        summary: List<ItemPart>,
        encrypted_content: Given,
    }
}

/// One item: a message, a thought, a call, or what a call led to.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) fields: ItemFields,
    pub(crate) others: Others,
}
object!(Item { fields: ItemFields, others: Others });

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
    pub(crate) others: Others,
}
object!(ItemPart { fields: ItemPartFields, others: Others });
