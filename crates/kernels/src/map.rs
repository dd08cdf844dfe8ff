//! A file as memory, so that weights are read straight from the page cache.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file, mapped read-only.
///
/// The file must not be changed or truncated by others while it is mapped: changed bytes would show through, and reading past a
/// new end raises `SIGBUS`. Checkpoints are written once, so this is what every loader of weights relies on; a folder that
/// somebody is still downloading into is the user's to avoid.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a whole file.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // SAFETY: the map is read-only and private to this value. That others leave the file alone cannot be checked; it is
        // stated above, and what is read is parsed as untrusted bytes, so a change can make garbage but no unsoundness in types
        // (every byte pattern is a valid u8).
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }

    /// Asks the system to read the file ahead, without waiting for it.
    pub fn read_ahead(&self) {
        #[cfg(unix)]
        // Only a wish: what is not there yet is read when it is needed.
        let _ = self.0.advise(memmap2::Advice::WillNeed);
    }

    /// Tells the system that what was read will not be read again soon, so that it stops counting as this process' memory.
    /// Reading it again is allowed, and slower.
    pub fn release(&self) {
        #[cfg(unix)]
        // SAFETY: of a file that is mapped read-only nothing is lost: a page that is read again comes from the file again.
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_and_a_folder_is_refused() {
        let folder = std::env::temp_dir().join(format!("folio-kernels-map-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        std::fs::write(&path, b"weights").unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        std::fs::write(folder.join("empty"), b"").unwrap();
        let empty = MappedFile::open(&folder.join("empty")).unwrap();
        assert_eq!((&mapped[..], &empty[..]), (&b"weights"[..], &b""[..]));
        mapped.release();
        empty.release();
        assert_eq!(&mapped[..], b"weights");
        assert!(MappedFile::open(&folder).is_err());
        assert!(MappedFile::open(&folder.join("missing")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
