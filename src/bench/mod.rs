//! `folio bench`: how fast a model is on this machine, and how fast a server answers.
//!
//! `latency` and `throughput` run the engine that serves, in this process and without HTTP or text; `serve` is a client of
//! any server.
pub(crate) mod args;
mod dataset;
mod engine;
mod fit;
mod laps;
mod latency;
mod limits;
mod pace;
mod serve;
mod throughput;

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use self::args::{BenchArgs, BenchKind};
use crate::output;

/// Measures, prints, and writes what was asked for.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    output::writable(args.kind.files())?;
    match &args.kind {
        BenchKind::Latency(args) => latency::run(args)?,
        BenchKind::Throughput(args) => throughput::run(args)?,
        BenchKind::Serve(args) => serve::run(args)?,
    }
    output::printed()
}

/// The results of one policy as they are, those of several as a list.
fn by_policy(mut runs: Vec<Value>) -> Value {
    match runs.pop() {
        Some(only) if runs.is_empty() => only,
        last => {
            runs.extend(last);
            json!({ "runs": runs })
        }
    }
}

/// Writes results where they were asked for.
fn write_json(file: Option<&Path>, results: &Value) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(results)?;
    output::write(file, &(text + "\n"))
}
