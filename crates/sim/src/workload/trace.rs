//! Requests from a file that somebody else wrote: bounded, and wrong lines are named.
//!
//! CSV: a header names the columns `prompt_tokens`, `output_tokens`, and, where they are there, `arrival_s` and
//! `hash_ids_N` (one id per block of `N` prompt tokens, separated by spaces). Columns are also found by these names with
//! something appended. JSON lines: Mooncake's `{"timestamp": ms, "input_length", "output_length", "hash_ids": […]}` with
//! blocks of 512 tokens, which vLLM's `timed_trace` reads too. Equal hash ids mean equal tokens.

use folio_core::ids::Tick;
use serde::Deserialize;

use super::arrivals::micros;
use super::{Piece, Request};
use crate::random::scramble;

/// Most prompt tokens in all; they are held in memory when their requests come.
pub const MOST_TOKENS_IN_TRACE: u64 = 1 << 30;
/// The longest prompt or output of any workload: prompts are held in memory when their requests come.
pub const MOST_TOKENS: u32 = 1 << 24;
/// Blocks that Mooncake's hash ids stand for.
const MOONCAKE_BLOCK: u32 = 512;

/// A trace that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTrace {
    /// The header lacks a column.
    #[error(
        "the first line names no column {0}; a trace has the columns arrival_s, prompt_tokens and output_tokens"
    )]
    Column(&'static str),
    /// A line is wrong.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// There is nothing in it.
    #[error("it names no request")]
    Empty,
    /// There is too much in it.
    #[error("its prompts have more than {MOST_TOKENS_IN_TRACE} tokens in all; use a part of it")]
    Large,
}

/// One line, before it is understood.
#[derive(Debug, Default, Deserialize)]
struct Line {
    #[serde(default)]
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

/// The requests of a trace, by time of arrival. Without arrival times all come at once.
///
/// # Errors
/// [`BadTrace`].
pub fn parse(text: &str) -> Result<Vec<Request>, BadTrace> {
    let mut requests =
        if text.trim_start().starts_with('{') { json_lines(text)? } else { csv(text)? };
    if requests.is_empty() {
        return Err(BadTrace::Empty);
    }
    let tokens: u64 = requests.iter().map(|request| u64::from(request.prompt_tokens())).sum();
    if tokens > MOST_TOKENS_IN_TRACE {
        return Err(BadTrace::Large);
    }
    requests.sort_by_key(|request| request.at);
    Ok(requests)
}

/// Prompt and output of every line of a CSV file.
///
/// # Errors
/// [`BadTrace`].
pub fn lengths_from_csv(text: &str) -> Result<Vec<(u32, u32)>, BadTrace> {
    Ok(parse(text)?.iter().map(|request| (request.prompt_tokens(), request.output)).collect())
}

fn json_lines(text: &str) -> Result<Vec<Request>, BadTrace> {
    let mut requests = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line =
            serde_json::from_str(line).map_err(|e| BadTrace::Line(number, e.to_string()))?;
        let seconds = line.timestamp / 1e3;
        requests.push(request(number, seconds, &line, MOONCAKE_BLOCK)?);
    }
    Ok(requests)
}

fn csv(text: &str) -> Result<Vec<Request>, BadTrace> {
    let mut lines = (1..).zip(text.lines());
    let header: Vec<&str> =
        lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
    let find = |name: &str| {
        let exact = header.iter().position(|column| *column == name);
        exact.or_else(|| header.iter().position(|column| column.starts_with(name)))
    };
    let prompt = find("prompt_tokens").ok_or(BadTrace::Column("prompt_tokens"))?;
    let output = find("output_tokens").ok_or(BadTrace::Column("output_tokens"))?;
    let (arrival, hashes) = (find("arrival_s"), find("hash_ids"));
    let block = hashes
        .and_then(|at| header.get(at)?.strip_prefix("hash_ids_")?.parse().ok())
        .filter(|block| (1..=MOST_TOKENS).contains(block))
        .unwrap_or(MOONCAKE_BLOCK);
    let mut requests = Vec::new();
    for (number, line) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
        let tokens = |at: usize, what: &str| {
            cell(at).parse::<u32>().map_err(|_| {
                BadTrace::Line(number, format!("{:?} is no number of {what} tokens", cell(at)))
            })
        };
        let seconds = match arrival {
            None => 0.0,
            Some(at) => cell(at).parse().map_err(|_| {
                BadTrace::Line(number, format!("{:?} is no time of arrival in seconds", cell(at)))
            })?,
        };
        let ids = hashes.map(cell).unwrap_or_default();
        let hash_ids = ids.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        let line = Line {
            timestamp: 0.0,
            input_length: tokens(prompt, "prompt")?,
            output_length: tokens(output, "output")?,
            hash_ids: hash_ids
                .map_err(|_| BadTrace::Line(number, format!("{ids:?} are no hash ids")))?,
        };
        requests.push(request(number, seconds, &line, block)?);
    }
    Ok(requests)
}

