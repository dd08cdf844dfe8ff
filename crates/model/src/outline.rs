//! A model as far as memory goes: its shape, and how each of its matrices is stored; enough to plan without a weight being there.

use folio_kernels::Dtype;

use crate::checkpoint::Checkpoint;
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
