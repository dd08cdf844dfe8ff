//! Libraries, proxies and routers that people have around a server, against the release binary.
//!
//! What cannot be installed is said and its tests are skipped: a registry may not have it, or there is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{release_binary, run, target};

pub(crate) fn check(root: &Path) -> Result<()> {
    let binary = release_binary(root)?;
    let python = python(root)?;
    let mut tests = Command::new(python);
    tests
        .args(["-m", "pytest", "-q", "-s", "-rs", "-p", "no:cacheprovider", "tests/e2e"])
        .env("FOLIO_BINARY", binary)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(root);
    if let Some(modules) = node(root)? {
        tests.env("FOLIO_NODE_MODULES", modules);
    }
    run(&mut tests)
}

/// A virtual environment with as many of the packages as there are.
fn python(root: &Path) -> Result<PathBuf> {
    let folder = target(root).join("venv-e2e");
    let (python, uv) = (folder.join("bin/python"), folder.join("bin/uv"));
    if !uv.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        // pip takes an hour to find versions of LiteLLM's dependencies that agree, uv seconds.
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "uv"]))?;
    }
    let list = fs::read_to_string(root.join("tests/e2e/requirements.txt"))
        .context("tests/e2e/requirements.txt")?;
    for package in list.lines() {
        let mut install = Command::new(&uv);
        install.args(["pip", "install", "--quiet", "--python"]).arg(&python).arg(package);
        if run(&mut install).is_err() {
            eprintln!("{package} cannot be installed: its tests are skipped");
        }
    }
    Ok(python)
}

/// A folder with the official client for Node, if there is Node.
fn node(root: &Path) -> Result<Option<PathBuf>> {
    let folder = target(root).join("node-e2e");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join("package.json"), "{\"private\": true}")
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    let mut install = Command::new("npm");
    install.args(["install", "--silent", "openai"]).current_dir(&folder);
    if run(&mut install).is_ok() {
        return Ok(Some(folder));
    }
    eprintln!("npm cannot install openai: the test of the client for Node is skipped");
    Ok(None)
}
