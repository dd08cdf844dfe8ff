//! Requests from a file of ours, one JSON object per line, or from a trace of lengths, whose prompts are made up.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use folio_sim::workload;
use serde_json::Value;

use super::super::args::{DataArgs, DatasetName};
use super::Request;
use crate::trace::read_text;

/// Longest file that is read, in bytes.
pub(super) const MOST_BYTES: u64 = 1 << 30;

/// The requests of `path`; those that are known by their lengths only get tokens below `vocab`.
pub(super) fn read(args: &DataArgs, path: &Path, vocab: u32) -> Result<Vec<Request>> {
    let text = read_text(path, MOST_BYTES)?;
    let most = args.num_prompts.map_or(usize::MAX, |most| most as usize);
    let timed = args.dataset_name == DatasetName::TimedTrace;
    if timed && !names_prompts(&text) {
        let lengths = workload::parse(&text)?;
        let first = lengths.first().map_or(0, |request| request.at.0);
        let one = |request: &workload::Request| Request {
            ids: request.tokens(vocab).into_iter().map(|token| token.0).collect(),
            text: None,
            output_len: args.custom_output_len.unwrap_or(request.output),
            arrival_s: Duration::from_micros(request.at.0 - first).as_secs_f64(),
        };
        return Ok(lengths.iter().take(most).map(one).collect());
    }
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

/// Whether the first line is a request with its prompt, and not one with its length or the header of a table.
fn names_prompts(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let first: Value = serde_json::from_str(first).unwrap_or_default();
    first.get("prompt").or(first.get("prompt_ids")).is_some()
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
    fn prompts_are_told_from_lengths() {
        assert!(names_prompts("\n{\"prompt_ids\": [1], \"output_tokens\": 2}\n"));
        assert!(!names_prompts("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 2}"));
        assert!(!names_prompts("arrival_s,prompt_tokens,output_tokens\n0.5,7,8\n"));
    }
}
