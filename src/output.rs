//! What commands that take long leave behind: files that are known to be writable before anything is measured, and lines on
//! standard output, where the reader may have gone.

use std::fmt::Arguments;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

/// Whether a line could not be printed.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line of results; that nobody reads it ends no measurement.
macro_rules! outln {
    ($($arg:tt)*) => { crate::output::print(format_args!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use outln;

/// Prints a part of the results.
pub(crate) fn print(text: Arguments<'_>) {
    if std::io::stdout().write_fmt(text).is_err() {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Tells at the end whether all that was printed went somewhere.
///
/// # Errors
/// When it did not.
pub(crate) fn printed() -> Result<()> {
    ensure!(!LOST.load(Ordering::Relaxed), "standard output: results could not be printed");
    Ok(())
}

/// Makes sure that results can be written later. Files stay as they are.
///
/// # Errors
/// Names the first file that cannot be written.
pub(crate) fn writable<'a>(files: impl IntoIterator<Item = Option<&'a Path>>) -> Result<()> {
    for file in files.into_iter().flatten() {
        let there = file.exists();
        let opened = OpenOptions::new().append(true).create(true).open(file);
        opened.with_context(|| format!("cannot write {}", file.display()))?;
        if !there {
            let _ = fs::remove_file(file);
        }
    }
    Ok(())
}

/// Writes a file that was [`writable`] before.
///
/// # Errors
/// Names the file.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
