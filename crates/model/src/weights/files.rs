//! Which file holds which tensor: one `model.safetensors`, or shards listed in `model.safetensors.index.json`.
//!
//! Pickle files are refused: reading them means running whatever program they contain.

use folio_kernels::Raw;
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::safetensors::SafetensorsFile;
use crate::error::ModelError;
use crate::fields::Fields;
use crate::source::{MOST_CONFIG_BYTES, ModelSource, is_plain};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MOST_SHARDS: usize = 4096;

/// All weight files of a model, opened and their headers read.
pub struct WeightFiles {
    files: Vec<SafetensorsFile>,
    /// With shards: which of `files` the index gives for a tensor.
    index: Option<FxHashMap<String, usize>>,
}

/// A stored tensor, where it lies.
#[derive(Clone)]
pub struct Tensor<'a> {
    /// The file, for messages.
    pub file: &'a str,
    /// The full name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// The elements.
    pub raw: Raw<'a>,
}

impl WeightFiles {
    /// Opens the single file or all shards.
    ///
    /// # Errors
    /// When there are none, or one is missing or damaged.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        if let Some(bytes) = source.map(SINGLE)? {
            return Ok(Self { files: vec![SafetensorsFile::open(SINGLE, bytes)?], index: None });
        }
        let Some(index) = source.read_bounded(INDEX, MOST_CONFIG_BYTES)? else {
            return Err(no_weights(source));
        };
        let (names, index) = read_index(&index)?;
        let files = names
            .iter()
            .map(|name| {
                let bytes = source.map(name)?.ok_or_else(|| {
                    ModelError::file(name, format!("is missing; {INDEX} lists it"))
                })?;
                SafetensorsFile::open(name, bytes)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { files, index: Some(index) })
    }

    /// Whether a tensor of this name is stored or promised.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match &self.index {
            Some(index) => index.contains_key(name),
            None => self.files.iter().any(|f| f.tensor(name).is_some()),
        }
    }

    /// The tensor of this name, which must have this shape.
    ///
    /// # Errors
    /// When it is missing, of an unknown kind, or shaped otherwise.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, ModelError> {
        let listed = match &self.index {
            Some(index) => index.get(name).and_then(|&file| self.files.get(file)),
            None => self.files.first(),
        };
        let Some(file) = listed else {
            return Err(ModelError::tensor(INDEX, name, "is not listed, but the model needs it"));
        };
        let Some(found) = file.tensor(name) else {
            return Err(ModelError::tensor(&file.name, name, "is missing, but the model needs it"));
        };
        let (stored, raw) = found?;
        if stored != shape {
            return Err(ModelError::tensor(
                &file.name,
                name,
                format!("has shape {stored:?}, but by config.json it must have {shape:?}"),
            ));
        }
        Ok(Tensor { file: &file.name, name: name.to_owned(), shape: stored, raw })
    }
}

/// The shards' names, and which of them holds which tensor.
fn read_index(bytes: &[u8]) -> Result<(Vec<String>, FxHashMap<String, usize>), ModelError> {
    let fields = Fields::parse(INDEX, bytes)?;
    let Some(Value::Object(map)) = fields.value("weight_map") else {
        return Err(ModelError::Field {
            file: INDEX,
            field: "weight_map".to_owned(),
            problem: "is missing or not an object".to_owned(),
        });
    };
    let mut names: Vec<String> = Vec::new();
    let mut numbers = FxHashMap::default();
    let mut index = FxHashMap::default();
    for (tensor, file) in map {
        let file = file.as_str().filter(|f| is_plain(f) && f.ends_with(".safetensors"));
        let Some(file) = file else {
            return Err(ModelError::tensor(
                INDEX,
                tensor,
                format!(
                    "is given the file {}, which is not the name of a .safetensors file in the same folder",
                    map[tensor]
                ),
            ));
        };
        let number = *numbers.entry(file).or_insert_with(|| {
            names.push(file.to_owned());
            names.len() - 1
        });
        index.insert(tensor.clone(), number);
    }
    if names.len() > MOST_SHARDS {
        return Err(ModelError::file(INDEX, format!("lists more than {MOST_SHARDS} files")));
    }
    Ok((names, index))
}

fn no_weights(source: &ModelSource) -> ModelError {
    let names = source.names();
    let with = |endings: &[&str]| {
        names.iter().find(|n| endings.iter().any(|e| n.ends_with(e))).map(String::as_str)
    };
    if let Some(pickle) = with(&[".bin", ".pt", ".pth", ".ckpt", ".pkl"]) {
        return ModelError::file(
            pickle,
            "is a pickle file, which can run any program when read, and is therefore refused; convert it: \
             in Python, transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes model.safetensors",
        );
    }
    if let Some(gguf) = with(&[".gguf"]) {
        return ModelError::file(gguf, "is GGUF, which is not supported; safetensors weights are");
    }
    ModelError::file(SINGLE, format!("is missing, and so is {INDEX}"))
}
