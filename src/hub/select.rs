//! Which files of a model serve: the small ones and its safetensors, or one GGUF. Pickles are never among them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use folio_model::file_names::{CONFIG, SMALL, WEIGHTS, WEIGHTS_INDEX};
use serde_json::Value;

use super::name::FilePath;

/// The files to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A folder of small files and one file of weights.
    Folder(Vec<FilePath>),
    /// A folder of small files, and weights in the shards that the index lists.
    Sharded { small: Vec<FilePath>, index: FilePath },
    /// One GGUF: its parts in order, mostly one.
    Gguf(Vec<FilePath>),
}

/// Chooses among the files of a model. `pick` is the name of a GGUF or the end of one.
pub(crate) fn choose(files: &[FilePath], pick: Option<&FilePath>) -> Result<Choice> {
    if let Some(pick) = pick {
        return gguf(files, Some(pick)).map(Choice::Gguf);
    }
    let named = |name: &str| files.iter().find(|file| file.as_str() == name).cloned();
    let weights = [WEIGHTS, WEIGHTS_INDEX].into_iter().find_map(named);
    let (Some(_), Some(weights)) = (named(CONFIG), weights) else {
        ensure!(
            files.iter().any(is_gguf),
            "it has no {CONFIG} with {WEIGHTS} or {WEIGHTS_INDEX}, and no GGUF file{}",
            if files.iter().any(is_pickle) {
                "; its weights are pickles, which can run any program when read, and are never fetched"
            } else {
                ""
            }
        );
        return gguf(files, None).map(Choice::Gguf);
    };
    let mut small: Vec<FilePath> = SMALL.into_iter().filter_map(named).collect();
    if weights.as_str() == WEIGHTS_INDEX {
        return Ok(Choice::Sharded { small, index: weights });
    }
    small.push(weights);
    Ok(Choice::Folder(small))
}

/// The shards that an index lists, each of which must be among `files`.
pub(crate) fn shards(index: &[u8], files: &[FilePath]) -> Result<Vec<FilePath>> {
    let index: Value =
        serde_json::from_slice(index).with_context(|| format!("{WEIGHTS_INDEX} is damaged"))?;
    let Some(Value::Object(map)) = index.get("weight_map") else {
        bail!("{WEIGHTS_INDEX}: `weight_map` is missing or not an object");
    };
    let mut shards = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().unwrap_or_default();
        let known = files.iter().find(|file| file.as_str() == name);
        match known.filter(|file| file.depth() == 0 && name.ends_with(".safetensors")) {
            Some(file) => shards.insert(file.clone()),
            None => bail!("{WEIGHTS_INDEX} lists the file {name:?}, which is not there"),
        };
    }
    Ok(shards.into_iter().collect())
}

/// The parts of the one GGUF that was meant.
fn gguf(files: &[FilePath], pick: Option<&FilePath>) -> Result<Vec<FilePath>> {
    let first_parts = || files.iter().filter(|file| is_gguf(file) && part(file).0 == 1);
    let matching: Vec<&FilePath> = match pick {
        Some(pick) => {
            let exact = |file: &&FilePath| {
                is_gguf(file) && (*file == pick || file.file_name() == pick.as_str())
            };
            match files.iter().find(exact) {
                Some(exact) => vec![exact],
                None => first_parts().filter(|file| ends_in(file, pick.as_str())).collect(),
            }
        }
        None => first_parts().collect(),
    };
    let names = |files: &[&FilePath]| {
        files.iter().map(|file| file.as_str()).collect::<Vec<_>>().join("\n  ")
    };
    match (matching.as_slice(), pick) {
        ([one], _) => parts(files, one),
        ([], _) => {
            let there: Vec<&FilePath> = first_parts().collect();
            ensure!(!there.is_empty(), "it has no GGUF file");
            bail!("it has no such GGUF file; it has:\n  {}", names(&there))
        }
        (several, _) => bail!(
            "it has several GGUF files; add one as ORG/NAME:FILE.gguf, or the end of its name as ORG/NAME:Q4_K_M:\n  {}",
            names(several)
        ),
    }
}

/// Whether it holds weights; the projectors of multimodal models, which come beside them, do not.
fn is_gguf(file: &FilePath) -> bool {
    file.as_str().ends_with(".gguf") && !file.file_name().starts_with("mmproj")
}

fn is_pickle(file: &FilePath) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| file.as_str().ends_with(end))
}

/// `Llama-Q4_K_M.gguf` ends in `Q4_K_M` and `q4_k_m`, but not in `K_M`.
fn ends_in(file: &FilePath, pick: &str) -> bool {
    let (_, _, stem) = part(file);
    let stem = stem.rsplit('/').next().unwrap_or(stem).to_ascii_lowercase();
    let before = stem.strip_suffix(&pick.to_ascii_lowercase());
    before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.']))
}

