//! The binary: the only place where everything meets.
//!
//! Each command is a file; they share the way from flags to a running engine (`args` → `settings` → `startup`).
#![forbid(unsafe_code)]

mod args;
mod bench;
mod builtin;
mod convert;
mod hub;
mod limits;
mod machine;
mod operations;
mod pins;
mod plan;
mod serve;
mod settings;
mod shapes;
mod simulate;
#[cfg(feature = "otlp")]
mod spans;
mod startup;
mod tables;
mod terminal;
mod trace;
mod vocabulary;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::limits::LogFormat;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match &cli.command {
        None => cli.serve.http.log_format,
        Some(Command::Serve(args)) => args.http.log_format,
        Some(_) => LogFormat::default(),
    };
    log_to_stderr(format);
    let done = match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Chat(args)) => terminal::chat(&args),
        Some(Command::Complete(args)) => terminal::complete(&args),
        Some(Command::Pull(args)) => hub::pull(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Convert(args)) => convert::run(&args),
        Some(Command::Plan(args)) => plan::run(&args),
        Some(Command::Simulate(args)) => simulate::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the command's own last words")]
            {
                eprintln!("folio: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `FOLIO_LOG` chooses what is logged, in the syntax of `RUST_LOG`.
fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("FOLIO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
