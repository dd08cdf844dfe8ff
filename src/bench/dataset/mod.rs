//! The requests of a benchmark: drawn at random, or read from a file.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use folio_sim::Random;
use serde_json::Value;

use super::args::{DataArgs, DatasetName};
use crate::trace::read_text;

/// Longest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 30;
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

/// The requests that the flags ask for; random tokens are below `vocab`.
pub(crate) fn requests(args: &DataArgs, vocab: u32) -> Result<Vec<Request>> {
    match args.dataset_name {
        DatasetName::Random => random(args, vocab),
        DatasetName::Custom | DatasetName::TimedTrace => {
            let file = args.dataset_path.as_deref().context(
                "--dataset-name custom and timed_trace read a file; add --dataset-path FILE",
            )?;
            from_file(args, file).with_context(|| format!("--dataset-path {}", file.display()))
        }
    }
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

fn from_file(args: &DataArgs, file: &Path) -> Result<Vec<Request>> {
    let text = read_text(file, MOST_BYTES)?;
    let most = args.num_prompts.map_or(usize::MAX, |most| most as usize);
    let timed = args.dataset_name == DatasetName::TimedTrace;
    let mut requests = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if requests.len() == most {
            break;
        }
        if !line.trim().is_empty() {
            let request = row(line, args.custom_output_len, timed);
            requests.push(request.with_context(|| format!("line {number}"))?);
        }
    }
    ensure!(!requests.is_empty(), "it has no requests");
    Ok(requests)
}

fn row(line: &str, output_len: Option<u32>, timed: bool) -> Result<Request> {
    let row: Value = serde_json::from_str(line).context("it is not JSON")?;
    let number = |name: &str| {
        let value = row.get(name).and_then(Value::as_u64).filter(|&value| value > 0);
        value.and_then(|value| u32::try_from(value).ok())
    };
    let output_len = output_len.or_else(|| number("output_tokens")).context(
        "output_tokens is not a number above 0; correct it, or add --custom-output-len TOKENS",
    )?;
    let text = row.get("prompt").and_then(Value::as_str).map(str::to_owned);
    let ids = match row.get("prompt_ids").map(Value::as_array) {
        None => Vec::new(),
        Some(ids) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids = ids.and_then(|ids| ids.iter().map(id).collect::<Option<Vec<u32>>>());
            ids.context("prompt_ids is not a list of tokens")?
        }
    };
    if ids.is_empty() && text.is_none() {
        bail!("it has neither prompt nor prompt_ids");
    }
    let arrival_s = row.get("arrival_s").and_then(Value::as_f64).filter(|at| *at >= 0.0);
    let arrival_s =
        if timed { arrival_s.context("arrival_s is not a number of seconds")? } else { 0.0 };
    Ok(Request { ids, text, output_len, arrival_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_written_or_refused_by_its_field() {
        let line =
            r#"{"prompt_ids": [5, 6], "prompt": "ab", "output_tokens": 3, "arrival_s": 0.5}"#;
        let read = row(line, None, true).unwrap();
        let expected =
            Request { ids: vec![5, 6], text: Some("ab".into()), output_len: 3, arrival_s: 0.5 };
        assert_eq!(read, expected);
        assert_eq!(row(line, Some(9), false).unwrap().output_len, 9);
        for (line, field) in [
            ("[", "JSON"),
            ("{}", "output_tokens"),
            (r#"{"output_tokens": 1}"#, "prompt"),
            (r#"{"output_tokens": 1, "prompt_ids": [-1]}"#, "prompt_ids"),
            (r#"{"output_tokens": 1, "prompt_ids": 7}"#, "prompt_ids"),
            (r#"{"output_tokens": 1, "prompt": "a", "arrival_s": "now"}"#, "arrival_s"),
        ] {
            let error = row(line, None, true).unwrap_err();
            assert!(error.to_string().contains(field), "{line}: {error}");
        }
    }

    #[test]
    fn random_lengths_stay_in_their_range() {
        let mut random = Random::new(3, PROMPTS);
        let drawn: Vec<u32> = (0..500).map(|_| length(&mut random, 100, 0.25)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&75), Some(&125)));
        assert_eq!(length(&mut random, 100, 0.0), 100);
    }
}
