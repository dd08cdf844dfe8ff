//! GGUF: one file, or numbered parts of one, with everything about a model in it: metadata, vocabulary, tensors.
//!
//! The reader is ours because the format is small and the files come from anywhere. Every count, length and offset is
//! compared with the bytes that are there before anything of its size is allocated. Tensors stay in the mapped file; the
//! quantised kinds hand their codes, scales and minima over exactly as they are stored.

mod blocks;
mod cursor;
mod file;
mod kind;
mod metadata;
mod split;

pub use blocks::BlockMatrix;
pub(crate) use file::{GgufFile, StoredTensor, read_metadata, without_tensors};
pub use kind::Kind;
pub(crate) use metadata::FILE as METADATA;
pub use metadata::Metadata;
pub(crate) use split::{Found, find};
