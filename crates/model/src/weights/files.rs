//! Which file holds which tensor: one `model.safetensors`, shards listed in `model.safetensors.index.json`, or GGUF files;
//! or no file at all, and whatever is asked for is made up.
//!
//! Pickle files are refused: reading them means running whatever program they contain.

use folio_kernels::{Dtype, Raw};
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::dummy::Dummy;
use super::packed::Scheme;
use super::safetensors::{Plain, SafetensorsFile};
use super::stored::{Elements, Tensor};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::file_names::{WEIGHTS, WEIGHTS_INDEX};
use crate::gguf::{BlockMatrix, Found, GgufFile, Metadata, StoredTensor};
use crate::source::{MOST_CONFIG_BYTES, ModelSource, is_plain};
use crate::spec::ModelSpec;

const MOST_SHARDS: usize = 4096;

/// All weight files of a model, opened and their headers read.
pub struct WeightFiles {
    files: Vec<WeightFile>,
    /// With several files: which of `files` holds, or is said to hold, a tensor.
    index: Option<FxHashMap<String, usize>>,
    /// What says which tensor is where, for messages.
    index_name: String,
    /// How linear layers that have no `.weight` are stored.
    scheme: Option<Scheme>,
}

enum WeightFile {
    Safetensors(SafetensorsFile),
    Gguf(GgufFile),
    Dummy(Dummy),
}

impl WeightFile {
    fn name(&self) -> &str {
        match self {
            Self::Safetensors(file) => &file.name,
            Self::Gguf(file) => &file.name,
            Self::Dummy(_) => "dummy weights",
        }
    }

    fn release(&self) {
        match self {
            Self::Safetensors(file) => file.bytes.release(),
            Self::Gguf(file) => file.bytes.release(),
            Self::Dummy(_) => {}
        }
    }

    fn contains(&self, tensor: &str) -> bool {
        match self {
            Self::Safetensors(file) => file.contains(tensor),
            Self::Gguf(file) => file.tensor(tensor).is_some(),
            Self::Dummy(_) => true,
        }
    }

    /// Shape and contents; `None` when the file has none of that name. What is made up has no shape of its own.
    fn tensor(&self, name: &str) -> Option<Result<(&[usize], Elements<'_>), ModelError>> {
        match self {
            Self::Dummy(_) => None,
            Self::Safetensors(file) => {
                let found = file.tensor(name)?;
                Some(found.map(|(shape, raw)| (shape, Elements::Floats(raw))))
            }
            Self::Gguf(file) => {
                let stored = file.tensor(name)?;
                let elements = gguf_elements(&stored).ok_or_else(|| {
                    ModelError::tensor(&file.name, name, "is not whole blocks of its kind")
                });
                Some(elements.map(|elements| (stored.shape, elements)))
            }
        }
    }
}

fn gguf_elements<'a>(stored: &StoredTensor<'a>) -> Option<Elements<'a>> {
    if let Some(dtype) = stored.kind.float() {
        return Some(Elements::Floats(Raw::new(dtype, stored.bytes)));
    }
    let (inputs, outer) = stored.shape.split_last()?;
    let outputs = outer.iter().product();
    let source = BlockMatrix::new(stored.kind, outputs, *inputs, stored.bytes)?;
    Some(Elements::Codes { source: Box::new(source), name: stored.kind.name() })
}

