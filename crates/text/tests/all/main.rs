//! Texts, templates, tools and grammars, in one program: linked once, and its tests side by side.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;
mod detokenizing;
mod ending;
mod grammars;
mod hostile_templates;
mod shared_templates;
mod templates;
mod tokenizers;
mod tools;
mod vocabularies;
