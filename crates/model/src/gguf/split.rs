//! Which GGUF files make a model: one, or parts named `…-00001-of-00003.gguf`, whichever of them was named.

use crate::error::ModelError;
use crate::file_names::CONFIG;
use crate::source::ModelSource;

const ENDING: &str = ".gguf";
const MOST_PARTS: usize = 4096;

/// The files of a model, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) files: Vec<String>,
}

impl Found {
    /// What the model is called: the file's name without its ending and part.
    pub(crate) fn model_name(&self) -> &str {
        let first = self.files.first().map_or("model", String::as_str);
        match part(first) {
            Some(part) => part.stem,
            None => first.strip_suffix(ENDING).unwrap_or(first),
        }
    }
}

/// A file's place among the parts of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part<'a> {
    stem: &'a str,
    number: usize,
    parts: usize,
}

/// `model-00002-of-00003.gguf`
fn part(name: &str) -> Option<Part<'_>> {
    const DIGITS: usize = 5;
    let (rest, parts) = name.strip_suffix(ENDING)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let count = |text: &str| {
        let digits = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<usize>().ok().filter(|n| digits && *n > 0)
    };
    let (number, parts) = (count(number)?, count(parts)?);
    (number <= parts && parts <= MOST_PARTS).then_some(Part { stem, number, parts })
}

/// The GGUF files of a source; `None` for a folder that has none, or that has safetensors weights and a configuration.
///
/// # Errors
/// When a folder holds several models and none is named.
pub(crate) fn find(source: &ModelSource) -> Result<Option<Found>, ModelError> {
    if let Some(name) = source.file_name() {
        return Ok(Some(with_all_parts(&name)));
    }
    let mut names = source.names();
    names.sort_unstable();
    if names.iter().any(|n| n == CONFIG) && names.iter().any(|n| n.ends_with(".safetensors")) {
        return Ok(None);
    }
    // A projector of images is never a model by itself.
    names.retain(|name| name.ends_with(ENDING) && !name.starts_with("mmproj"));
    let mut models: Vec<Found> = names.iter().map(|name| with_all_parts(name)).collect();
    models.dedup();
    match models.len() {
        0 => Ok(None),
        1 => Ok(models.pop()),
        _ => Err(ModelError::file(
            names.first().map_or("*.gguf", String::as_str),
            format!(
                "is one of {} GGUF models in the folder; name the file to serve, one of {}",
                models.len(),
                models
                    .iter()
                    .filter_map(|m| m.files.first())
                    .take(20)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        )),
    }
}

fn with_all_parts(name: &str) -> Found {
    let files = match part(name) {
        None => vec![name.to_owned()],
        Some(Part { stem, parts, .. }) => {
            (1..=parts).map(|n| format!("{stem}-{n:05}-of-{parts:05}{ENDING}")).collect()
        }
    };
    Found { files }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_from_any_of_them() {
        let files = ["a-b-00001-of-00002.gguf", "a-b-00002-of-00002.gguf"];
        for file in files {
            let found = with_all_parts(file);
            assert_eq!(found.files, files);
            assert_eq!(found.model_name(), "a-b");
        }
    }

    #[test]
    fn other_names_are_whole_files() {
        for name in [
            "a.gguf",
            "a-0001-of-0002.gguf",
            "a-00003-of-00002.gguf",
            "a-00000-of-00002.gguf",
            "a-00001-of-99999.gguf",
            "a-+0001-of-00002.gguf",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(with_all_parts(name).files, [name]);
        }
        assert_eq!(with_all_parts("Llama-3.2-1B.Q4_K_M.gguf").model_name(), "Llama-3.2-1B.Q4_K_M");
    }
}