impl WeightFiles {
    /// Opens the single file or all shards of a Hugging Face folder, whose linear layers may be stored by `scheme`.
    ///
    /// # Errors
    /// When there are none, or one is missing or damaged.
    pub fn open(source: &ModelSource, scheme: Option<Scheme>) -> Result<Self, ModelError> {
        let index_name = WEIGHTS_INDEX.to_owned();
        if let Some(bytes) = source.map(WEIGHTS)? {
            let file = WeightFile::Safetensors(SafetensorsFile::open(WEIGHTS, bytes)?);
            return Ok(Self { files: vec![file], index: None, index_name, scheme });
        }
        let Some(index) = source.read_bounded(WEIGHTS_INDEX, MOST_CONFIG_BYTES)? else {
            return Err(no_weights(source));
        };
        let (names, index) = read_index(&index)?;
        let files = names
            .iter()
            .map(|name| {
                let bytes = source.map(name)?.ok_or_else(|| {
                    ModelError::file(name, format!("is missing; {WEIGHTS_INDEX} lists it"))
                })?;
                SafetensorsFile::open(name, bytes).map(WeightFile::Safetensors)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { files, index: Some(index), index_name, scheme })
    }

    /// Makes the weights of a model of this shape up.
    ///
    /// # Errors
    /// When one of its tensors is unreasonably large.
    pub(crate) fn dummy(spec: &ModelSpec, dtype: Dtype) -> Result<Self, ModelError> {
        let files = vec![WeightFile::Dummy(Dummy::new(spec, dtype)?)];
        Ok(Self { files, index: None, index_name: String::new(), scheme: None })
    }

    /// Opens a GGUF model, whose first file has the metadata.
    ///
    /// # Errors
    /// When a part is missing or damaged, or two hold the same tensor.
    pub(crate) fn open_gguf(
        source: &ModelSource,
        found: &Found,
    ) -> Result<(Self, Metadata), ModelError> {
        let mut files = Vec::with_capacity(found.files.len());
        let mut index = FxHashMap::default();
        let mut metadata = None;
        for (number, name) in found.files.iter().enumerate() {
            let bytes = source.map(name)?.ok_or_else(|| ModelError::file(name, "is missing"))?;
            let mut file = GgufFile::open(name, bytes)?;
            for tensor in file.names() {
                if let Some(other) = index.insert(tensor.to_owned(), number) {
                    let other = found.files.get(other).map_or("", String::as_str);
                    return Err(ModelError::tensor(name, tensor, format!("is in {other} too")));
                }
            }
            metadata.get_or_insert_with(|| std::mem::take(&mut file.metadata));
            files.push(WeightFile::Gguf(file));
        }
        let index_name = found.files.join(", ");
        let files = Self { files, index: Some(index), index_name, scheme: None };
        Ok((files, metadata.unwrap_or_default()))
    }

    /// What was read so far will not be read again soon: it is in memory as the kernels want it, once.
    pub(crate) fn release(&self) {
        self.files.iter().for_each(WeightFile::release);
    }

    /// Whether a tensor of this name is stored or promised.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match &self.index {
            Some(index) => index.contains_key(name),
            None => self.files.iter().any(|f| f.contains(name)),
        }
    }

    /// The file that holds, or should hold, a tensor.
    fn file_of(&self, name: &str) -> Result<&WeightFile, ModelError> {
        let listed = match &self.index {
            Some(index) => index.get(name).and_then(|&file| self.files.get(file)),
            None => self.files.first(),
        };
        listed.ok_or_else(|| {
            let state = if self.index_name == WEIGHTS_INDEX { "not listed" } else { "missing" };
            let problem = format!("is {state}, but the model needs it");
            ModelError::tensor(&self.index_name, name, problem)
        })
    }

    /// The names and shapes of all tensors of a GGUF model.
    pub(crate) fn gguf_shapes(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        let names = self.files.iter().flat_map(|file| match file {
            WeightFile::Gguf(file) => file.names().collect(),
            WeightFile::Safetensors(_) | WeightFile::Dummy(_) => Vec::new(),
        });
        names.filter_map(|name| Some((name, self.shape(name)?)))
    }

    /// The shape of a tensor, if it is stored.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (shape, _) = self.file_of(name).ok()?.tensor(name)?.ok()?;
        Some(shape.to_vec())
    }

    /// The tensor of this name, which must have this shape.
    ///
    /// # Errors
    /// When it is missing, of an unknown kind, or shaped otherwise.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, ModelError> {
        let file = self.file_of(name)?;
        let missing =
            || ModelError::tensor(file.name(), name, "is missing, but the model needs it");
        if let WeightFile::Dummy(dummy) = file {
            let raw = dummy.tensor(shape.iter().product()).ok_or_else(missing)?;
            return Ok(Tensor {
                file: file.name(),
                name: name.to_owned(),
                elements: Elements::Floats(raw),
            });
        }
        let (stored, elements) = file.tensor(name).ok_or_else(missing)??;
        check_shape(file.name(), name, stored, shape)?;
        Ok(Tensor { file: file.name(), name: name.to_owned(), elements })
    }

    /// The weights of a linear layer, `[outputs, inputs]`, or the other way round where `transposed` and not quantised.
    ///
    /// # Errors
    /// As [`WeightFiles::tensor`].
    pub fn matrix(
        &self,
        layer: &str,
        outputs: usize,
        inputs: usize,
        transposed: bool,
    ) -> Result<Tensor<'_>, ModelError> {
        let name = format!("{layer}.weight");
        if let Some(scheme) = &self.scheme
            && self.contains(&scheme.codes_name(layer))
        {
            let tensor = |suffix: &str| self.stored(&format!("{layer}.{suffix}"));
            let elements = scheme.elements(&tensor, outputs, inputs)?;
            let file = self.file_of(&scheme.codes_name(layer))?.name();
            return Ok(Tensor { file, name: scheme.codes_name(layer), elements });
        }
        let shape = if transposed { [inputs, outputs] } else { [outputs, inputs] };
        self.tensor(&name, &shape)
    }

    /// A tensor of any kind of number; `None` when there is none of that name.
    fn stored(&self, name: &str) -> Result<Option<Plain<'_>>, ModelError> {
        if !self.contains(name) {
            return Ok(None);
        }
        match self.file_of(name)? {
            WeightFile::Safetensors(file) => file.plain(name).transpose(),
            WeightFile::Gguf(_) | WeightFile::Dummy(_) => Ok(None),
        }
    }
}

pub(super) fn check_shape(
    file: &str,
    tensor: &str,
    stored: &[usize],
    expected: &[usize],
) -> Result<(), ModelError> {
    if stored == expected {
        return Ok(());
    }
    let problem =
        format!("has shape {stored:?}, but by the model's configuration it must have {expected:?}");
    Err(ModelError::tensor(file, tensor, problem))
}

/// The shards' names, and which of them holds which tensor.
fn read_index(bytes: &[u8]) -> Result<(Vec<String>, FxHashMap<String, usize>), ModelError> {
    let fields = Fields::parse(WEIGHTS_INDEX, bytes)?;
    let Some(Value::Object(map)) = fields.value("weight_map") else {
        return Err(ModelError::Field {
            file: WEIGHTS_INDEX,
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
                WEIGHTS_INDEX,
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
        return Err(ModelError::file(
            WEIGHTS_INDEX,
            format!("lists more than {MOST_SHARDS} files"),
        ));
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
    ModelError::file(WEIGHTS, format!("is missing, and so are {WEIGHTS_INDEX} and GGUF files"))
}
