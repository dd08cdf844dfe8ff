//! The soak test at full size, against the release binary.

use std::path::Path;

use anyhow::Result;

use crate::{cargo_command, release_binary, run};

/// Builds the binary as users have it and lets 200 clients make 10,000 requests, or as many as `requests` says.
pub(crate) fn check(root: &Path, requests: Option<&str>) -> Result<()> {
    let binary = release_binary(root)?;
    run(cargo_command(&["test", "--quiet", "--test", "soak", "--", "--nocapture"])
        .env("FOLIO_BINARY", binary)
        .env("FOLIO_SOAK_CLIENTS", "200")
        .env("FOLIO_SOAK_REQUESTS", requests.unwrap_or("10000")))
}
