//! Dependency bans and licences.
//!
//! Reads the parts of `deny.toml` that need no network. The format is cargo-deny's; the check is ours because building
//! that tool takes longer than all our tests, and a fresh machine has to pass with cargo alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::metadata::{Metadata, Package};

#[derive(Deserialize)]
struct Rules {
    bans: Bans,
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(crate) fn check(root: &Path) -> Result<()> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let rules: Rules = toml::from_str(&text).context("deny.toml")?;
    let metadata = Metadata::read(root)?;
    let mut problems = Vec::new();
    for package in &metadata.packages {
        problems.extend(banned(package, &rules.bans));
        problems.extend(bad_source(package));
        problems.extend(bad_license(package, &rules.licenses));
    }
    problems.extend(duplicates(&metadata.shipped(), &rules.bans));
    if problems.is_empty() {
        eprintln!(
            "{} packages, {} of them shipped",
            metadata.packages.len(),
            metadata.shipped().len()
        );
        return Ok(());
    }
    bail!("deny.toml is not obeyed:\n  {}", problems.join("\n  "))
}

fn banned(package: &Package, bans: &Bans) -> Option<String> {
    let banned = bans.deny.iter().any(|b| b.name == package.name);
    banned.then(|| format!("{} is banned", package.name))
}

fn bad_source(package: &Package) -> Option<String> {
    let source = package.source.as_deref()?;
    (source != REGISTRY)
        .then(|| format!("{} comes from {source}, not from crates.io", package.name))
}

fn bad_license(package: &Package, licenses: &Licenses) -> Option<String> {
    let name = &package.name;
    let Some(text) = &package.license else {
        return Some(format!("{name} names no licence"));
    };
    // Old manifests write MIT/Apache-2.0 for "or".
    let expression = match spdx::Expression::parse_mode(text, spdx::ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => {
            return Some(format!("{name}: licence {text:?} cannot be read: {}", error.reason));
        }
    };
    let allowed = |req: &spdx::LicenseReq| {
        req.license.id().is_some_and(|id| licenses.allow.iter().any(|a| a == id.name))
            && req.addition.is_none()
    };
    (!expression.evaluate(allowed)).then(|| format!("{name}: licence {text} is not on the list"))
}

fn duplicates(packages: &[&Package], bans: &Bans) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    versions
        .into_iter()
        .filter(|(name, found)| found.len() > 1 && !bans.skip.iter().any(|s| s.name == *name))
        .map(|(name, found)| {
            format!("{name} comes in {} versions: {}", found.len(), found.join(", "))
        })
        .collect()
}
