//! What the files of a model's folder are called, for all who read, convert or fetch one.

/// What a model is.
pub const CONFIG: &str = "config.json";
/// What ends an answer, and how to sample.
pub const GENERATION_CONFIG: &str = "generation_config.json";
/// How text becomes tokens.
pub const TOKENIZER: &str = "tokenizer.json";
/// Special tokens, and mostly the chat template.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The chat template, where it is a file of its own.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// All that is read beside the weights, where a model has it.
pub const SMALL: [&str; 5] =
    [CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE];

/// The weights, in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// In which file each tensor is, where the weights are in several.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
