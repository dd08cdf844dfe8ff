//! The body of `POST /v1/messages` as it arrives: types and names are checked, values are not yet.

use crate::request::fields::{Given, Int, List, TextOr, fields, object};
use crate::request::json::{Json, JsonText};
use crate::request::others::Others;
use crate::request::unserved::unserved;

/// The whole body.
#[derive(Debug)]
pub(crate) struct MessagesBody {
    pub(crate) dialogue: DialogueFields,
    pub(crate) asking: AskingFields,
    pub(crate) sampling: MessagesFields,
    pub(crate) unserved: UnservedMessagesFields,
}
object!(MessagesBody {
    dialogue: DialogueFields,
    asking: AskingFields,
    sampling: MessagesFields,
    unserved: UnservedMessagesFields,
});

/// The body of `POST /v1/messages/count_tokens`.
#[derive(Debug)]
pub(crate) struct CountBody {
    pub(crate) dialogue: DialogueFields,
    pub(crate) asking: AskingFields,
    pub(crate) unserved: UnservedMessagesFields,
}
object!(CountBody {
    dialogue: DialogueFields,
    asking: AskingFields,
    unserved: UnservedMessagesFields,
});

fields! {
    /// What is to be read.
    pub(crate) struct DialogueFields {
        model: String,
        messages: List<Turn>,
        system: TextOr<TextBlock>,
    }
}

fields! {
    /// How the answer is to come about.
    pub(crate) struct AskingFields {
        tools: Json,
        tool_choice: Json,
        thinking: ThinkingOptions,
        output_config: OutputConfig,
        output_format: MessageFormat,
        context_management: Json,
    }
}

fields! {
    /// The fields of how to think.
    pub(crate) struct ThinkingFields {
        kind as "type": String,
        budget_tokens: Int,
        display: String,
    }
}

/// The value of `thinking`.
#[derive(Debug)]
pub(crate) struct ThinkingOptions {
    pub(crate) fields: ThinkingFields,
}
object!(ThinkingOptions { fields: ThinkingFields });

fields! {
    /// The fields of how to answer.
    pub(crate) struct OutputConfigFields {
        effort: String,
        format: MessageFormat,
    }
}

/// The value of `output_config`.
#[derive(Debug)]
pub(crate) struct OutputConfig {
    pub(crate) fields: OutputConfigFields,
}
object!(OutputConfig { fields: OutputConfigFields });

fields! {
    /// The parts of a format.
    pub(crate) struct MessageFormatFields {
        kind as "type": String,
        schema: Json,
    }
}

/// A format of the answer.
#[derive(Debug)]
pub(crate) struct MessageFormat {
    pub(crate) fields: MessageFormatFields,
}
object!(MessageFormat { fields: MessageFormatFields });

fields! {
    /// What is to be written.
    pub(crate) struct MessagesFields {
        max_tokens: Int,
        stop_sequences: List<String>,
        stream: bool,
        temperature: f64,
        top_p: f64,
        top_k: Int,
    }
}

unserved! {
    /// Known in this endpoint and not acted on.
    pub(crate) struct UnservedMessagesFields {
        metadata: Any, "accepted at any value";
        service_tier: Any, "there is one tier";
        cache_control: Any, "the prefix cache decides by itself";
        container: Null, "code is not run";
        mcp_servers: Empty, "nothing is fetched";
    }
}

fields! {
    /// The fields of a turn.
    pub(crate) struct TurnFields {
        role: String,
        content: TextOr<Block>,
    }
}

/// What one side said.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) fields: TurnFields,
}
object!(Turn { fields: TurnFields });

fields! {
    /// The fields of all kinds of blocks.
    pub(crate) struct BlockFields {
        kind as "type": String,
        text: String,
        cache_control: Given,
        citations: Given,
        thinking: String,
        signature: Given,
        id: String,
        name: String,
        input: JsonText,
        tool_use_id: String,
        content: TextOr<TextBlock>,
        is_error: bool,
    }
}

/// One block: text, a thought, a call, or what a call led to.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) fields: BlockFields,
    pub(crate) others: Others,
}
object!(Block { fields: BlockFields, others: Others });

fields! {
    /// The fields of a block of text.
    pub(crate) struct TextBlockFields {
        kind as "type": String,
        text: String,
        cache_control: Given,
        citations: Given,
    }
}

/// A block where only text may stand.
#[derive(Debug)]
pub(crate) struct TextBlock {
    pub(crate) fields: TextBlockFields,
    pub(crate) others: Others,
}
object!(TextBlock { fields: TextBlockFields, others: Others });
