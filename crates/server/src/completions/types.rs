//! The body of `POST /v1/completions` as it arrives: types and names are checked, values are not yet.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::request::common::{DecodingFields, SamplingFields, SharedFields};
use crate::request::fields::{Int, fields, object, push_bounded};
use crate::request::output::{ConstraintFields, OutputFields};
use crate::request::structured::StructuredFields;
use crate::request::unserved::{NOT_STORED, UnservedFields, unserved};

/// The whole body.
#[derive(Debug)]
pub(crate) struct CompletionBody {
    pub(crate) completion: CompletionFields,
    pub(crate) shared: SharedFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) decoding: DecodingFields,
    pub(crate) constraints: ConstraintFields,
    pub(crate) output: OutputFields,
    pub(crate) structured: StructuredFields,
    pub(crate) unserved: UnservedFields,
    pub(crate) unserved_completion: UnservedCompletionFields,
}
object!(CompletionBody {
    completion: CompletionFields,
    shared: SharedFields,
    sampling: SamplingFields,
    decoding: DecodingFields,
    constraints: ConstraintFields,
    output: OutputFields,
    structured: StructuredFields,
    unserved: UnservedFields,
    unserved_completion: UnservedCompletionFields,
});

fields! {
    /// What only this endpoint knows.
    pub(crate) struct CompletionFields {
        prompt: Prompts,
        max_tokens: Int,
        logprobs: Int,
        echo: bool,
        suffix: String,
    }
}

unserved! {
    /// Known in this endpoint and not acted on.
    pub(crate) struct UnservedCompletionFields {
        store: Any, NOT_STORED;
        prompt_embeds: Null, "prompts are text or token ids";
    }
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// To be tokenised.
    Text(String),
    /// Tokenised by the caller.
    Tokens(Vec<u32>),
}

/// The value of `prompt`: a text, a list of texts, a list of token ids, or a list of such lists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompts {
    /// A prompt by itself.
    One(Prompt),
    /// A list of prompts.
    Many(Vec<Prompt>),
}

/// An element of the outermost list.
enum Element {
    Id(u32),
    Prompt(Prompt),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyElement;
        impl<'de> Visitor<'de> for AnyElement {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id from 0 to 4294967295, or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Prompt(Prompt::Text(text.to_owned())))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Element, E> {
                u32::try_from(id)
                    .map(Element::Id)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(id), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element::<u32>()? {
                    ids.push(id);
                }
                Ok(Element::Prompt(Prompt::Tokens(ids)))
            }
        }
        deserializer.deserialize_any(AnyElement)
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyPrompts;
        impl<'de> Visitor<'de> for AnyPrompts {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a string, a list of strings, a list of token ids, or a list of such lists",
                )
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts::One(Prompt::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
                let mut prompts = Vec::new();
                let mut ids = Vec::new();
                while let Some(element) = seq.next_element()? {
                    match element {
                        Element::Id(id) if prompts.is_empty() => ids.push(id),
                        Element::Prompt(prompt) if ids.is_empty() => {
                            push_bounded(&mut prompts, prompt)?;
                        }
                        _ => return Err(de::Error::custom("mixes token ids with whole prompts")),
                    }
                }
                Ok(if ids.is_empty() {
                    Prompts::Many(prompts)
                } else {
                    Prompts::One(Prompt::Tokens(ids))
                })
            }
        }
        deserializer.deserialize_any(AnyPrompts)
    }
}
