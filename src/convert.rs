//! `folio convert`: weights packed once and for all, so that the next start maps them.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use folio_model::{Checkpoint, Conversion, ModelSource, Quantization};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{self, Dtype};
use crate::log::{say, shell_word};
use crate::signals::Signals;
use crate::{hub, machine, settings};

#[derive(Args, Clone, Debug)]
pub(crate) struct ConvertArgs {
    /// Model folder, GGUF file, or model of the Hugging Face hub (ORG/NAME)
    pub(crate) model: PathBuf,

    /// Folder to make
    pub(crate) out: PathBuf,

    /// Branch, tag or commit of a model from the hub; default: main
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,

    /// Type the weights are kept in, as far as they are floats
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub(crate) dtype: Dtype,

    /// Quantise float weights: int8, int4, int4-g64 or int4-g32, as `folio serve` does with the same flag
    #[arg(long, value_name = "KIND", value_parser = args::quantization)]
    pub(crate) quantization: Option<Quantization>,

    /// Threads that convert; default: all the machine grants
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
}

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
    let stopped = stop_flag().context("cannot catch signals")?;
    let done = folio_model::convert(&checkpoint, &conversion, &args.out, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        if stopped.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.finish_and_clear();
    done.with_context(|| format!("cannot convert {}", args.model.display()))?;
    say!("converted; try: folio serve {}", shell_word(&args.out.display().to_string()));
    Ok(())
}

/// A flag that the first SIGINT or SIGTERM raises, so that what has been written so far is removed. A second one ends the process.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::catch()?
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    let watch = move || {
        runtime.block_on(async {
            loop {
                signals.next().await;
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(1);
                }
            }
        });
    };
    thread::Builder::new().name("folio-signals".to_owned()).spawn(watch)?;
    Ok(stopped)
}
