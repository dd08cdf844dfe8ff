//! Longer fuzzing of the scheduler: random traces from seeds that nobody has tried yet.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Without a number of seconds.
const SECONDS: u64 = 60;
/// Seeds between two looks at the clock.
const BATCH: u64 = 2_000;

/// Runs batches of seeds until the time is over; the first failure ends it and says its seed.
pub(crate) fn run(root: &Path, seconds: Option<&str>) -> Result<()> {
    let seconds = match seconds {
        Some(text) => text.parse().context("usage: cargo xtask fuzz [SECONDS]")?,
        None => SECONDS,
    };
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() << 20;
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
