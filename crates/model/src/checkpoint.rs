//! A model folder or file, opened and checked, nothing loaded: the door between files and everything else.

use std::fmt;

use folio_core::ids::Token;
use folio_core::params::GenerationDefaults;
use folio_kernels::{Dtype, WeightFormat};

use crate::arch;
use crate::arch::gguf::{Described, ROPE_FACTORS};
use crate::converted::{ConvertedFile, METADATA_FILE};
use crate::error::ModelError;
use crate::fields::Fields;
use crate::file_names::CONFIG;
use crate::generation::{read_generation, read_gguf_generation};
use crate::gguf::{self, Found, Metadata};
use crate::names::Names;
use crate::outline::stored_dtype;
use crate::source::{MOST_CONFIG_BYTES, ModelSource};
use crate::spec::ModelSpec;
use crate::weights::{Inventory, ModelTensors, Quantization, Scheme, Stored, WeightFiles};

/// A model whose configuration is understood and whose tensors are all there.
pub struct Checkpoint {
    source: ModelSource,
    spec: ModelSpec,
    names: Names,
    weights: Weights,
    inventory: Inventory,
    name: String,
    metadata: Option<Metadata>,
    eos: Vec<Token>,
    defaults: GenerationDefaults,
}

/// Where the weights are.
enum Weights {
    /// In files as they come.
    Stored(WeightFiles),
    /// In a file that was converted once.
    Converted(ConvertedFile),
}

impl Checkpoint {
    /// Reads the configuration and the headers of the weight files, and checks that they agree.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged, contradictory or not supported.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        if matches!(source, ModelSource::Dummy { .. }) {
            return Self::open_folder(source);
        }
        if let ModelSource::Folder(folder) = source
            && !folder.is_dir()
        {
            return Err(ModelError::file(
                &folder.display().to_string(),
                "is not there; give a folder with config.json and safetensors weights, or a GGUF file",
            ));
        }
        if let Some(converted) = ConvertedFile::open(source)? {
            return Self::open_converted(source, converted);
        }
        match gguf::find(source)? {
            Some(found) => Self::open_gguf(source, &found),
            None => Self::open_folder(source),
        }
    }

    fn open_converted(source: &ModelSource, file: ConvertedFile) -> Result<Self, ModelError> {
        let Some(head) = source.read_file(METADATA_FILE)? else {
            let config = read_config(source)?;
            let about = arch::read(&config)?;
            let generation = read_generation(source, &config, about.0.vocab)?;
            return Self::new(source, about, Weights::Converted(file), generation);
        };
        let (metadata, _) = gguf::read_metadata(METADATA_FILE, &head)?;
        let described = Described {
            fields: &metadata.fields(),
            shape: &|name| file.gguf_shape(name),
            rope_factors: file.rope_factors()?,
        };
        let about = arch::gguf::read(&described)?;
        let generation = read_gguf_generation(&metadata, about.0.vocab)?;
        let checkpoint = Self::new(source, about, Weights::Converted(file), generation)?;
        Ok(Self { metadata: Some(metadata), ..checkpoint })
    }

    fn open_folder(source: &ModelSource) -> Result<Self, ModelError> {
        let config = read_config(source)?;
        let (spec, names) = arch::read(&config)?;
        let generation = read_generation(source, &config, spec.vocab)?;
        let files = match source {
            ModelSource::Dummy { .. } => WeightFiles::dummy(&spec, stored_dtype(&config)?)?,
            _ => WeightFiles::open(source, Scheme::read(&config)?)?,
        };
        Self::new(source, (spec, names), Weights::Stored(files), generation)
    }

    fn open_gguf(source: &ModelSource, found: &Found) -> Result<Self, ModelError> {
        let (files, metadata) = WeightFiles::open_gguf(source, found)?;
        let fields = metadata.fields();
        let rope_factors = rope_factors(&files)?;
        let shape = |name: &str| files.shape(name);
        let described = Described { fields: &fields, shape: &shape, rope_factors };
        let (spec, names) = arch::gguf::read(&described)?;
        let generation = read_gguf_generation(&metadata, spec.vocab)?;
        let weights = Weights::Stored(files);
        let checkpoint = Self::new(source, (spec, names), weights, generation)?;
        let name = found.model_name().to_owned();
        Ok(Self { name, metadata: Some(metadata), ..checkpoint })
    }

    fn new(
        source: &ModelSource,
        (spec, names): (ModelSpec, Names),
        weights: Weights,
        (eos, defaults): (Vec<Token>, GenerationDefaults),
    ) -> Result<Self, ModelError> {
        let tensors = weights.tensors(&spec, &names)?;
        let mut inventory = Inventory::new(&tensors, &spec);
        drop(tensors);
        if let Weights::Converted(file) = &weights {
            inventory.converted = Some(file.dtype());
        }
        let (source, name) = (source.clone(), folder_name(source));
        Ok(Self { source, spec, names, weights, inventory, name, metadata: None, eos, defaults })
    }

    /// What the model is.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The kind most weights are stored in, of those that are floats; half precision where none are.
    #[must_use]
    pub fn stored_dtype(&self) -> Dtype {
        self.inventory.dtype()
    }

    /// How most weights of the layers lie in memory when these are asked for; as they are stored, where that cannot be had.
    #[must_use]
    pub fn layer_format(
        &self,
        dtype: Option<Dtype>,
        quantization: Option<Quantization>,
    ) -> WeightFormat {
        let kept = self.inventory.keep(dtype, quantization).map(|keep| self.inventory.kept(keep));
        let layers = kept.as_ref().unwrap_or(&self.inventory).of_layers();
        layers.map_or(WeightFormat::Float(self.stored_dtype()), Stored::format)
    }

    /// All matrices, and how they are stored.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The metadata of a GGUF file, with the vocabulary; `None` for folders, which have files for these.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// The tokens that end a text; ids beyond the vocabulary, which can never be generated, are left out.
    #[must_use]
    pub fn eos(&self) -> &[Token] {
        &self.eos
    }

    /// Sampling parameters its makers recommend.
    #[must_use]
    pub fn generation_defaults(&self) -> GenerationDefaults {
        self.defaults
    }

    /// The name to serve it under when none is given: that of the folder or the GGUF file.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// The contents of another file of the model, such as `tokenizer.json`; `None` when there is none of that name.
    ///
    /// # Errors
    /// When it cannot be read, or is unreasonably large.
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        self.source.read_file(name)
    }

    /// The tensors, checked once more as they are found again.
    pub(crate) fn tensors(&self) -> Result<ModelTensors<'_>, ModelError> {
        self.weights.tensors(&self.spec, &self.names)
    }

    /// Where the files are.
    pub(crate) fn source(&self) -> &ModelSource {
        &self.source
    }

    /// The weight files, unless they have been converted.
    pub(crate) fn stored(&self) -> Option<&WeightFiles> {
        match &self.weights {
            Weights::Stored(files) => Some(files),
            Weights::Converted(_) => None,
        }
    }
}

