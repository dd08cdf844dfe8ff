//! Converted models: the weights of a model packed once, so that later starts map them instead of packing them again.
//!
//! A converted model is a folder with the small files of the original and one `folio-packed.bin`, in which every matrix lies as it
//! will in memory. It is mapped read-only and shared: several processes hold one copy, and the page cache keeps it warm between
//! starts. The file:
//!
//! | bytes | |
//! |---|---|
//! | 8 | magic number |
//! | 4 | version, which changes with the layout of packed matrices |
//! | 4 | zero |
//! | 8 | length of the header |
//! | 8 | checksum of the header (XXH3) |
//! | … | the header, JSON: see [`header`] |
//! | … | from the next multiple of 4096 on: matrices and vectors, each at a multiple of 64 |
//!
//! Numbers are little-endian. Everything the header says is checked against the file and the model's configuration; the weights
//! themselves may be any bytes.

mod header;
mod items;
mod read;
mod unfinished;
mod write;

pub(crate) use read::ConvertedFile;
pub use write::{Conversion, convert};

/// The file with the weights.
pub(crate) const FILE: &str = "folio-packed.bin";
/// The metadata of a model that was a GGUF file, as a GGUF file without tensors.
pub(crate) const METADATA_FILE: &str = "folio-metadata.gguf";

const MAGIC: [u8; 8] = *b"FOLIOPAK";
/// Must change whenever the bytes of a packed matrix mean something else.
const VERSION: u32 = 1;
/// Magic number, version, zero, length and checksum.
const PREFIX_BYTES: usize = 32;
/// Where contents begin: pages are mapped whole.
const PAGE: usize = 4096;
/// Where a matrix or vector begins: a cache line.
const ALIGNMENT: usize = 64;
/// Most bytes of a header; a model of a thousand layers needs about three million.
const MOST_HEADER_BYTES: usize = 32 << 20;