/// Which part of how many, and the path without that and without `.gguf`: `x-00002-of-00003.gguf` is (2, 3, "x").
fn part(file: &FilePath) -> (u32, u32, &str) {
    let stem = file.as_str().strip_suffix(".gguf").unwrap_or(file.as_str());
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5);
    let split = || {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (name, index) = rest.rsplit_once('-')?;
        Some((number(index)?, number(count)?, name))
    };
    split().unwrap_or((1, 1, stem))
}

/// All parts of the GGUF that `first` begins or is.
fn parts(files: &[FilePath], first: &FilePath) -> Result<Vec<FilePath>> {
    let (_, count, stem) = part(first);
    if count == 1 {
        return Ok(vec![first.clone()]);
    }
    // An index beyond the files there are ends the search, however many parts a name claims.
    (1..=count)
        .map(|index| {
            let name = format!("{stem}-{index:05}-of-{count:05}.gguf");
            let found = files.iter().find(|file| file.as_str() == name).cloned();
            found.with_context(|| format!("{name} is not there"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<FilePath> {
        names.iter().map(|name| FilePath::parse(name).unwrap()).collect()
    }

    fn chosen(names: &[&str], pick: Option<&str>) -> String {
        let pick = pick.map(|pick| FilePath::parse(pick).unwrap());
        match choose(&files(names), pick.as_ref()) {
            Ok(Choice::Folder(files) | Choice::Gguf(files)) => {
                files.iter().map(FilePath::as_str).collect::<Vec<_>>().join(" ")
            }
            Ok(Choice::Sharded { small, index }) => format!("{} files and {index}", small.len()),
            Err(error) => format!("error: {error:#}"),
        }
    }

    #[test]
    fn only_what_serves_is_chosen() {
        let names = [
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "onnx/model.onnx",
            "consolidated.safetensors",
            "sub/config.json",
            "evil.py",
        ];
        assert_eq!(chosen(&names, None), "config.json tokenizer.json model.safetensors");
        let sharded = ["config.json", WEIGHTS_INDEX, "model-00001-of-00001.safetensors"];
        assert_eq!(chosen(&sharded, None), format!("1 files and {WEIGHTS_INDEX}"));
        let pickled = chosen(&["config.json", "pytorch_model.bin"], None);
        assert!(pickled.contains("pickles"), "{pickled}");
    }

    #[test]
    fn a_gguf_is_found_by_name_or_end() {
        let names = [
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "m.F16.gguf",
            "mmproj-m-Q8_0.gguf",
            "config.json",
            "big/m-Q6_K-00001-of-00002.gguf",
            "big/m-Q6_K-00002-of-00002.gguf",
            "m-Q4_K_M.bin",
        ];
        assert_eq!(chosen(&names, Some("q4_k_m")), "m-Q4_K_M.gguf");
        assert_eq!(chosen(&names, Some("m-Q8_0.gguf")), "m-Q8_0.gguf");
        assert_eq!(chosen(&names, Some("f16")), "m.F16.gguf");
        let parts = "big/m-Q6_K-00001-of-00002.gguf big/m-Q6_K-00002-of-00002.gguf";
        assert_eq!(chosen(&names, Some("Q6_K")), parts);
        for none in ["K_M", "Q4", "m-Q4_K_M.bin", "Q5_K"] {
            let said = chosen(&names, Some(none));
            assert!(said.contains("no such GGUF") && said.contains("m-Q8_0.gguf"), "{said}");
        }
        let several = chosen(&names, None);
        assert!(several.contains("several") && !several.contains("mmproj"), "{several}");
        assert_eq!(chosen(&["one.gguf", "README.md"], None), "one.gguf");
        let torn = chosen(&["m-00001-of-99999.gguf"], None);
        assert!(torn.contains("m-00002-of-99999.gguf"), "{torn}");
    }

    #[test]
    fn an_index_can_only_list_shards_beside_it() {
        let there = files(&["a.safetensors", "b.safetensors", "x.bin", "sub/c.safetensors"]);
        let index = |value: &str| {
            let text = format!("{{\"weight_map\": {{\"t\": \"b.safetensors\", \"u\": {value}}}}}");
            shards(text.as_bytes(), &there)
        };
        assert_eq!(index("\"a.safetensors\"").unwrap(), there[..2]);
        for bad in ["\"x.bin\"", "\"../a.safetensors\"", "\"sub/c.safetensors\"", "1", "\"q\""] {
            assert!(index(bad).is_err(), "{bad}");
        }
        assert!(shards(b"{}", &there).is_err() && shards(b"[", &there).is_err());
    }
}
