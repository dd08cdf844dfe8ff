//! The project's chores, so that one command per chore is all anybody has to remember.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a tool for the terminal")]

mod clients;
mod deny;
mod e2e;
mod evaluate;
mod fuzz;
mod metadata;
mod peers;
mod soak;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask <chore>

  test         check, clients and every test; what CI runs
  check        formatting, lints, house rules, dependencies: the quick part
  deny         dependency bans and licences (deny.toml)
  clients      the official OpenAI client against the built binary (installs it into target/venv)
  e2e          LangChain, LiteLLM, Instructor, lm-evaluation-harness, Node, two routers and random requests against the release binary (installs into target)
  fuzz [S]     damaged inputs for each parser (by coverage with cargo-fuzz), then random traces for the scheduler, so many seconds each
  soak [N]     N requests (10000) of 200 rude clients against the release binary
  evaluate     simulate the paper's evaluation and write docs/evaluation.md
  evaluate measure  measure what that page says of this machine, on which nothing else should run
  bench peers  folio beside other engines on the same models and work, as ratios; without flags it tells them
";

/// What `test` writes in a new folder, in GiB.
const NEEDED_GIB: u64 = 3;

fn main() -> ExitCode {
    let chore = std::env::args().nth(1);
    let done = match chore.as_deref() {
        Some("test") => test(),
        Some("check") => check(),
        Some("deny") => deny::check(&root()),
        Some("clients") => clients::check(&root()),
        Some("e2e") => e2e::check(&root()),
        Some("bench") if std::env::args().nth(2).as_deref() == Some("peers") => {
            peers::run(&root(), std::env::args().skip(3))
        }
        Some("fuzz") => fuzz::run(&root(), std::env::args().nth(2).as_deref()),
        Some("soak") => soak::check(&root(), std::env::args().nth(2).as_deref()),
        Some("evaluate") => {
            evaluate::run(&root(), std::env::args().nth(2).as_deref() == Some("measure"))
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn check() -> Result<()> {
    cargo("formatting", &["fmt", "--all", "--check"])?;
    // A workspace of its own, of which nothing else needs more than a stable compiler has.
    cargo("formatting of fuzz/", &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    step("dependencies", || deny::check(&root()))?;
    cargo("house rules", &["test", "--workspace", "--test", "tidy"])
}

fn test() -> Result<()> {
    check()?;
    cargo("tests", &["test", "--workspace", "--no-fail-fast"])?;
    step("clients", || clients::check(&root()))
}

/// Runs a cargo command as a named step.
pub(crate) fn cargo(name: &str, arguments: &[&str]) -> Result<()> {
    step(name, || run(&mut cargo_command(arguments)))
}

/// A cargo command of this workspace.
pub(crate) fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(root());
    // What makes the next build quick is gigabytes that a build without a next one need not write. All builds of a run must
    // agree on it, or cargo does them again.
    if std::env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("\n== {name}");
    let start = Instant::now();
    work().with_context(|| format!("{name} failed{}", full_disk()))?;
    eprintln!("== {name}: fine ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// What to say of a failure beside a disk on which a linker, for one, dies without a word of it.
fn full_disk() -> String {
    let free = rustix::fs::statvfs(root()).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
    if free >> 30 >= NEEDED_GIB {
        return String::new();
    }
    format!(
        " (the disk has {} MiB left, where building everything takes {NEEDED_GIB} GiB: make room, or set CARGO_TARGET_DIR)",
        free >> 20
    )
}

/// Where cargo builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Builds the binary as users have it, and says where it is.
pub(crate) fn release_binary(root: &Path) -> Result<PathBuf> {
    cargo("the binary", &["build", "--release", "--bin", "folio"])?;
    Ok(target(root).join("release/folio"))
}

/// Runs a command to its end; its output goes to the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
