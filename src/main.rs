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
mod log;
mod machine;
mod operations;
mod output;
mod pins;
mod plan;
mod proxy;
mod serve;
mod settings;
mod shapes;
mod signals;
mod simulate;
#[cfg(feature = "otlp")]
mod spans;
mod startup;
mod tables;
mod terminal;
mod trace;
mod trust;
mod typed;
mod vocabulary;

use std::process::ExitCode;

use crate::args::Command;
use crate::limits::LogFormat;
use crate::log::Log;

fn main() -> ExitCode {
    let cli = typed::parse();
    let format = match &cli.command {
        None => cli.serve.http.log_format,
        Some(Command::Serve(args)) => args.http.log_format,
        Some(_) => LogFormat::default(),
    };
    let log = Log::start(format);
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
        Ok(()) => {
            log.end("");
            ExitCode::SUCCESS
        }
        Err(error) => {
            log.end(&format!("folio: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}
