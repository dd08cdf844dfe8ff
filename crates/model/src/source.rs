//! Where a model's files come from: a folder, one file, or the binary itself.
//!
//! Names are plain file names, never paths, so that no file of a model can point outside its folder. Links are followed:
//! the Hugging Face cache consists of them. Sizes are checked before anything is read, and only regular files are opened,
//! so that a pipe or a device cannot hang the start.

use std::fs;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use folio_kernels::MappedFile;

use crate::error::ModelError;
use crate::file_names::CONFIG;

/// Most bytes of a configuration file.
pub const MOST_CONFIG_BYTES: u64 = 16 << 20;
/// Most bytes of any other file that is read whole, such as `tokenizer.json`.
const MOST_TEXT_BYTES: u64 = 256 << 20;

/// Files of a model that is part of the binary: names and contents.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// A model's files.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A folder as Hugging Face lays it out, or with one GGUF model in it.
    Folder(PathBuf),
    /// One GGUF file, or any part of a split one; the others lie beside it.
    File(PathBuf),
    /// Files inside the binary.
    Embedded {
        /// What the model is called.
        name: &'static str,
        /// The same files a folder would hold.
        files: EmbeddedFiles,
    },
    /// A configuration without weights, which are made up.
    Dummy {
        /// What the model is called.
        name: String,
        /// Its `config.json`.
        config: Vec<u8>,
        /// Where all other files are, such as those of a tokenizer.
        others: Box<Self>,
    },
}

/// Where files are looked for.
enum Place<'a> {
    Folder(&'a Path),
    Embedded(EmbeddedFiles),
}

/// The bytes of a whole file, mapped or part of the binary.
pub(crate) enum FileBytes {
    Mapped(MappedFile),
    Embedded(&'static [u8]),
}

impl FileBytes {
    /// What was read will not be read again soon.
    pub(crate) fn release(&self) {
        match self {
            Self::Mapped(file) => file.release(),
            Self::Embedded(_) => {}
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// Whether `name` names a file inside the folder and nothing else.
pub(crate) fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    one && !name.contains(['/', '\\', '\0', ':'])
}

impl ModelSource {
    /// What lies at `path`: a file or else a folder.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        if path.is_file() { Self::File(path) } else { Self::Folder(path) }
    }

    /// The name of the one file, if it is one.
    pub(crate) fn file_name(&self) -> Option<String> {
        match self {
            Self::File(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            Self::Folder(_) | Self::Embedded { .. } | Self::Dummy { .. } => None,
        }
    }

    /// A model's folder; a file's is the one around it.
    fn place(&self) -> Place<'_> {
        match self {
            Self::Embedded { files, .. } => Place::Embedded(files),
            Self::Dummy { others, .. } => others.place(),
            Self::Folder(folder) => Place::Folder(folder),
            Self::File(path) => Place::Folder(path.parent().unwrap_or(Path::new(""))),
        }
    }

    /// The contents of a file, or `None` when there is none of that name.
    ///
    /// # Errors
    /// When it cannot be read, is not a regular file, or is unreasonably large.
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        self.read_bounded(name, MOST_TEXT_BYTES)
    }

    pub(crate) fn read_bounded(
        &self,
        name: &str,
        most: u64,
    ) -> Result<Option<Vec<u8>>, ModelError> {
        if let (Self::Dummy { config, .. }, CONFIG) = (self, name) {
            return Ok(Some(config.clone()));
        }
        let bytes = match self.place() {
            Place::Embedded(files) => find(files, name).map(<[u8]>::to_vec),
            Place::Folder(folder) => match regular(folder, name)? {
                None => None,
                Some(path) => Some(read_at_most(&path, name, most)?),
            },
        };
        if bytes.as_deref().is_some_and(is_lfs_pointer) {
            return Err(lfs_pointer(name));
        }
        Ok(bytes)
    }

    /// Maps a file, or `None` when there is none of that name.
    pub(crate) fn map(&self, name: &str) -> Result<Option<FileBytes>, ModelError> {
        let bytes = match self.place() {
            Place::Embedded(files) => find(files, name).map(FileBytes::Embedded),
            Place::Folder(folder) => match regular(folder, name)? {
                None => None,
                Some(path) => {
                    let mapped = MappedFile::open(&path).map_err(|e| cannot_read(name, &e))?;
                    Some(FileBytes::Mapped(mapped))
                }
            },
        };
        if bytes.as_deref().is_some_and(is_lfs_pointer) {
            return Err(lfs_pointer(name));
        }
        Ok(bytes)
    }

    /// The names in the folder, as far as they are text; at most the first few thousand.
    pub(crate) fn names(&self) -> Vec<String> {
        const MOST: usize = 4096;
        match self.place() {
            Place::Embedded(files) => files.iter().map(|(n, _)| (*n).to_owned()).collect(),
            Place::Folder(folder) => fs::read_dir(folder)
                .map(|entries| {
                    entries
                        .take(MOST)
                        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                        .collect()
                })
                .unwrap_or_default(),
        }
    }
}

fn find(files: EmbeddedFiles, name: &str) -> Option<&'static [u8]> {
    files.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
}

/// The path of a regular file of the folder, or `None` when there is nothing of that name.
fn regular(folder: &Path, name: &str) -> Result<Option<PathBuf>, ModelError> {
    if !is_plain(name) {
        return Err(ModelError::file(name, "is not the name of a file inside the model's folder"));
    }
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(data) if data.is_file() => Ok(Some(path)),
        Ok(_) => Err(ModelError::file(name, "is not a regular file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot_read(name, &e)),
    }
}

fn read_at_most(path: &Path, name: &str, most: u64) -> Result<Vec<u8>, ModelError> {
    let file = fs::File::open(path).map_err(|e| cannot_read(name, &e))?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits, even while it grows.
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| cannot_read(name, &e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(ModelError::file(name, format!("is larger than {most} bytes")));
    }
    Ok(bytes)
}

fn cannot_read(name: &str, error: &io::Error) -> ModelError {
    ModelError::file(name, format!("cannot be read: {error}"))
}

fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

fn lfs_pointer(name: &str) -> ModelError {
    ModelError::file(
        name,
        "is a Git LFS pointer, not the file itself; run `git lfs pull` in the model's folder",
    )
}
