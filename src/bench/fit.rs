//! From measured steps to a cost model for `folio simulate --fit`.

use std::path::Path;

use anyhow::{Result, ensure};
use folio_sim::cost::{Fitted, Sample};

use crate::output;
use crate::startup::Running;

/// Fits the steps and writes the file, if one is asked for.
pub(crate) fn write(file: Option<&Path>, running: &Running, samples: &[Sample]) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    ensure!(!samples.is_empty(), "--fit {}: no step was measured", file.display());
    let plan = &running.plan;
    let mut fit = Fitted::to_samples(samples, u32::try_from(plan.block_size)?);
    fit.machine = format!("{} threads of a CPU, {:?}", plan.threads, running.isa);
    fit.model.clone_from(&running.name);
    let text = serde_json::to_string_pretty(&fit)? + "\n";
    output::write(file, &text)
}
