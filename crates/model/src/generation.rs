//! `generation_config.json`: where texts end and what its makers recommend for sampling.

use folio_core::ids::Token;
use folio_core::params::GenerationDefaults;
use serde_json::Value;

use crate::error::ModelError;
use crate::fields::Fields;
use crate::source::{MOST_CONFIG_BYTES, ModelSource};

const FILE: &str = "generation_config.json";

/// End tokens and defaults; `config.json` is asked where the other file is absent or silent about the end.
pub(crate) fn read_generation(
    source: &ModelSource,
    config: &Fields,
    vocab: usize,
) -> Result<(Vec<Token>, GenerationDefaults), ModelError> {
    let fields = match source.read_bounded(FILE, MOST_CONFIG_BYTES)? {
        Some(bytes) => Fields::parse(FILE, &bytes)?,
        None => Fields::none(FILE),
    };
    let eos = match fields.value("eos_token_id") {
        Some(value) => end_tokens(FILE, value, vocab)?,
        None => match config.value("eos_token_id") {
            Some(value) => end_tokens("config.json", value, vocab)?,
            None => Vec::new(),
        },
    };
    let number = |field| fields.number(field, f64::MIN..=f64::MAX);
    let defaults = GenerationDefaults {
        temperature: number("temperature")?,
        top_p: number("top_p")?,
        top_k: top_k(&fields)?,
        min_p: number("min_p")?,
        repetition_penalty: number("repetition_penalty")?,
    };
    Ok((eos, defaults))
}

fn top_k(fields: &Fields) -> Result<Option<i64>, ModelError> {
    let value = fields.count("top_k", 0..=usize::try_from(i32::MAX).unwrap_or(usize::MAX))?;
    Ok(value.and_then(|k| i64::try_from(k).ok()))
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