impl Weights {
    fn tensors(&self, spec: &ModelSpec, names: &Names) -> Result<ModelTensors<'_>, ModelError> {
        match self {
            Self::Stored(files) => ModelTensors::resolve(files, spec, names),
            Self::Converted(file) => file.tensors(spec),
        }
    }
}

fn read_config(source: &ModelSource) -> Result<Fields, ModelError> {
    let config = source
        .read_bounded(CONFIG, MOST_CONFIG_BYTES)?
        .ok_or_else(|| ModelError::file(CONFIG, "is missing, and there is no GGUF file"))?;
    Fields::parse(CONFIG, &config)
}

/// The factors of a GGUF model's frequencies, if it has any.
pub(crate) fn rope_factors(files: &WeightFiles) -> Result<Option<Vec<f32>>, ModelError> {
    match files.shape(ROPE_FACTORS) {
        Some(shape) => Ok(Some(files.tensor(ROPE_FACTORS, &shape)?.floats()?.to_f32())),
        None => Ok(None),
    }
}

fn folder_name(source: &ModelSource) -> String {
    match source {
        ModelSource::Embedded { name, .. } => (*name).to_owned(),
        ModelSource::Dummy { name, .. } => name.clone(),
        ModelSource::Folder(path) | ModelSource::File(path) => {
            let whole = path.canonicalize();
            let last = whole.as_ref().unwrap_or(path).file_name();
            last.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("source", &self.source)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}
