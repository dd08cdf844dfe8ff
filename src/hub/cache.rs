//! The Hugging Face cache on disk, as their Python library lays it out, so that each finds what the other has fetched:
//!
//! ```text
//! ROOT/models--ORG--NAME/refs/REVISION              the commit that a branch or tag meant
//!                        snapshots/COMMIT/FILE      a relative link to the blob
//!                        blobs/ETAG                 the contents
//!                        blobs/ETAG.incomplete      the beginning of the contents
//! ROOT/.locks/models--ORG--NAME/ETAG.lock           held by whoever fetches the blob
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::name::{Commit, Etag, FilePath, Repo, Revision};
use crate::typed::variable;

/// Longest contents of a file in `refs` that are read.
const MOST_REF_BYTES: u64 = 128;
/// Most files of a snapshot that are listed.
const MOST_FILES: usize = 100_000;

/// One model's part of the cache.
pub(crate) struct Cache {
    root: PathBuf,
    model: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// Where the environment says: `HF_HUB_CACHE`, else `hub` in [`home`].
    pub(crate) fn from_env(repo: &Repo) -> Result<Self> {
        let root = match variable("HF_HUB_CACHE") {
            Some(root) => PathBuf::from(root),
            None => home()?.join("hub"),
        };
        let model = root.join(repo.folder());
        let locks = root.join(".locks").join(repo.folder());
        Ok(Self { root, model, locks })
    }

    /// Where all models lie.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.model.join("snapshots").join(commit.as_str())
    }

    /// The commit a revision is, or meant when it was last looked up.
    pub(crate) fn commit(&self, revision: &Revision) -> Option<Commit> {
        let file = self.model.join("refs").join(revision.as_str());
        revision.commit().or_else(|| {
            let length = fs::metadata(&file).ok()?.len();
            let text = (length <= MOST_REF_BYTES).then(|| fs::read_to_string(&file).ok())??;
            Commit::parse(text.trim()).ok()
        })
    }

    /// Notes what a revision means.
    pub(crate) fn remember(&self, revision: &Revision, commit: &Commit) -> Result<()> {
        if revision.commit().is_some() || self.commit(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let file = self.model.join("refs").join(revision.as_str());
        make_parent(&file)?;
        // Renamed into place: whoever reads it meanwhile finds the old or the new one.
        let new = file.with_file_name(format!(".{}.{}", std::process::id(), commit.as_str()));
        fs::write(&new, commit.as_str())
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The files of a snapshot whose contents are there.
    pub(crate) fn files(&self, commit: &Commit) -> Vec<FilePath> {
        let mut found = Vec::new();
        list(&self.snapshot(commit), "", &mut found);
        found
    }

    pub(crate) fn has(&self, commit: &Commit, file: &FilePath) -> bool {
        fs::metadata(self.snapshot(commit).join(file.as_str())).is_ok_and(|data| data.is_file())
    }

    /// The contents named by `etag`, if they are there in full.
    pub(crate) fn has_blob(&self, etag: &Etag, size: u64) -> bool {
        fs::metadata(self.blob(etag)).is_ok_and(|data| data.is_file() && data.len() == size)
    }

    pub(crate) fn blob(&self, etag: &Etag) -> PathBuf {
        self.model.join("blobs").join(etag.as_str())
    }

    pub(crate) fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.model.join("blobs").join(format!("{}.incomplete", etag.as_str()))
    }

    /// Waits until nobody else fetches this blob; `waiting` is called if somebody does. The lock ends with the file.
    pub(crate) fn lock(&self, etag: &Etag, waiting: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", etag.as_str()));
        make_parent(&path)?;
        make_parent(&self.blob(etag))?;
        let problem = || format!("cannot lock {}", path.display());
        let file = File::options().create(true).append(true).open(&path).with_context(problem)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                waiting();
                file.lock().with_context(problem)?;
            }
            // A file system without locks: the incomplete file may be written twice, and its checksum then tells.
            Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(fs::TryLockError::Error(e)) => return Err(e).with_context(problem),
        }
        Ok(file)
    }

    /// Makes the blob a file of the snapshot.
    pub(crate) fn link(&self, commit: &Commit, file: &FilePath, etag: &Etag) -> Result<()> {
        let path = self.snapshot(commit).join(file.as_str());
        make_parent(&path)?;
        let target = format!("{}../../blobs/{}", "../".repeat(file.depth()), etag.as_str());
        // Whatever is there is broken, or nobody would have asked.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        match symlink(&target, &path) {
            // Another process was quicker.
            Err(_) if self.has(commit, file) => Ok(()),
            linked => linked.with_context(|| format!("cannot link {}", path.display())),
        }
    }

    /// Free bytes where the cache lies; `None` where the system does not tell.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let there = self.root.ancestors().find(|folder| folder.exists())?;
        let system = rustix::fs::statvfs(there).ok()?;
        system.f_bavail.checked_mul(system.f_frsize)
    }
}

/// The folder of everything Hugging Face: `HF_HOME`, else `huggingface` in the user's cache folder.
pub(crate) fn home() -> Result<PathBuf> {
    if let Some(home) = variable("HF_HOME") {
        return Ok(home.into());
    }
    if let Some(caches) = variable("XDG_CACHE_HOME") {
        return Ok(Path::new(&caches).join("huggingface"));
    }
    match variable("HOME") {
        Some(home) => Ok(Path::new(&home).join(".cache/huggingface")),
        None => bail!("neither HF_HUB_CACHE, HF_HOME nor HOME says where models are to be kept"),
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder).with_context(|| {
        format!("cannot make {}; HF_HUB_CACHE chooses another place", folder.display())
    })
}

/// Adds the files of a folder and the folders in it, as far as their names could come from the hub.
fn list(folder: &Path, prefix: &str, found: &mut Vec<FilePath>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(path) = FilePath::parse(&format!("{prefix}{name}")) else { continue };
        // The path's bound on its parts bounds the depth, too.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(&entry.path(), &format!("{path}/"), found),
            _ if found.len() < MOST_FILES && entry.path().is_file() => found.push(path),
            _ => {}
        }
    }
}
