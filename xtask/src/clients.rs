//! The official OpenAI client against the binary, as a user would have it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo_command, run, target};

pub(crate) fn check(root: &Path) -> Result<()> {
    // The same selection of packages as in the tests, or cargo would build them again with other features.
    run(&mut cargo_command(&["test", "--workspace", "--no-run", "--quiet"]))?;
    let python = environment(root)?;
    run(Command::new(python)
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "tests/clients"])
        .env("FOLIO_BINARY", target(root).join("debug/folio"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(root))
}

/// Makes the virtual environment, once per list of requirements, and returns its Python.
fn environment(root: &Path) -> Result<PathBuf> {
    let folder = target(root).join("venv");
    let python = folder.join("bin/python");
    let wanted_file = root.join("tests/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&wanted_file).context("tests/clients/requirements.txt")?;
    let stamp = folder.join("installed-requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("installing the test clients into {}", folder.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).context(
        "python3 with its venv module is needed (on Debian and Ubuntu: the packages python3 and python3-venv)",
    )?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(&wanted_file))
    .context("pip could not install the test clients; it needs a Python package index")?;
    std::fs::write(&stamp, wanted).context("cannot write into the virtual environment")?;
    Ok(python)
}
