//! The requests of a benchmark: drawn at random, or read from a file.

mod file;
mod sharegpt;

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use folio_sim::Random;
use folio_text::Tokenizer;

use super::args::{DataArgs, DatasetName};

/// Requests of random data, where nobody says how many.
const DEFAULT_REQUESTS: u32 = 64;

/// What random tokens and lengths are drawn for, so that nothing else of the same seed is like them.
pub(crate) const PROMPTS: u64 = 0;

/// One request to be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The prompt's tokens; empty where only the text is known.
    pub(crate) ids: Vec<u32>,
    /// The prompt's text, where it is known.
    pub(crate) text: Option<String>,
    /// Tokens to generate.
    pub(crate) output_len: u32,
    /// When it is to be sent, in seconds from the start.
    pub(crate) arrival_s: f64,
}

/// The requests that the flags ask for. Tokens that are made up are below `vocab`; `tokenizer` counts those of texts whose
/// lengths decide.
pub(crate) fn requests(
    args: &DataArgs,
    vocab: u32,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Request>> {
    let made_up = matches!(args.dataset_name, DatasetName::Random | DatasetName::PrefixRepetition);
    ensure!(
        !made_up || args.dataset_path.is_none(),
        "--dataset-path is not read with this --dataset-name; say what the file is: custom, timed_trace or sharegpt"
    );
    match args.dataset_name {
        DatasetName::Random => return random(args, vocab),
        DatasetName::PrefixRepetition => return prefix_repetition(args, vocab),
        DatasetName::Custom | DatasetName::TimedTrace | DatasetName::Sharegpt => {}
    }
    let file = args
        .dataset_path
        .as_deref()
        .context("this --dataset-name reads a file; add --dataset-path FILE")?;
    let requests = match args.dataset_name {
        DatasetName::Sharegpt => sharegpt::read(args, file, tokenizer),
        _ => file::read(args, file, vocab),
    };
    let requests = requests.with_context(|| format!("--dataset-path {}", file.display()))?;
    Ok(match args.num_prompts {
        // As in vLLM; a trace has its own times.
        Some(count) if args.dataset_name != DatasetName::TimedTrace => {
            requests.into_iter().cycle().take(count as usize).collect()
        }
        _ => requests,
    })
}

/// The lengths and times of requests as a file that `folio simulate --trace` reads.
pub(crate) fn trace(requests: impl Iterator<Item = (f64, usize, usize)>) -> String {
    let mut text = "arrival_s,prompt_tokens,output_tokens\n".to_owned();
    for (arrival_s, prompt, output) in requests {
        let _ = writeln!(text, "{arrival_s:.6},{prompt},{output}");
    }
    text
}

fn random(args: &DataArgs, vocab: u32) -> Result<Vec<Request>> {
    ensure!(
        (0.0..1.0).contains(&args.random_range_ratio),
        "--random-range-ratio {} is not in 0..1",
        args.random_range_ratio
    );
    let mut random = Random::new(args.dataset_seed, PROMPTS);
    let prefix = tokens(&mut random, args.random_prefix_len, vocab);
    let count = args.num_prompts.unwrap_or(DEFAULT_REQUESTS);
    let one = |_| {
        let own = length(&mut random, args.random_input_len, args.random_range_ratio);
        let output_len = length(&mut random, args.random_output_len, args.random_range_ratio);
        let mut ids = prefix.clone();
        ids.extend(tokens(&mut random, own, vocab));
        Request { ids, text: None, output_len, arrival_s: 0.0 }
    };
    Ok((0..count).map(one).collect())
}

/// Some prefixes, each with as many suffixes, in any order.
fn prefix_repetition(args: &DataArgs, vocab: u32) -> Result<Vec<Request>> {
    let count = args.num_prompts.unwrap_or(DEFAULT_REQUESTS);
    let prefixes = args.prefix_repetition_num_prefixes;
    ensure!(
        count >= prefixes,
        "--num-prompts {count} is less than --prefix-repetition-num-prefixes {prefixes}"
    );
    let mut random = Random::new(args.dataset_seed, PROMPTS);
    let mut requests = Vec::new();
    for _ in 0..prefixes {
        let prefix = tokens(&mut random, args.prefix_repetition_prefix_len, vocab);
        for _ in 0..count / prefixes {
            let mut ids = prefix.clone();
            ids.extend(tokens(&mut random, args.prefix_repetition_suffix_len, vocab));
            ensure!(!ids.is_empty(), "--prefix-repetition-prefix-len and -suffix-len are both 0");
            let output_len = args.prefix_repetition_output_len;
            requests.push(Request { ids, text: None, output_len, arrival_s: 0.0 });
        }
    }
    shuffle(&mut requests, &mut random);
    Ok(requests)
}

/// Puts `items` into any order.
fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
}

/// Below `bound`; 0 if that is 0.
#[allow(clippy::cast_possible_truncation, reason = "below a number of 32 bits")]
fn below(random: &mut Random, bound: u32) -> u32 {
    random.below(bound as usize) as u32
}

/// `count` tokens below `vocab`.
pub(crate) fn tokens(random: &mut Random, count: u32, vocab: u32) -> Vec<u32> {
    (0..count).map(|_| below(random, vocab)).collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and twice a number of 32 bits, and cut to it"
)]
fn length(random: &mut Random, mean: u32, ratio: f64) -> u32 {
    let spread = (f64::from(mean) * ratio).floor() as u32;
    let most = spread.saturating_mul(2).saturating_add(1);
    (mean - spread).saturating_add(below(random, most)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_lengths_stay_in_their_range() {
        let mut random = Random::new(3, PROMPTS);
        let drawn: Vec<u32> = (0..500).map(|_| length(&mut random, 100, 0.25)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&75), Some(&125)));
        assert_eq!(length(&mut random, 100, 0.0), 100);
    }

    #[test]
    fn a_prefix_begins_as_many_prompts_as_the_others() {
        let args = DataArgs {
            num_prompts: Some(11),
            prefix_repetition_num_prefixes: 3,
            prefix_repetition_prefix_len: 6,
            prefix_repetition_suffix_len: 2,
            ..DataArgs::default()
        };
        let requests = prefix_repetition(&args, 1000).unwrap();
        let mut prefixes: Vec<&[u32]> = requests.iter().map(|request| &request.ids[..6]).collect();
        prefixes.sort_unstable();
        let counts: Vec<usize> = prefixes.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
        assert_eq!(counts, [3, 3, 3]);
        assert!(requests.iter().all(|request| request.ids.len() == 8));
        let too_few = DataArgs { num_prompts: Some(2), ..args };
        assert!(prefix_repetition(&too_few, 1000).is_err());
    }
}
