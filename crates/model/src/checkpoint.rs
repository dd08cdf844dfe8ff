//! A model folder, opened and checked, nothing loaded: the door between files and everything else.

use std::fmt;

use folio_core::ids::Token;
use folio_core::params::GenerationDefaults;
use folio_kernels::Dtype;

use crate::arch;
use crate::error::ModelError;
use crate::fields::Fields;
use crate::generation::read_generation;
use crate::names::Names;
use crate::source::{MOST_CONFIG_BYTES, ModelSource};
use crate::spec::ModelSpec;
use crate::weights::{ModelTensors, WeightFiles};

const CONFIG: &str = "config.json";

/// A model whose configuration is understood and whose tensors are all there.
pub struct Checkpoint {
    source: ModelSource,
    spec: ModelSpec,
    names: Names,
    files: WeightFiles,
    stored: Dtype,
    eos: Vec<Token>,
    defaults: GenerationDefaults,
}

impl Checkpoint {
    /// Reads the configuration and the headers of the weight files, and checks that they agree.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged, contradictory or not supported.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        if let ModelSource::Folder(folder) = source
            && !folder.is_dir()
        {
            return Err(ModelError::file(
                &folder.display().to_string(),
                "is not a folder; give one with config.json and safetensors weights",
            ));
        }
        let config = source
            .read_bounded(CONFIG, MOST_CONFIG_BYTES)?
            .ok_or_else(|| ModelError::file(CONFIG, "is missing"))?;
        let config = Fields::parse(CONFIG, &config)?;
        let (spec, names) = arch::read(&config)?;
        let (eos, defaults) = read_generation(source, &config, spec.vocab)?;
        let files = WeightFiles::open(source)?;
        let stored = ModelTensors::resolve(&files, &spec, &names)?.stored_dtype();
        Ok(Self { source: source.clone(), spec, names, files, stored, eos, defaults })
    }

    /// What the model is.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The kind most weights are stored in.
    #[must_use]
    pub fn stored_dtype(&self) -> Dtype {
        self.stored
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

    /// The name to serve it under when none is given: the folder's.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.source {
            ModelSource::Embedded { name, .. } => (*name).to_owned(),
            ModelSource::Folder(folder) => {
                let whole = folder.canonicalize();
                let folder = whole.as_ref().unwrap_or(folder);
                let last = folder.file_name().map(|name| name.to_string_lossy().into_owned());
                last.unwrap_or_else(|| "model".to_owned())
            }
        }
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
        ModelTensors::resolve(&self.files, &self.spec, &self.names)
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