fn request(number: usize, seconds: f64, line: &Line, block: u32) -> Result<Request, BadTrace> {
    let Line { input_length, output_length, hash_ids, .. } = line;
    let bad = |problem: String| Err(BadTrace::Line(number, problem));
    if !(0.0..1e12).contains(&seconds) {
        return bad(format!("{seconds} is no time of arrival in seconds"));
    }
    if !(1..=MOST_TOKENS).contains(input_length) || !(1..=MOST_TOKENS).contains(output_length) {
        return bad(format!("prompts and outputs have 1 to {MOST_TOKENS} tokens"));
    }
    let mut rest = *input_length;
    let mut prompt = Vec::new();
    for &id in hash_ids {
        let len = rest.min(block);
        if len > 0 {
            // Beside the streams of requests without ids, which are small numbers.
            prompt.push(Piece { stream: scramble(id), start: 0, len });
        }
        rest -= len;
    }
    if rest > 0 {
        let stream = u64::try_from(number).unwrap_or(u64::MAX);
        prompt.push(Piece { stream, start: 0, len: rest });
    }
    Ok(Request { at: Tick(micros(seconds)), prompt, output: *output_length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_json_lines_say_the_same() {
        let csv = "arrival_s,prompt_tokens,output_tokens,hash_ids_512\n1.5,600,7,4 5\n0.25,3,1,\n";
        let json = "{\"timestamp\": 1500, \"input_length\": 600, \"output_length\": 7, \"hash_ids\": [4, 5]}\n\
                    {\"timestamp\": 250, \"input_length\": 3, \"output_length\": 1, \"hash_ids\": [9]}\n";
        let (csv, json) = (parse(csv).unwrap(), parse(json).unwrap());
        assert_eq!(csv[1], json[1]);
        assert_eq!(csv[1].prompt.iter().map(|piece| piece.len).collect::<Vec<_>>(), [512, 88]);
        assert_eq!((csv[0].at, csv[0].prompt_tokens(), csv[0].output), (Tick(250_000), 3, 1));
    }

    #[test]
    fn columns_may_say_more_than_their_names() {
        let text = "row,arrival_s_poisson,output_tokens_gpt2,prompt_tokens,prompt_tokens_gpt2\n0,2,9,5,4\n";
        let requests = parse(text).unwrap();
        assert_eq!((requests[0].prompt_tokens(), requests[0].output), (5, 9));
        assert_eq!(lengths_from_csv(text).unwrap(), [(5, 9)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |text: &str| parse(text).unwrap_err().to_string();
        assert!(problem("").contains("prompt_tokens"));
        assert!(problem("prompt_tokens,output_tokens\n").contains("no request"));
        assert!(problem("prompt_tokens,output_tokens\n1,2\n1,x\n").contains("line 3"));
        assert!(problem("prompt_tokens,output_tokens\n0,2\n").contains("line 2"));
        assert!(problem("arrival_s,prompt_tokens,output_tokens\n-1,1,2\n").contains("line 2"));
        assert!(problem("arrival_s,prompt_tokens,output_tokens\nNaN,1,2\n").contains("line 2"));
        assert!(problem("{\"input_length\": 1}").contains("output_length"));
        assert!(problem("{\"input_length\": -1, \"output_length\": 1}").contains("line 1"));
        let large = "prompt_tokens,output_tokens\n".to_owned() + &"16777216,1\n".repeat(65);
        assert_eq!(parse(&large).unwrap_err(), BadTrace::Large);
    }
}
