//! CPU kernels: slices in, slices out; the only CPU `unsafe`.
//!
//! Why a crate: everything that must be fast and cannot be proved by the compiler is here, behind functions that check their
//! arguments, so that the rest of folio forbids `unsafe`. Arguments come from the model's own arithmetic, never from a
//! request, so a wrong shape is a bug of the caller and panics with a sentence.
//!
//! **Determinism.** The order of a reduction depends only on the length reduced: not on the number of rows, threads, blocks,
//! neighbours or the instruction set. All instruction sets give the same bits (see `lanes`, and
//! `lanes::pairs` for numbers below 2^-126).

mod activation;
mod attend;
mod code_tile;
mod codes;
mod context;
mod dtype;
mod embed;
mod format;
mod isa;
mod kv;
mod kv_dtype;
mod lanes;
mod linear;
mod logits;
mod map;
mod math;
pub mod measure;
mod memory;
mod norm;
mod pack;
mod pack_codes;
mod pack_floats;
mod pair_rows;
mod pair_tile;
mod products;
mod quantise;
mod rope;
mod runs;
mod steps;
mod stored_tile;
mod sync;
mod team;
mod terms;
mod tile;
mod view;

pub use activation::{Activation, add, scale, softcap};
pub use attend::{AttendSpec, attend, attend_workspace_bytes};
pub use codes::{Bits, CodeFormat, CodeRow, CodeSource, SUPERBLOCK, Scaling};
pub use context::Context;
pub use dtype::{Dtype, Raw};
pub use embed::embed_packed;
pub use format::{Segment, WeightFormat};
pub use isa::{Isa, IsaError};
pub use kv::{Batch, BatchRow, KvCache, KvShape};
pub use kv_dtype::KvDtype;
pub use linear::{Epilogue, linear, linear_workspace_bytes};
pub use logits::{all_finite, argmax, exp_in_place, log_sum_exp, max};
pub use map::MappedFile;
pub use memory::AllocError;
pub use norm::{Norm, head_norm, norm, norm_add};
pub use pack::{MappedError, PackedBuilder, PackedMatrix};
pub use rope::{Rope, RopeStyle, rope};
pub use team::Team;
pub use view::{View, ViewMut};
