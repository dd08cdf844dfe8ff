//! The weights of a folder: which file holds which tensor, and whether each is as the configuration says.
//!
//! Opening reads headers only. Everything the forward pass will need is found and checked then, so that loading cannot
//! fail for want of a tensor after minutes of work.

mod files;
mod resolve;
mod safetensors;

pub use files::{Tensor, WeightFiles};
pub use resolve::{LayerTensors, LinearTensors, ModelTensors, NormTensors};
