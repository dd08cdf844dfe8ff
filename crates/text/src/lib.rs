//! Strings on one side, tokens on the other.
//!
//! The engine speaks tokens and people speak text. This crate is where they meet: a conversation becomes a prompt
//! ([`ChatTemplate`]), a prompt becomes tokens ([`Tokenizer`]), tokens become a stream of text ([`Detokenizer`]) that ends at
//! its stop strings ([`StopFinder`]; [`StopCheck`] where nobody reads along). What is generated can be kept to a [`Grammar`].
//!
//! It depends on nothing of ours and has no clock, files or environment. Everything it reads comes from a model's folder or a
//! client, so every entrance is bounded and every failure is a sentence.
#![forbid(unsafe_code)]

mod config;
mod detok;
mod ending;
mod grammar;
mod hold;
mod reasoning;
mod stops;
mod table;
mod template;
mod tokenizer;
mod tools;
mod vocabulary;

pub use config::{ConfigError, TokenizerConfig};
pub use detok::Detokenizer;
pub use ending::StopCheck;
pub use grammar::{Blanks, Grammar, GrammarError, Grammars, Matcher};
pub use reasoning::{ReasoningParser, Split};
pub use stops::{Found, StopFinder};
pub use template::{ChatTemplate, DateTime, RenderInput, SpecialTokens, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
pub use tools::{MistralStyle, Tool, ToolDelta, ToolFormat, ToolParser, enforce, guide};
pub use vocabulary::Vocabulary;
