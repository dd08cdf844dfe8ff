//! Conversations in the format of ShareGPT, sampled as vLLM samples them: the first turn is the prompt, and the second one says
//! how long the answer is.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use folio_sim::Random;
use folio_text::Tokenizer;
use serde::Deserialize;

use super::super::args::DataArgs;
use super::{PROMPTS, Request, file, shuffle};
use crate::trace::read_text;

/// Shorter prompts and answers are left out, in tokens; so are longer ones than these.
const LEAST: usize = 4;
const MOST_PROMPT: usize = 1024;
const MOST_TOTAL: usize = 2048;

#[derive(Deserialize)]
struct Conversation {
    #[serde(default)]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

/// A sample of the conversations in `path`.
pub(super) fn read(
    args: &DataArgs,
    path: &Path,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Request>> {
    let tokenizer =
        tokenizer.context("--dataset-name sharegpt counts tokens; add --tokenizer PATH")?;
    let text = read_text(path, file::MOST_BYTES)?;
    let count = |text: &str| Ok(tokenizer.encode(text, true)?.len());
    sample(args, &text, count)
}

fn sample(
    args: &DataArgs,
    text: &str,
    count: impl Fn(&str) -> Result<usize>,
) -> Result<Vec<Request>> {
    let mut all: Vec<Conversation> = serde_json::from_str(text)
        .context("it is not a list of objects with conversations: [{\"value\": TEXT}, …]")?;
    shuffle(&mut all, &mut Random::new(args.dataset_seed, PROMPTS));
    let most = args.num_prompts.map_or(usize::MAX, |most| most as usize);
    let mut requests = Vec::new();
    for conversation in all {
        if requests.len() == most {
            break;
        }
        let mut turns = conversation.conversations.into_iter();
        let (Some(prompt), Some(answer)) = (turns.next(), turns.next()) else { continue };
        let prompt_len = count(&prompt.value)?;
        let output_len = match args.sharegpt_output_len {
            Some(len) => len as usize,
            None => count(&answer.value)?,
        };
        let answered = args.sharegpt_output_len.is_some() || output_len >= LEAST;
        let fits = prompt_len <= MOST_PROMPT && prompt_len + output_len <= MOST_TOTAL;
        if answered && prompt_len >= LEAST && fits {
            let output_len = u32::try_from(output_len)?;
            let text = Some(prompt.value);
            requests.push(Request { ids: Vec::new(), text, output_len, arrival_s: 0.0 });
        }
    }
    ensure!(
        !requests.is_empty(),
        "no conversation in it has a prompt and an answer of usual length"
    );
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_first_turns_and_lengths_those_of_the_answers() {
        let talk = |turns: &[&str]| {
            let turns: Vec<_> = turns.iter().map(|t| serde_json::json!({"value": t})).collect();
            serde_json::json!({"id": "x", "conversations": turns})
        };
        let long = "a ".repeat(1025);
        let file = serde_json::json!([
            talk(&["one two three four", "1 2 3 4 5", "more"]),
            talk(&["alone in the dark"]),
            talk(&["too short", "1 2 3 4 5"]),
            talk(&["five six seven eight nine", "no"]),
            talk(&[&long, "1 2 3 4 5"]),
        ]);
        let words = |text: &str| Ok(text.split_whitespace().count());
        let sampled = |args: &DataArgs| {
            let mut requests = sample(args, &file.to_string(), words).unwrap();
            requests.sort_by(|a, b| a.text.cmp(&b.text));
            requests.into_iter().map(|r| (r.text.unwrap(), r.output_len)).collect::<Vec<_>>()
        };
        let first = ("one two three four".to_owned(), 5);
        assert_eq!(sampled(&DataArgs::default()), [first]);
        let fixed = DataArgs { sharegpt_output_len: Some(2), ..DataArgs::default() };
        assert_eq!(sampled(&fixed).len(), 2);
        assert!(sample(&fixed, "{}", words).is_err());
    }
}
