//! What a grammar costs per token: `cargo bench -p folio-text --bench masks`.
//!
//! With the demo model's tokenizer, and with those of real models where they lie beside the checkout. Texts are made by
//! following the masks at random.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench prints, and may fail"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use folio_text::{Grammar, Grammars, Tokenizer};
use serde_json::json;

fn tokenizers() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![("demo".to_owned(), root.join("../../models/demo/tokenizer.json"))];
    let shared = std::fs::read_dir(root.join("../../../shared/data/tokenizers"));
    for folder in shared.into_iter().flatten().flatten() {
        let file = folder.path().join("tokenizer.json");
        if file.is_file() {
            found.push((folder.file_name().to_string_lossy().into_owned(), file));
        }
    }
    found.sort();
    found
}

fn grammars() -> Vec<(&'static str, Grammar)> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"}, "age": {"type": "integer"}, "mail": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
            "address": {
                "type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
                "required": ["street", "zip"], "additionalProperties": false,
            },
        },
        "required": ["name", "age", "mail", "tags", "address"], "additionalProperties": false,
    });
    vec![
        ("any JSON object", Grammar::json_object()),
        ("a schema of five members", Grammar::schema(person)),
        (
            "a regular expression",
            Grammar::Regex(r"[A-Z][a-z]+( [A-Z][a-z]+){1,3}, born [0-9]{4}".to_owned()),
        ),
    ]
}

/// Masks of random texts of at most 200 tokens, and how long each took together with taking its token in.
fn times(grammars: &Grammars, grammar: &Grammar, end: u32) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut state = 1_u64;
    let mut mask = Vec::new();
    for _ in 0..10 {
        let mut matcher = grammars.matcher(grammar).unwrap();
        for _ in 0..200 {
            mask.clear();
            let began = Instant::now();
            matcher.mask(&mut mask).unwrap();
            let took = began.elapsed();
            let allowed: Vec<u32> = (0..u32::try_from(mask.len() * 32).unwrap())
                .filter(|&id| mask[id as usize / 32] >> (id % 32) & 1 == 1)
                .collect();
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let token = allowed[usize::try_from(state >> 33).unwrap() % allowed.len()];
            if token == end {
                break;
            }
            let began = Instant::now();
            matcher.advance(token).unwrap();
            times.push(took + began.elapsed());
        }
    }
    times.sort_unstable();
    times
}

fn main() {
    println!(
        "{:<24} {:<26} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "tokenizer", "grammar", "tokens", "compile", "mean", "median", "p99"
    );
    for (name, file) in tokenizers() {
        let Ok(tokenizer) = Tokenizer::from_json(&std::fs::read(file).unwrap(), 1 << 20) else {
            continue;
        };
        let end = tokenizer.vocab_size() - 1;
        let compiler = Grammars::new(tokenizer, vec![end]);
        let began = Instant::now();
        if compiler.matcher(&Grammar::Choice(vec!["x".to_owned()])).is_err() {
            continue;
        }
        println!("{name:<24} {:<26} {:>8} {:>9.1?}", "the first of all", "", began.elapsed());
        for (what, grammar) in grammars() {
            let began = Instant::now();
            compiler.matcher(&grammar).unwrap();
            let compile = began.elapsed();
            let times = times(&compiler, &grammar, end);
            let count = times.len();
            let mean = times.iter().sum::<Duration>() / u32::try_from(count).unwrap();
            println!(
                "{name:<24} {what:<26} {count:>8} {compile:>9.1?} {mean:>9.1?} {:>9.1?} {:>9.1?}",
                times[count / 2],
                times[count * 99 / 100]
            );
        }
    }
}
