//! One blob from the hub into the cache: resumed where an earlier attempt ended, checked, and named only when whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ring::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::cache::Cache;
use super::client::{Failure, Hub, Meta};
use super::name::{Commit, Etag};
use super::progress::{FileProgress, Progress};

/// Attempts in a row that bring next to nothing, after which it is given up.
const MOST_ATTEMPTS: u32 = 5;
/// An attempt that brought this many bytes was not in vain.
const WORTHWHILE: u64 = 1 << 20;
const BUFFER: usize = 1 << 18;

/// Makes a file part of the snapshot, fetching its contents unless the cache has them.
pub(crate) fn fetch(
    hub: &Hub,
    cache: &Cache,
    commit: &Commit,
    meta: &Meta,
    progress: &mut Progress,
) -> Result<()> {
    if !cache.has_blob(&meta.etag, meta.size) {
        let waiting =
            || progress.say(&format!("another process is fetching {}; waiting", meta.file));
        let lock = cache.lock(&meta.etag, waiting)?;
        let mut progress = progress.file(meta.file.as_str(), meta.size);
        // Somebody else may have fetched it meanwhile.
        if !cache.has_blob(&meta.etag, meta.size) {
            with_retries(hub, cache, commit, meta, &mut progress)
                .with_context(|| format!("cannot fetch {}", meta.file))?;
        }
        progress.at(meta.size);
        drop(lock);
    }
    cache.link(commit, &meta.file, &meta.etag)
}

/// Calls `work` until it succeeds, is refused, or has failed a few times in a row; it says how many bytes it brought.
pub(crate) fn retry<T>(
    mut work: impl FnMut(&mut u64) -> Result<T, Failure>,
    say: impl Fn(&str),
) -> Result<T> {
    let mut attempt = 0;
    loop {
        let mut brought = 0;
        let error = match work(&mut brought) {
            Ok(done) => return Ok(done),
            Err(Failure::Refused(error) | Failure::Distrusted(error)) => return Err(error),
            Err(Failure::Away(error)) => error,
        };
        attempt = if brought >= WORTHWHILE { 1 } else { attempt + 1 };
        if attempt >= MOST_ATTEMPTS {
            return Err(error.context(format!("given up after {attempt} attempts")));
        }
        say(&format!("{error:#}; trying again"));
        if brought == 0 {
            thread::sleep(Duration::from_secs(1 << (attempt - 1)));
        }
    }
}

fn with_retries(
    hub: &Hub,
    cache: &Cache,
    commit: &Commit,
    meta: &Meta,
    progress: &mut FileProgress<'_>,
) -> Result<()> {
    let path = cache.incomplete(&meta.etag);
    let progress = std::cell::RefCell::new(progress);
    retry(
        |brought| {
            let mut progress = progress.borrow_mut();
            let mut partial = Partial::open(&path, meta)?;
            let resumed = partial.length > 0;
            partial.complete(hub, commit, meta, brought, &mut progress)?;
            let fine = partial.digest.matches(&meta.etag);
            if fine {
                partial.file.sync_data().map_err(|e| cannot_write(&path, e))?;
                return Ok(());
            }
            drop(partial);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            let problem = anyhow!(
                "{} is not what the hub announced: its checksum differs; it was damaged on the way, or the server is not to be trusted",
                meta.file
            );
            // Only a beginning from an earlier attempt may be to blame; a whole download would come out the same again.
            Err(if resumed { Failure::Away(problem) } else { Failure::Refused(problem) })
        },
        |text| progress.borrow().say(text),
    )?;
    let blob = cache.blob(&meta.etag);
    fs::rename(&path, &blob).with_context(|| format!("cannot make {}", blob.display()))
}

/// The beginning of a blob.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    digest: Digest,
}

impl<'a> Partial<'a> {
    /// Opens what an earlier attempt has left, or begins.
    fn open(path: &'a Path, meta: &Meta) -> Result<Self> {
        let problem = || format!("cannot open {}", path.display());
        let options =
            File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.with_context(problem)?;
        let length = file.metadata().with_context(problem)?.len();
        let mut partial = Self { path, file, length, digest: Digest::new(meta) };
        if length > meta.size {
            partial.restart(meta)?;
        }
        io::copy(&mut partial.file, &mut partial.digest).with_context(problem)?;
        Ok(partial)
    }

    fn restart(&mut self, meta: &Meta) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.with_context(|| format!("cannot empty {}", self.path.display()))?;
        self.length = 0;
        self.digest = Digest::new(meta);
        Ok(())
    }

    /// Fetches what is missing, and not a byte more than was announced.
    fn complete(
        &mut self,
        hub: &Hub,
        commit: &Commit,
        meta: &Meta,
        brought: &mut u64,
        progress: &mut FileProgress<'_>,
    ) -> Result<(), Failure> {
        if self.length == meta.size {
            return Ok(());
        }
        let (response, from) = hub.contents(commit, meta, self.length)?;
        if from != self.length {
            self.restart(meta)?;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        progress.at(self.length);
        loop {
            let read = match body.read(&mut buffer) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.dropped(meta, &e)),
            };
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            let length = self.length.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            if length > meta.size {
                let said = format!("the hub sends more than the {} bytes it announced", meta.size);
                return Err(anyhow!(said).into());
            }
            self.file.write_all(piece).map_err(|e| cannot_write(self.path, e))?;
            self.digest.update(piece);
            *brought += length - self.length;
            self.length = length;
            progress.at(length);
        }
        if self.length < meta.size {
            return Err(self.dropped(meta, &io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn dropped(&self, meta: &Meta, error: &io::Error) -> Failure {
        let Meta { file, size, .. } = meta;
        let length = self.length;
        Failure::Away(anyhow!(
            "{file}: the connection was lost after {length} of {size} bytes: {error}"
        ))
    }
}

fn cannot_write(path: &Path, error: io::Error) -> anyhow::Error {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let advice =
        if full { "; make room, or set HF_HUB_CACHE to a folder on a larger disk" } else { "" };
    anyhow::Error::new(error).context(format!("cannot write {}{advice}", path.display()))
}

/// The checksum that the etag promises, if it promises one.
struct Digest(Option<digest::Context>);

impl Digest {
    fn new(meta: &Meta) -> Self {
        let context = if meta.etag.is_sha256() {
            Some(digest::Context::new(&SHA256))
        } else if meta.etag.is_git_sha1() {
            let mut context = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", meta.size).as_bytes());
            Some(context)
        } else {
            None
        };
        Self(context)
    }

    fn update(&mut self, bytes: &[u8]) {
        if let Some(context) = &mut self.0 {
            context.update(bytes);
        }
    }

    fn matches(&self, etag: &Etag) -> bool {
        let Some(context) = self.0.clone() else { return true };
        let digest = context.finish();
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        hex == etag.as_str()
    }
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
