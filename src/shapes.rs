//! Models by their configuration alone: what can be planned and simulated without a weight being there, and timed with weights
//! that are made up.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use folio_model::file_names::CONFIG;
use folio_model::{Checkpoint, MOST_CONFIG_BYTES, ModelSource, ModelSpec, Outline};
use folio_sim::cost::Shape;

use crate::{builtin, hub};

/// Models that are known by name, by the configurations their makers publish. OPT-175B's is that of its paper.
const KNOWN: [(&str, &[u8]); 7] = [
    ("opt-13b", include_bytes!("../models/shapes/opt-13b.json")),
    ("opt-66b", include_bytes!("../models/shapes/opt-66b.json")),
    ("opt-175b", include_bytes!("../models/shapes/opt-175b.json")),
    ("smollm2-135m", include_bytes!("../models/shapes/smollm2-135m.json")),
    ("llama-13b", include_bytes!("../models/shapes/llama-13b.json")),
    ("llama-3-8b", include_bytes!("../models/shapes/llama-3-8b.json")),
    ("llama-3-70b", include_bytes!("../models/shapes/llama-3-70b.json")),
];

/// The known model of a name.
fn known(name: &Path) -> Option<(&'static str, &'static [u8])> {
    let name = name.to_str()?.to_lowercase();
    KNOWN.into_iter().find(|(known, _)| *known == name)
}

/// Whether a model is known by name, so that `folio plan` and `folio simulate` need no files of it.
pub(crate) fn is_known(name: &Path) -> bool {
    known(name).is_some()
}

/// The name and the `config.json` of a model in a folder, of such a file, or of a known name.
///
/// # Errors
/// When there is none.
pub(crate) fn config(model: &Path) -> Result<(String, Vec<u8>)> {
    if let Some((name, config)) = known(model) {
        return Ok((name.to_owned(), config.to_vec()));
    }
    let file = if model.is_dir() { model.join(CONFIG) } else { model.to_path_buf() };
    if !file.is_file() {
        let names = KNOWN.map(|(name, _)| name).join(", ");
        bail!(
            "there is no model {0}; give a folder, a GGUF file, a config.json, what folio pull has fetched, or one of {names}",
            model.display()
        );
    }
    let mut bytes = Vec::new();
    let read =
        File::open(&file).and_then(|file| file.take(MOST_CONFIG_BYTES + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|len| len <= MOST_CONFIG_BYTES),
        "{} is larger than {MOST_CONFIG_BYTES} bytes",
        file.display()
    );
    let folder = file.parent().and_then(Path::file_name);
    let name = folder.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    Ok((name, bytes))
}

/// A model that may or may not be there.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) outline: Outline,
}

impl Described {
    /// The model in a folder, of a `config.json`, of a known name, or of the hub if the cache has it; without any, the built-in
    /// one.
    ///
    /// # Errors
    /// When there is no such model, or its configuration is not understood.
    pub(crate) fn find(model: Option<&Path>, revision: Option<&str>) -> Result<Self> {
        let Some(asked) = model else {
            let source = ModelSource::Embedded { name: builtin::NAME, files: builtin::FILES };
            return Ok(Self::of_checkpoint(&Checkpoint::open(&source)?));
        };
        if !asked.exists()
            && let Some(path) = hub::cached(asked, revision)
        {
            return Ok(Self { name: asked.display().to_string(), ..Self::at(&path)? });
        }
        Self::at(asked)
    }

    fn at(path: &Path) -> Result<Self> {
        if known(path).is_none() {
            let gguf =
                path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
            if gguf {
                let source = ModelSource::at(path.to_path_buf());
                return Ok(Self::of_checkpoint(&Checkpoint::open(&source)?));
            }
            if path.is_dir()
                && let Ok(checkpoint) = Checkpoint::open(&ModelSource::Folder(path.to_path_buf()))
            {
                return Ok(Self::of_checkpoint(&checkpoint));
            }
        }
        let (name, config) = config(path)?;
        Ok(Self { name, outline: Outline::of_config(&config)? })
    }

    fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        Self { name: checkpoint.name(), outline: Outline::of_checkpoint(checkpoint) }
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        self.outline.spec()
    }

    /// What of it decides how long steps take.
    #[allow(clippy::cast_precision_loss, reason = "dimensions are bounded far below 2^52")]
    pub(crate) fn shape(&self) -> Shape {
        let spec = self.spec();
        let (hidden, layers) = (spec.hidden as f64, spec.layers as f64);
        let widths = spec.qkv_width() + spec.query_width() + spec.up_width() + spec.intermediate;
        let layer_weights = hidden * widths as f64 * layers;
        let head_weights = hidden * spec.vocab as f64;
        let bytes = self.outline.stored_dtype().bytes() as f64;
        Shape {
            name: self.name.clone(),
            weight_bytes: bytes * (layer_weights + head_weights),
            layer_flops: 2.0 * layer_weights,
            head_flops: 2.0 * head_weights,
            pair_flops: 4.0 * spec.query_width() as f64 * layers,
            kv_bytes_per_token: 2.0 * spec.kv_width() as f64 * layers * bytes,
            exchange_bytes: bytes * hidden,
            layers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_are_as_large_as_their_names_say() {
        for (name, billions) in [
            ("opt-13b", 12.8),
            ("opt-66b", 65.7),
            ("opt-175b", 174.6),
            ("smollm2-135m", 0.1345),
            ("llama-13b", 12.9),
            ("llama-3-8b", 7.5),
            ("llama-3-70b", 69.5),
        ] {
            let shape = Described::find(Some(Path::new(name)), None).unwrap().shape();
            let weights = shape.weight_bytes / 2e9;
            assert!((weights / billions - 1.0).abs() < 0.02, "{name}: {weights}");
        }
        let shape = Described::find(Some(Path::new("OPT-13B")), None).unwrap().shape();
        assert_eq!(shape, Shape::opt_13b());
        let problem = Described::find(Some(Path::new("opt-14b")), None).unwrap_err().to_string();
        assert!(problem.contains("opt-13b"), "{problem}");
    }
}
