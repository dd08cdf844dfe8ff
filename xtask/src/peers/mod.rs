//! folio and its peers in turn, on the same models and the same work, as ratios: a machine's speed drifts from hour to
//! hour, so only what was measured beside each other can be compared.

mod engines;
mod setup;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use self::engines::{Figures, Task};
use self::setup::Places;

const USAGE: &str = "\
usage: cargo xtask bench peers --models DIR [option ...]

  --models DIR          folder of Hugging Face model folders (tools/peers/make_models.py makes some)
  --model NAME          which of them                                     (M)
  --bits 16,8,4         widths of the weights to compare                  (16)
  --batch-size 1,8,32   sequences at once                                 (1,8,32)
  --num-iters N         measurements of which the median counts           (3)
  --engines A,B         of folio, llama.cpp, openvino, transformers       (all)
  --workload FILE       serve these requests at their times instead (JSON lines: prompt_ids, output_tokens, arrival_s)
  --burst               all requests of the workload at once
  --gguf                folio reads llama.cpp's files, so that both have the same bits
  --threads N           threads that compute                              (all)
  --folio FILE          the binary; without it, it is built
  --folder DIR          where the peers are                               (target/peers)
  --setup               install and build the peers, and convert the models, where that is not done
";

/// What the command line asks for.
pub(crate) struct Options {
    models: PathBuf,
    model: String,
    bits: Vec<u32>,
    batches: Vec<u32>,
    iterations: u32,
    engines: Vec<Engine>,
    workload: Option<PathBuf>,
    burst: bool,
    gguf: bool,
    threads: usize,
    folio: Option<PathBuf>,
    folder: PathBuf,
    setup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Engine {
    Folio,
    Llama,
    OpenVino,
    Transformers,
}

impl Engine {
    const ALL: [Self; 4] = [Self::Folio, Self::Llama, Self::OpenVino, Self::Transformers];

    fn name(self) -> &'static str {
        match self {
            Self::Folio => "folio",
            Self::Llama => "llama.cpp",
            Self::OpenVino => "openvino",
            Self::Transformers => "transformers",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|engine| engine.name() == name);
        found.with_context(|| {
            format!("--engines {name:?} is not one of folio, llama.cpp, openvino, transformers")
        })
    }
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>, target: &Path) -> Result<Self> {
        let mut models = None;
        let mut options = Self {
            models: PathBuf::new(),
            model: "M".to_owned(),
            bits: vec![16],
            batches: vec![1, 8, 32],
            iterations: 3,
            engines: Engine::ALL.to_vec(),
            workload: None,
            burst: false,
            gguf: false,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            folio: None,
            folder: target.join("peers"),
            setup: false,
        };
        while let Some(flag) = words.next() {
            match flag.as_str() {
                "--burst" => options.burst = true,
                "--gguf" => options.gguf = true,
                "--setup" => options.setup = true,
                _ => {
                    let value =
                        words.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
                    match flag.as_str() {
                        "--models" => models = Some(PathBuf::from(value)),
                        "--model" => options.model = value,
                        "--bits" => options.bits = numbers(&flag, &value)?,
                        "--batch-size" => options.batches = numbers(&flag, &value)?,
                        "--num-iters" => options.iterations = number(&flag, &value)?,
                        "--engines" => {
                            options.engines =
                                value.split(',').map(Engine::from_name).collect::<Result<_>>()?;
                        }
                        "--workload" => options.workload = Some(PathBuf::from(value)),
                        "--threads" => options.threads = number::<usize>(&flag, &value)?,
                        "--folio" => options.folio = Some(PathBuf::from(value)),
                        "--folder" => options.folder = PathBuf::from(value),
                        _ => bail!("{flag} is not known\n{USAGE}"),
                    }
                }
            }
        }
        options.models = models.with_context(|| format!("--models is needed\n{USAGE}"))?;
        if let Some(bits) = options.bits.iter().find(|bits| ![16, 8, 4].contains(*bits)) {
            bail!("--bits {bits} is not one of 16, 8, 4");
        }
        let folder = options.models.join(&options.model);
        ensure!(folder.is_dir(), "{} is not a model's folder", folder.display());
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T> {
    value.trim().parse().ok().with_context(|| format!("{flag} {value:?} is not a number"))
}

fn numbers(flag: &str, value: &str) -> Result<Vec<u32>> {
    value.split(',').map(|part| number(flag, part)).collect()
}

/// Runs everything and prints the tables.
pub(crate) fn run(root: &Path, words: impl Iterator<Item = String>) -> Result<()> {
    let options = Options::parse(words, &crate::target(root))?;
    let places = Places::new(root, &options);
    if options.setup {
        places.set_up(&options)?;
    }
    let folio = places.folio(&options)?;
    for &bits in &options.bits {
        let task = Task { options: &options, places: &places, folio: &folio, bits };
        let mut results = BTreeMap::new();
        for &engine in &options.engines {
            eprintln!("\n== {} with {bits}-bit weights: {}", options.model, engine.name());
            // One peer that is absent or fails does not cost the measurements of the others.
            match task.measure(engine) {
                Ok(figures) => {
                    results.insert(engine, figures);
                }
                Err(reason) => eprintln!("skipped: {reason:#}"),
            }
        }
        print_table(&format!("{}, {bits}-bit weights", options.model), &results);
    }
    Ok(())
}

/// One line per figure: every engine's value, and how folio's stands to the best of the others.
#[allow(clippy::print_stdout, reason = "this is what the command prints")]
fn print_table(title: &str, results: &BTreeMap<Engine, Figures>) {
    let engines: Vec<Engine> = results.keys().copied().collect();
    println!("\n{title}");
    print!("{:<24}", "");
    for engine in &engines {
        print!("{:>14}", engine.name());
    }
    println!("{:>20}", "folio / best peer");
    let mut names: Vec<&String> = Vec::new();
    for figures in results.values() {
        for (name, _) in figures {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    for name in names {
        let value = |engine: Engine| {
            let figures = results.get(&engine)?;
            figures.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
        };
        print!("{name:<24}");
        for &engine in &engines {
            let shown = value(engine).map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
            print!("{shown:>14}");
        }
        let peers = engines.iter().filter(|engine| **engine != Engine::Folio);
        let peers: Vec<f64> = peers.filter_map(|engine| value(*engine)).collect();
        // A time is better when it is shorter.
        let best = if name.ends_with("ms") {
            peers.iter().copied().reduce(f64::min)
        } else {
            peers.iter().copied().reduce(f64::max)
        };
        let ratio = value(Engine::Folio).zip(best).map(|(ours, best)| ours / best);
        println!("{:>20}", ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(words.iter().map(|word| (*word).to_owned()), Path::new("target"))
    }

    #[test]
    fn flags_are_read_or_named() {
        let models = env!("CARGO_MANIFEST_DIR");
        let options = parse(&[
            "--models",
            models,
            "--model",
            "src",
            "--bits",
            "16,4",
            "--engines",
            "llama.cpp",
        ]);
        let options = options.unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((options.bits, options.engines), (vec![16, 4], vec![Engine::Llama]));
        for (words, named) in [
            (&["--bits", "16"][..], "--models"),
            (&["--models", models, "--model", "none"], "none"),
            (&["--models", models, "--model", "src", "--bits", "5"], "--bits"),
            (&["--models", models, "--model", "src", "--threads", "many"], "--threads"),
            (&["--models", models, "--engines", "vllm"], "vllm"),
            (&["--model"], "--model"),
            (&["--fast", "1"], "--fast"),
        ] {
            let error = parse(words).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }
}
