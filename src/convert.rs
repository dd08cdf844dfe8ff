//! `folio convert`: weights packed once and for all, so that the next start maps them.
#![allow(clippy::print_stderr, reason = "what a user sees of a conversion")]

use anyhow::{Context, Result};
use folio_model::{Checkpoint, Conversion, ModelSource};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::ConvertArgs;
use crate::{hub, machine, settings};

/// Converts, and says how to serve the result.
///
/// # Errors
/// When the model cannot be read or the folder cannot be written.
pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    let conversion = Conversion {
        dtype: settings::dtype(args.dtype),
        quantization: args.quantization,
        threads: args.threads.map_or_else(machine::threads, |threads| threads as usize),
        isa: settings::isa()?,
    };
    let located = hub::locate(&args.model, args.revision.as_deref())?;
    let checkpoint = Checkpoint::open(&ModelSource::at(located.path))
        .with_context(|| format!("cannot convert {}", args.model.display()))?;
    let style = ProgressStyle::with_template("converting {bar:32} {bytes}/{total_bytes}  {eta}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let done = folio_model::convert(&checkpoint, &conversion, &args.out, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    done.with_context(|| format!("cannot convert {}", args.model.display()))?;
    eprintln!("converted; try: folio serve {}", args.out.display());
    Ok(())
}
