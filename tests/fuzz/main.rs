//! Whatever is parsed, fed with damaged copies of a committed corpus (`corpus/TARGET/*`).
//!
//! Each target says in a few words what became of an input; an input with a new outcome joins the corpus for the rest of the
//! run. A panic ends the run and prints the input. Here each target gets some inputs every time; `cargo xtask fuzz` feeds them
//! for as long as it is told to, guided by coverage where cargo-fuzz is installed (`fuzz/`), else by outcomes, as here.
#![allow(clippy::print_stdout, reason = "what was tried, and what failed, is the result")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod mutate;
mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use folio_sim::Random;
use mutate::mutate;

/// Inputs that joined the corpus of a run, at most.
const MOST_FOUND: usize = 5_000;

/// What became of an input, without what differs from input to input.
fn outcome(words: &str) -> String {
    let plain = words.chars().filter(|c| c.is_ascii_alphabetic() || *c == ' ');
    plain.take(60).collect()
}

/// Runs a target on damaged inputs: so many, or for the seconds in `FOLIO_FUZZ_SECONDS`.
fn fuzz(name: &str, inputs: u64) {
    let target = targets::target(name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let mut seen: HashSet<String> = corpus.iter().map(|input| outcome(&target(input))).collect();
    let seconds = std::env::var("FOLIO_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let seed = std::env::var("FOLIO_FUZZ_SEED").map_or(1, |text| text.parse().unwrap());
    let mut random = Random::new(seed, 0);
    let (began, mut tried, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    let goes_on = |tried| match seconds {
        Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
        None => tried < inputs,
    };
    while goes_on(tried) {
        let input = mutate(&corpus, &mut random);
        let start = Instant::now();
        let words = catch_unwind(AssertUnwindSafe(|| target(&input))).unwrap_or_else(|panic| {
            println!("{name}, input {tried} of seed {seed}: {:?}", String::from_utf8_lossy(&input));
            println!("bytes: {input:?}");
            resume_unwind(panic)
        });
        slowest = slowest.max(start.elapsed());
        tried += 1;
        if corpus.len() < MOST_FOUND && seen.insert(outcome(&words)) {
            corpus.push(input);
        }
    }
    println!(
        "{name}: {tried} inputs in {:.0} s, {} outcomes, the slowest input took {slowest:.1?}",
        began.elapsed().as_secs_f64(),
        seen.len()
    );
}

#[test]
fn requests() {
    fuzz("request", 300);
}

#[test]
fn streams() {
    fuzz("sse", 150);
}

#[test]
fn templates() {
    fuzz("template", 600);
}

#[test]
fn tokenizers() {
    fuzz("tokenizer", 300);
}

#[test]
fn grammars() {
    fuzz("grammar", 100);
}

#[test]
fn configurations() {
    fuzz("config", 300);
}

#[test]
fn safetensors() {
    fuzz("safetensors", 300);
}

#[test]
fn gguf() {
    fuzz("gguf", 300);
}
