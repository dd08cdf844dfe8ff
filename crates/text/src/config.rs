//! `tokenizer_config.json`: what a model says about its special tokens and its chat template.
//!
//! The file grew over years, so a token is a string or an object and a template is a string, a list of named ones, or a file
//! beside it. This is the door: behind it, there are only texts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::template::SpecialTokens;

/// Why a `tokenizer_config.json` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tokenizer_config.json cannot be read: {detail}")]
pub struct ConfigError {
    detail: String,
}

/// What a `tokenizer_config.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// The special tokens, as they are written.
    pub tokens: SpecialTokens,
    /// Whether a BOS belongs before every text; `None` if the file does not say.
    pub add_bos_token: Option<bool>,
    templates: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct File {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    pad_token: Option<Token>,
    add_bos_token: Option<bool>,
    chat_template: Option<Template>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a token must be a string or an object with `content`")]
enum Token {
    Text(String),
    Object { content: String },
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`chat_template` must be a string or a list of objects with `name` and `template`"
)]
enum Template {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl Token {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

/// The name of a template that has none.
const DEFAULT: &str = "default";

impl TokenizerConfig {
    /// Reads the bytes of a `tokenizer_config.json`, and of the `chat_template.jinja` beside it, which takes precedence.
    ///
    /// # Errors
    /// [`ConfigError`] if a field has another shape than it can have, or the template is not UTF-8.
    pub fn from_json(json: &[u8], template_file: Option<&[u8]>) -> Result<Self, ConfigError> {
        let refuse = |detail: String| ConfigError { detail };
        // By way of a `Json`, so that an error of an untagged field can name the field's rule and not a column.
        let json: Json = serde_json::from_slice(json).map_err(|error| refuse(error.to_string()))?;
        let file = File::deserialize(json).map_err(|error| refuse(error.to_string()))?;
        let mut templates = match file.chat_template {
            None => BTreeMap::new(),
            Some(Template::One(source)) => BTreeMap::from([(DEFAULT.to_owned(), source)]),
            Some(Template::Named(list)) => {
                list.into_iter().map(|named| (named.name, named.template)).collect()
            }
        };
        if let Some(source) = template_file {
            let source = std::str::from_utf8(source);
            let source = source
                .map_err(|_| refuse("the chat_template.jinja beside it is not UTF-8".to_owned()))?;
            templates.insert(DEFAULT.to_owned(), source.to_owned());
        }
        let tokens = SpecialTokens {
            bos: file.bos_token.map(Token::text),
            eos: file.eos_token.map(Token::text),
            unk: file.unk_token.map(Token::text),
            pad: file.pad_token.map(Token::text),
        };
        Ok(Self { tokens, add_bos_token: file.add_bos_token, templates })
    }

    /// What a GGUF file says instead of a `tokenizer_config.json`.
    #[must_use]
    pub fn new(tokens: SpecialTokens, add_bos_token: Option<bool>, template: Option<&str>) -> Self {
        let templates = template.map(|source| (DEFAULT.to_owned(), source.to_owned()));
        Self { tokens, add_bos_token, templates: templates.into_iter().collect() }
    }

    /// The source of the chat template: the one named `tool_use` for conversations with tools, if there is one, else the
    /// default. A list of templates without a default has none.
    #[must_use]
    pub fn chat_template(&self, with_tools: bool) -> Option<&str> {
        let tool_use = if with_tools { self.templates.get("tool_use") } else { None };
        tool_use.or_else(|| self.templates.get(DEFAULT)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> TokenizerConfig {
        TokenizerConfig::from_json(json.as_bytes(), None).unwrap()
    }

    #[test]
    fn tokens_are_strings_or_objects() {
        let config = read(
            r#"{"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false},
                "pad_token": null, "add_bos_token": true, "model_max_length": 1000000000000000019884624838656}"#,
        );
        assert_eq!(config.tokens.bos.as_deref(), Some("<s>"));
        assert_eq!(config.tokens.eos.as_deref(), Some("</s>"));
        assert_eq!((config.tokens.unk, config.tokens.pad), (None, None));
        assert_eq!(config.add_bos_token, Some(true));
    }

    #[test]
    fn a_template_is_a_string_a_list_or_a_file() {
        assert_eq!(read(r#"{"chat_template": "one"}"#).chat_template(true), Some("one"));
        let json = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
        assert_eq!(read(json).chat_template(false), Some("d"));
        assert_eq!(read(json).chat_template(true), Some("t"));
        let with_file = TokenizerConfig::from_json(json.as_bytes(), Some(b"file")).unwrap();
        assert_eq!(with_file.chat_template(false), Some("file"));
        assert_eq!(read("{}").chat_template(false), None);
    }

    #[test]
    fn other_shapes_are_refused_with_the_rule() {
        for (json, part) in [
            ("", "EOF"),
            ("[]", "invalid"),
            (r#"{"bos_token": 3}"#, "a token must be a string or an object with `content`"),
            (r#"{"chat_template": {"name": "x"}}"#, "`chat_template` must be a string or a list"),
            (r#"{"add_bos_token": "yes"}"#, "boolean"),
        ] {
            let error = TokenizerConfig::from_json(json.as_bytes(), None).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
        assert!(TokenizerConfig::from_json(b"{}", Some(b"\xff")).is_err());
    }
}
