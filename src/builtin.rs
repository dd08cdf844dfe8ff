//! The built-in model: small enough to ship inside the binary, so that the first run needs nothing but the binary.

/// Name the model answers to.
pub(crate) const NAME: &str = "folio-demo";

/// The files of a Hugging Face model folder, by name.
pub(crate) const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../models/demo/config.json")),
    ("generation_config.json", include_bytes!("../models/demo/generation_config.json")),
    ("model.safetensors", include_bytes!("../models/demo/model.safetensors")),
    ("tokenizer.json", include_bytes!("../models/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../models/demo/tokenizer_config.json")),
];
