//! Longer fuzzing: whatever is parsed, then the scheduler with random traces, from seeds that nobody has tried yet.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Without a number of seconds.
const SECONDS: u64 = 60;
/// Seeds between two looks at the clock.
const BATCH: u64 = 2_000;

/// Fuzzes each parser, one after the other, and the scheduler for so long; the first failure ends it and says its seed.
pub(crate) fn run(root: &Path, seconds: Option<&str>) -> Result<()> {
    let seconds = match seconds {
        Some(text) => text.parse().context("usage: cargo xtask fuzz [SECONDS]")?,
        None => SECONDS,
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // Not optimised, so that overflows are caught.
    crate::run(
        Command::new(env!("CARGO"))
            .args(["test", "--quiet", "--test", "fuzz", "--", "--nocapture", "--test-threads", "1"])
            .env("FOLIO_FUZZ_SEED", seed.to_string())
            .env("FOLIO_FUZZ_SECONDS", seconds.to_string())
            .current_dir(root),
    )?;
    traces(root, seconds, seed << 20)
}

/// Runs batches of seeds until the time is over.
fn traces(root: &Path, seconds: u64, mut seed: u64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tried = 0;
    while Instant::now() < until {
        crate::run(
            Command::new(env!("CARGO"))
                .args(["test", "--quiet", "--release", "--package", "folio-sim", "--test", "fuzz"])
                .env("FOLIO_FUZZ_SEED", seed.to_string())
                .env("FOLIO_FUZZ_COUNT", BATCH.to_string())
                .current_dir(root),
        )?;
        (seed, tried) = (seed + BATCH, tried + BATCH);
    }
    eprintln!("{tried} seeds, the last one {}", seed - 1);
    Ok(())
}
