//! Longer fuzzing: whatever is parsed, then the scheduler with random traces, from seeds that nobody has tried yet.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Without a number of seconds.
const SECONDS: u64 = 60;
/// Seeds between two looks at the clock.
const BATCH: u64 = 2_000;
/// The inputs that every run begins with, in a folder per target.
const CORPUS: &str = "tests/fuzz/corpus";

/// Fuzzes each parser, one after the other, and the scheduler for so long; the first failure ends it and says its input.
pub(crate) fn run(root: &Path, seconds: Option<&str>) -> Result<()> {
    let seconds = match seconds {
        Some(text) => text.parse().context("usage: cargo xtask fuzz [SECONDS]")?,
        None => SECONDS,
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    if cargo_fuzz(root)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success()
    {
        by_coverage(root, seconds)?;
    } else {
        eprintln!(
            "cargo-fuzz is not installed (rustup toolchain install nightly; cargo install cargo-fuzz): \
             inputs are chosen by what was said of them, not by the branches they took"
        );
        by_outcome(seconds, seed)?;
    }
    traces(seconds, seed << 20)
}

/// cargo-fuzz, which needs the compiler of tomorrow.
fn cargo_fuzz(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz"]).current_dir(root);
    command
}

/// Lets libFuzzer choose inputs. What it finds of interest stays in `fuzz/corpus` for the next time, what fails in
/// `fuzz/artifacts`.
fn by_coverage(root: &Path, seconds: u64) -> Result<()> {
    // What is fuzzed is what is shipped, whatever newer versions of other crates there are.
    std::fs::copy(root.join("Cargo.lock"), root.join("fuzz/Cargo.lock")).context("Cargo.lock")?;
    crate::run(cargo_fuzz(root).arg("build"))?;
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(root.join(CORPUS)).context(CORPUS)? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    for target in &targets {
        let found = format!("fuzz/corpus/{target}");
        std::fs::create_dir_all(root.join(&found)).with_context(|| found.clone())?;
        eprintln!("\n-- {target}");
        // No single input of that length needs that much memory or time.
        let limits = ["-max_len=65536", "-malloc_limit_mb=512", "-timeout=20", "-detect_leaks=0"];
        crate::run(
            cargo_fuzz(root)
                .args(["run", target, &found, &format!("{CORPUS}/{target}"), "--"])
                .args(limits)
                .args([&format!("-max_total_time={seconds}"), "-print_final_stats=1"]),
        )?;
    }
    Ok(())
}

/// Lets `tests/fuzz` choose inputs.
fn by_outcome(seconds: u64, seed: u64) -> Result<()> {
    // Not optimised, so that overflows are caught.
    let by_outcome =
        ["test", "--quiet", "--test", "fuzz", "--", "--nocapture", "--test-threads", "1"];
    crate::run(
        crate::cargo_command(&by_outcome)
            .env("FOLIO_FUZZ_SEED", seed.to_string())
            .env("FOLIO_FUZZ_SECONDS", seconds.to_string()),
    )
}

/// Runs batches of seeds until the time is over.
fn traces(seconds: u64, mut seed: u64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tried = 0;
    let traces = ["test", "--quiet", "--release", "--package", "folio-sim", "--test", "fuzz"];
    while Instant::now() < until {
        crate::run(
            crate::cargo_command(&traces)
                .env("FOLIO_FUZZ_SEED", seed.to_string())
                .env("FOLIO_FUZZ_COUNT", BATCH.to_string()),
        )?;
        (seed, tried) = (seed + BATCH, tried + BATCH);
    }
    eprintln!("{tried} seeds, the last one {}", seed - 1);
    Ok(())
}
