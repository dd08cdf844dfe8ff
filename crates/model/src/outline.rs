//! A model as far as memory goes: its shape, and how each of its matrices is stored; enough to plan without a weight being there.

use folio_kernels::Dtype;

use crate::arch;
use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::fields::Fields;
use crate::file_names::CONFIG;
use crate::spec::ModelSpec;
use crate::weights::Inventory;

/// What a memory plan needs to know of a model.
#[derive(Clone, Debug)]
pub struct Outline {
    pub(crate) spec: ModelSpec,
    pub(crate) inventory: Inventory,
}

impl Outline {
    /// Of a model whose weights are there.
    #[must_use]
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        Self { spec: checkpoint.spec().clone(), inventory: checkpoint.inventory().clone() }
    }

    /// Of a model of which only the configuration is there, with all weights stored as floats of one kind.
    #[must_use]
    pub fn of_floats(spec: ModelSpec, dtype: Dtype) -> Self {
        let inventory = Inventory::of_floats(&spec, dtype);
        Self { spec, inventory }
    }

    /// Of a model of which only the `config.json` is there.
    ///
    /// # Errors
    /// When the configuration is not understood; the message names the field.
    pub fn of_config(config: &[u8]) -> Result<Self, ModelError> {
        let fields = Fields::parse(CONFIG, config)?;
        let (spec, _) = arch::read(&fields)?;
        Ok(Self::of_floats(spec, stored_dtype(&fields)?))
    }

    /// Its shape.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The kind that most floats are stored in; half precision where there are none.
    #[must_use]
    pub fn stored_dtype(&self) -> Dtype {
        self.inventory.dtype()
    }
}

/// The kind of float that a configuration says the weights are stored as; half precision where it does not say.
///
/// # Errors
/// When the field is not a text.
pub(crate) fn stored_dtype(config: &Fields) -> Result<Dtype, ModelError> {
    Ok(match config.text("dtype")?.or(config.text("torch_dtype")?) {
        Some("float32") => Dtype::F32,
        Some("float16") => Dtype::F16,
        _ => Dtype::Bf16,
    })
}
