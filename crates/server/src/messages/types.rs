//! The body of `POST /v1/messages` as it arrives: types and names are checked, values are not yet.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::request::fields::{Given, Int, List, fields, object, push_bounded};
use crate::request::unserved::unserved;

/// The whole body.
#[derive(Debug)]
pub(crate) struct MessagesBody {
    pub(crate) dialogue: DialogueFields,
    pub(crate) sampling: MessagesFields,
    pub(crate) unserved: UnservedMessagesFields,
}
object!(MessagesBody {
    dialogue: DialogueFields,
    sampling: MessagesFields,
    unserved: UnservedMessagesFields,
});

/// The body of `POST /v1/messages/count_tokens`.
#[derive(Debug)]
pub(crate) struct CountBody {
    pub(crate) dialogue: DialogueFields,
    pub(crate) unserved: UnservedMessagesFields,
}
object!(CountBody { dialogue: DialogueFields, unserved: UnservedMessagesFields });

fields! {
    /// What is to be read.
    pub(crate) struct DialogueFields {
        model: String,
        messages: List<Turn>,
        system: Blocks,
    }
}

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

const TOOLS: &str = "tool calling is served at /v1/chat/completions only";

unserved! {
    /// Known in this endpoint and not acted on.
    pub(crate) struct UnservedMessagesFields {
        metadata: Any, "accepted at any value";
        service_tier: Any, "there is one tier";
        cache_control: Any, "the prefix cache decides by itself";
        tools: Empty, TOOLS;
        tool_choice: Null, TOOLS;
        thinking: Null, "reasoning is not steered";
        output_config: Null, "output that follows a grammar is not served here";
        output_format: Null, "output that follows a grammar is not served here";
        container: Null, "code is not run";
        mcp_servers: Empty, "nothing is fetched";
        context_management: Null, "send the conversation as it is to be read";
    }
}

fields! {
    /// The fields of a turn.
    pub(crate) struct TurnFields {
        role: String,
        content: Blocks,
    }
}

/// What one side said.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) fields: TurnFields,
}
object!(Turn { fields: TurnFields });

fields! {
    /// The fields of a block.
    pub(crate) struct BlockFields {
        kind as "type": String,
        text: String,
        cache_control: Given,
        citations: Given,
    }
}

/// One block of text.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) fields: BlockFields,
}
object!(Block { fields: BlockFields });

/// A string, or a list of blocks.
#[derive(Debug)]
pub(crate) enum Blocks {
    /// A string.
    Text(String),
    /// Blocks.
    List(Vec<Block>),
}

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrBlocks;
        impl<'de> Visitor<'de> for TextOrBlocks {
            type Value = Blocks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of blocks")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Blocks, E> {
                Ok(Blocks::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Blocks, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = seq.next_element()? {
                    push_bounded(&mut blocks, block)?;
                }
                Ok(Blocks::List(blocks))
            }
        }
        deserializer.deserialize_any(TextOrBlocks)
    }
}
