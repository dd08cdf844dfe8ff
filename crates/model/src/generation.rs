//! Where texts end and what a model's makers recommend for sampling: `generation_config.json`, or GGUF metadata.

use folio_core::ids::Token;
use folio_core::params::GenerationDefaults;
use serde_json::Value;

use crate::error::ModelError;
use crate::fields::Fields;
use crate::file_names::{CONFIG, GENERATION_CONFIG};
use crate::gguf::Metadata;
use crate::source::{MOST_CONFIG_BYTES, ModelSource};

/// End tokens and defaults; `config.json` is asked where the other file is absent or silent about the end.
pub(crate) fn read_generation(
    source: &ModelSource,
    config: &Fields,
    vocab: usize,
) -> Result<(Vec<Token>, GenerationDefaults), ModelError> {
    let fields = match source.read_bounded(GENERATION_CONFIG, MOST_CONFIG_BYTES)? {
        Some(bytes) => Fields::parse(GENERATION_CONFIG, &bytes)?,
        None => Fields::none(GENERATION_CONFIG),
    };
    let eos = match fields.value("eos_token_id") {
        Some(value) => end_tokens(GENERATION_CONFIG, value, vocab)?,
        None => match config.value("eos_token_id") {
            Some(value) => end_tokens(CONFIG, value, vocab)?,
            None => Vec::new(),
        },
    };
    let number = |field| fields.number(field, f64::MIN..=f64::MAX);
    let defaults = GenerationDefaults {
        temperature: number("temperature")?,
        top_p: number("top_p")?,
        top_k: top_k(&fields, "top_k")?,
        min_p: number("min_p")?,
        repetition_penalty: number("repetition_penalty")?,
        max_new_tokens: max_new_tokens(&fields)?,
    };
    defaults.check().map_err(|bad| fields.bad(bad.field, bad.problem))?;
    Ok((eos, defaults))
}

/// Names under which vocabularies that do not point at them have the ends of turns.
const ENDS_OF_TURNS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// The same from the metadata of a GGUF file.
pub(crate) fn read_gguf_generation(
    metadata: &Metadata,
    vocab: usize,
) -> Result<(Vec<Token>, GenerationDefaults), ModelError> {
    let mut eos = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        eos.extend(metadata.token(&key, vocab)?.map(Token));
    }
    let texts = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let kinds = metadata.wholes("tokenizer.ggml.token_type")?.unwrap_or_default();
    for ((id, text), kind) in (0..).zip(texts.iter().take(vocab)).zip(kinds) {
        const CONTROL: i128 = 3;
        if *kind == CONTROL && ENDS_OF_TURNS.contains(&text.as_str()) && !eos.contains(&Token(id)) {
            eos.push(Token(id));
        }
    }
    eos.dedup();
    let fields = metadata.fields();
    let number =
        |name: &str| fields.number(&format!("general.sampling.{name}"), f64::MIN..=f64::MAX);
    let defaults = GenerationDefaults {
        temperature: number("temp")?,
        top_p: number("top_p")?,
        top_k: top_k(&fields, "general.sampling.top_k")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
        max_new_tokens: None,
    };
    defaults.check().map_err(|bad| {
        let name = match bad.field {
            "temperature" => "temp",
            "repetition_penalty" => "penalty_repeat",
            other => other,
        };
        fields.bad(&format!("general.sampling.{name}"), bad.problem)
    })?;
    Ok((eos, defaults))
}

fn top_k(fields: &Fields, field: &str) -> Result<Option<i64>, ModelError> {
    let value = fields.count(field, 0..=usize::try_from(i32::MAX).unwrap_or(usize::MAX))?;
    Ok(value.and_then(|k| i64::try_from(k).ok()))
}

fn max_new_tokens(fields: &Fields) -> Result<Option<u32>, ModelError> {
    let most =
        fields.count("max_new_tokens", 1..=usize::try_from(u32::MAX).unwrap_or(usize::MAX))?;
    Ok(most.and_then(|most| u32::try_from(most).ok()))
}

fn end_tokens(file: &'static str, value: &Value, vocab: usize) -> Result<Vec<Token>, ModelError> {
    const MOST: usize = 1024;
    let single = std::slice::from_ref(value);
    let list = value.as_array().map_or(single, Vec::as_slice);
    let ids: Option<Vec<i64>> = list.iter().map(Value::as_i64).collect();
    let ids = ids.filter(|ids| ids.len() <= MOST).ok_or_else(|| ModelError::Field {
        file,
        field: "eos_token_id".to_owned(),
        problem: format!("must be a token id or a list of at most {MOST} of them"),
    })?;
    let tokens = ids.iter().filter_map(|&id| u32::try_from(id).ok()).map(Token);
    Ok(tokens.filter(|token| token.index() < vocab).collect())
}
