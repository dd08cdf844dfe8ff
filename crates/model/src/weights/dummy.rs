//! Weights that nobody trained, for models of which only the shape matters: how fast they are, how much memory they take.

use folio_kernels::{Dtype, Raw};
use half::{bf16, f16};

use super::inventory::Inventory;
use crate::error::ModelError;
use crate::sample::mix;
use crate::spec::ModelSpec;

/// Bytes of the largest tensor; that of the largest models of today has a quarter of this.
const MOST_BYTES: usize = 8 << 30;
/// Numbers until they repeat: a prime, so that the rows of a matrix differ.
const PERIOD: usize = 65_521;

/// As many numbers as the largest tensor has; every tensor is the beginning of them.
pub(super) struct Dummy {
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Dummy {
    /// For a model of this shape, stored as floats of one kind.
    ///
    /// # Errors
    /// When one of its tensors is unreasonably large.
    pub(super) fn new(spec: &ModelSpec, dtype: Dtype) -> Result<Self, ModelError> {
        let bytes = Inventory::of_floats(spec, dtype).largest().saturating_mul(dtype.bytes());
        if bytes > MOST_BYTES {
            return Err(ModelError::Unsupported(format!(
                "config.json: dummy weights of this shape would have a tensor of {bytes} bytes; at most {MOST_BYTES} are made up"
            )));
        }
        let period: Vec<u8> =
            (0_u64..).take(PERIOD).flat_map(|at| stored(dtype, small(at))).collect();
        Ok(Self { dtype, bytes: period.iter().copied().cycle().take(bytes).collect() })
    }

    /// A tensor of so many numbers; `None` when no tensor of the model has so many.
    pub(super) fn tensor(&self, numbers: usize) -> Option<Raw<'_>> {
        let bytes = self.bytes.get(..numbers.checked_mul(self.dtype.bytes())?)?;
        Some(Raw::new(self.dtype, bytes))
    }
}

/// A number from -0.02 to 0.02, as weights are when training begins.
#[allow(clippy::cast_precision_loss, reason = "a random number")]
fn small(at: u64) -> f32 {
    let unit = (mix(at) >> 40) as f32 / (1_u64 << 24) as f32;
    0.04 * unit - 0.02
}

fn stored(dtype: Dtype, value: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}
