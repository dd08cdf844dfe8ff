//! The soak test at full size, against the release binary.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::clients::target;

/// Builds the binary as users have it and lets 200 clients make 10,000 requests, or as many as `requests` says.
pub(crate) fn run(root: &Path, requests: Option<&str>) -> Result<()> {
    let cargo = || {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(root);
        command
    };
    crate::run(cargo().args(["build", "--release", "--quiet"]))?;
    crate::run(
        cargo()
            .args(["test", "--quiet", "--test", "soak", "--", "--nocapture"])
            .env("FOLIO_BINARY", target(root).join("release/folio"))
            .env("FOLIO_SOAK_CLIENTS", "200")
            .env("FOLIO_SOAK_REQUESTS", requests.unwrap_or("10000")),
    )
}
