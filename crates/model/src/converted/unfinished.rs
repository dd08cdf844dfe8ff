//! The folder of a conversion that is not finished.
//!
//! Files are written in a folder inside it, which works wherever it lies: on a disk of its own, behind a link, or as the
//! current folder. Whoever writes holds a lock on a file in there, so that what a killed conversion left is told from what a
//! running one is writing, and both from what is somebody else's.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::ModelError;

const PARTIAL: &str = ".partial";
const LOCK: &str = "folio-convert.lock";

/// Goes away when it is dropped before it is finished.
pub(super) struct Unfinished {
    out: PathBuf,
    partial: PathBuf,
    /// Whether `out` goes away, too.
    made: bool,
    /// Held until all is in its place.
    _lock: File,
}

impl Unfinished {
    /// Makes the folder `out`, or takes it over where it is empty or has only what a killed conversion left.
    pub(super) fn new(out: &Path) -> Result<Self, ModelError> {
        // Without a slash or dot at the end, which not every call understands of a folder that is not there.
        let out: PathBuf = out.components().collect();
        let shown = out.display().to_string();
        let refused = |problem: &str| ModelError::file(&shown, problem);
        let failed = |e: io::Error| ModelError::file(&shown, format!("cannot be written: {e}"));
        let partial = out.join(PARTIAL);
        if !is_free(&out, &partial) {
            return Err(refused("is there already; choose a new folder, or remove it first"));
        }
        let made = !out.exists();
        fs::create_dir_all(&partial).map_err(failed)?;
        let lock = partial.join(LOCK);
        let left = lock.exists();
        let file = File::options().create(true).append(true).open(&lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(refused("is being written by another conversion; wait for it"));
            }
            // A file system without locks, where nobody can tell whether that conversion still runs.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported && !left => {}
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // Between the look and the lock, another conversion may have finished and removed its folder: before this one opened
        // the file, or after.
        let finished = || refused("has just been written by another conversion");
        if file.metadata().map_err(failed)?.nlink() == 0 {
            return Err(finished());
        }
        let unfinished = Self { out, partial, made, _lock: file };
        if !is_free(&unfinished.out, &unfinished.partial) {
            return Err(finished());
        }
        unfinished.clear().map_err(failed)?;
        Ok(unfinished)
    }

    /// Where files are to be written.
    pub(super) fn folder(&self) -> &Path {
        &self.partial
    }

    /// Moves all files to their place.
    pub(super) fn finish(mut self) -> io::Result<()> {
        for path in self.contents()? {
            fs::rename(&path, self.out.join(path.file_name().unwrap_or_default()))?;
        }
        self.made = false;
        Ok(())
    }

    /// Removes what a killed conversion left; it made no folders.
    fn clear(&self) -> io::Result<()> {
        self.contents()?.iter().try_for_each(fs::remove_file)
    }

    fn contents(&self) -> io::Result<Vec<PathBuf>> {
        let all = fs::read_dir(&self.partial)?.map(|entry| Ok(entry?.path()));
        let mut all = all.collect::<io::Result<Vec<PathBuf>>>()?;
        all.retain(|path| !path.ends_with(LOCK));
        Ok(all)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.partial);
        if self.made {
            let _ = fs::remove_dir(&self.out);
        }
    }
}

/// Whether nothing is there, or nothing but what a conversion made.
fn is_free(out: &Path, partial: &Path) -> bool {
    let names = |folder: &Path| -> Option<Vec<_>> {
        fs::read_dir(folder).ok()?.map(|entry| Some(entry.ok()?.file_name())).collect()
    };
    match names(out) {
        None => !out.exists(),
        Some(names) if names.is_empty() => true,
        Some(there) => {
            let ours = names(partial)
                .is_some_and(|inside| inside.is_empty() || inside.iter().any(|name| name == LOCK));
            there == [PARTIAL] && ours
        }
    }
}
