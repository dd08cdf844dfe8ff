//! Model folders with one damaged file.

use std::fs;
use std::path::PathBuf;

use folio_model::{Checkpoint, ModelSource};

/// A folder of the tiny model of the corpus, removed when dropped.
pub(super) struct Folder(PathBuf);

const CONFIG: &[u8] = include_bytes!("../corpus/config/llama.json");
const WEIGHTS: &[u8] = include_bytes!("../corpus/safetensors/llama.safetensors");

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("folio-fuzz-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.json"), CONFIG).unwrap();
        fs::write(path.join("model.safetensors"), WEIGHTS).unwrap();
        Self(path)
    }

    /// What opening the folder with this file says.
    pub(super) fn opened(&self, file: &str, bytes: &[u8]) -> String {
        fs::write(self.0.join(file), bytes).unwrap();
        open(self.0.clone())
    }

    /// What opening this file says.
    pub(super) fn opened_alone(&self, file: &str, bytes: &[u8]) -> String {
        let path = self.0.join(file);
        fs::write(&path, bytes).unwrap();
        open(path)
    }
}

fn open(path: PathBuf) -> String {
    let said = match Checkpoint::open(&ModelSource::at(path)) {
        Ok(_) => "fine".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(!said.is_empty() && said.len() < 2000, "{} bytes", said.len());
    said
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
