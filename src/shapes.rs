//! Models by their configuration alone: what can be planned and simulated without a weight being there.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use folio_model::fields::Fields;
use folio_model::{Checkpoint, Dtype, ModelSource, ModelSpec, Outline, arch};
use folio_sim::cost::Shape;

use crate::builtin;

/// Longest configuration that is read, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// Models that are known by name, by the configurations their makers publish. OPT-175B's is that of its paper.
const KNOWN: [(&str, &[u8]); 6] = [
    ("opt-13b", include_bytes!("../models/shapes/opt-13b.json")),
    ("opt-66b", include_bytes!("../models/shapes/opt-66b.json")),
    ("opt-175b", include_bytes!("../models/shapes/opt-175b.json")),
    ("llama-13b", include_bytes!("../models/shapes/llama-13b.json")),
    ("llama-3-8b", include_bytes!("../models/shapes/llama-3-8b.json")),
    ("llama-3-70b", include_bytes!("../models/shapes/llama-3-70b.json")),
];

/// A model that may or may not be there.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) outline: Outline,
}

impl Described {
    /// The model in a folder, of a `config.json`, or of a known name; without any, the built-in one.
    ///
    /// # Errors
    /// When there is no such model, or its configuration is not understood.
    pub(crate) fn find(model: Option<&Path>) -> Result<Self> {
        let Some(path) = model else {
            let source = ModelSource::Embedded { name: builtin::NAME, files: builtin::FILES };
            return Ok(Self::of_checkpoint(&Checkpoint::open(&source)?));
        };
        let name = path.to_string_lossy().to_lowercase();
        if let Some((known, config)) = KNOWN.iter().find(|(known, _)| *known == name) {
            return Self::of_config((*known).to_owned(), config);
        }
        let config = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if gguf {
            return Ok(Self::of_checkpoint(&Checkpoint::open(&ModelSource::at(
                path.to_path_buf(),
            ))?));
        }
        if path.is_dir()
            && let Ok(checkpoint) = Checkpoint::open(&ModelSource::Folder(path.to_path_buf()))
        {
            return Ok(Self::of_checkpoint(&checkpoint));
        }
        let names = KNOWN.map(|(name, _)| name).join(", ");
        if !config.is_file() {
            bail!(
                "there is no model {}; give a folder, a GGUF file, a config.json, or one of {names}",
                path.display()
            );
        }
        let mut bytes = Vec::new();
        let read =
            File::open(&config).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", config.display()))?;
        ensure!(
            u64::try_from(bytes.len()).is_ok_and(|len| len <= MOST_BYTES),
            "{} is larger than {MOST_BYTES} bytes",
            config.display()
        );
        let folder = config.parent().and_then(Path::file_name);
        let name =
            folder.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Self::of_config(name, &bytes)
    }

    fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        Self { name: checkpoint.name(), outline: Outline::of_checkpoint(checkpoint) }
    }

    fn of_config(name: String, config: &[u8]) -> Result<Self> {
        let fields = Fields::parse("config.json", config)?;
        let (spec, _) = arch::read(&fields)?;
        let stored = match fields.text("dtype")?.or(fields.text("torch_dtype")?) {
            Some("float32") => Dtype::F32,
            Some("float16") => Dtype::F16,
            _ => Dtype::Bf16,
        };
        Ok(Self { name, outline: Outline::of_floats(spec, stored) })
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
            ("llama-13b", 12.9),
            ("llama-3-8b", 7.5),
            ("llama-3-70b", 69.5),
        ] {
            let shape = Described::find(Some(Path::new(name))).unwrap().shape();
            let weights = shape.weight_bytes / 2e9;
            assert!((weights / billions - 1.0).abs() < 0.02, "{name}: {weights}");
        }
        let shape = Described::find(Some(Path::new("OPT-13B"))).unwrap().shape();
        assert_eq!(shape, Shape::opt_13b());
        let problem = Described::find(Some(Path::new("opt-14b"))).unwrap_err().to_string();
        assert!(problem.contains("opt-13b"), "{problem}");
    }
}
