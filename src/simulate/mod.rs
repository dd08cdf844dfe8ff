//! `folio simulate`: what an engine would do under some traffic, on hardware that need not be here.
//!
//! | file | its one idea |
//! |---|---|
//! | `args` | what was typed |
//! | `traffic` | the requests |
//! | `machine` | the cost of steps and the size of the cache |
//! | `experiment` | the runs, one after the other |
//! | `report` | their figures on the terminal and as JSON |
//! | `page` | the same as a page with charts |

mod args;
mod experiment;
mod machine;
mod page;
mod report;
mod traffic;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
pub(crate) use args::SimulateArgs;

use crate::output;

/// Simulates and reports.
pub(crate) fn run(args: &SimulateArgs) -> Result<()> {
    let files = [&args.output.json, &args.output.html].map(|file| file.as_deref().filter(is_file));
    output::writable(files)?;
    let results = experiment::all(args)?;
    let quiet = args.output.json.as_deref() == Some(Path::new("-"));
    if let Some(file) = &args.output.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        write(file, &text)?;
    }
    if let Some(file) = &args.output.html {
        write(file, &page::page(&results))?;
    }
    if !quiet {
        write(Path::new("-"), &report::table(&results))?;
    }
    Ok(())
}

/// And not standard output.
fn is_file(file: &&Path) -> bool {
    *file != Path::new("-")
}

fn write(file: &Path, text: &str) -> Result<()> {
    if is_file(&file) {
        return output::write(file, text);
    }
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}
