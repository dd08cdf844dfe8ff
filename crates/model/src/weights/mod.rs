//! The weights of a folder: which file holds which tensor, and whether each is as the configuration says.
//!
//! Opening reads headers only. Everything the forward pass will need is found and checked then, so that loading cannot
//! fail for want of a tensor after minutes of work.

mod dummy;
mod files;
mod inventory;
mod packed;
mod quantise;
mod resolve;
mod safetensors;
mod stored;

pub use files::WeightFiles;
pub use inventory::MatrixLayout;
pub(crate) use inventory::{Inventory, Keep, Kept};
pub(crate) use packed::MOST_GROUP;
pub use packed::Scheme;
pub use quantise::Quantization;
pub use resolve::{LayerTensors, LinearTensors, ModelTensors, NormTensors};
pub use stored::{Elements, PackedPlace, Stored, Tensor};
