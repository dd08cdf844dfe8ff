//! Tokenizer and chat template out of the metadata of a GGUF file: what `model` has read becomes what `text` needs.

use anyhow::Result;
use folio_model::gguf::Metadata;
use folio_text::{ChatTemplate, SpecialTokens, Tokenizer, TokenizerConfig, Vocabulary};

use crate::startup::{MOST_PROMPT_BYTES, template};

/// The tokenizer, and the chat template if the file has one.
///
/// # Errors
/// When a value is missing or damaged, by name.
pub(crate) fn texts(metadata: &Metadata) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let tokens = metadata.texts(&key("tokens"))?.unwrap_or_default();
    let token = |name: &str| metadata.token(&key(name), tokens.len());
    let vocabulary = Vocabulary {
        model: metadata.text(&key("model"))?.unwrap_or_default(),
        pre: metadata.text(&key("pre"))?,
        tokens,
        kinds: metadata.wholes(&key("token_type"))?,
        scores: metadata.floats(&key("scores"))?,
        merges: metadata.texts(&key("merges"))?,
        bos: token("bos_token_id")?,
        eos: token("eos_token_id")?,
        unknown: token("unknown_token_id")?,
        add_bos: metadata.flag(&key("add_bos_token"))?,
        add_eos: metadata.flag(&key("add_eos_token"))?,
        add_space_prefix: metadata.flag(&key("add_space_prefix"))?,
    };
    let (tokenizer, warning) = vocabulary.tokenizer(MOST_PROMPT_BYTES)?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let text =
        |id: Option<u32>| -> Option<String> { tokens.get(usize::try_from(id?).ok()?).cloned() };
    let special = SpecialTokens {
        bos: text(vocabulary.bos),
        eos: text(vocabulary.eos),
        unk: text(vocabulary.unknown),
        pad: text(token("padding_token_id")?),
    };
    let source = metadata.text("tokenizer.chat_template")?;
    let config = TokenizerConfig::new(special, vocabulary.add_bos, source);
    Ok((tokenizer, template(&config)?))
}
