//! The lengths of expected requests, from a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use folio_model::block_size::Lengths;
use folio_sim::workload::lengths_from_csv;

/// Longest file that is read, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// The text of `file`, if it has at most `most` bytes.
pub(crate) fn read_text(file: &Path, most: u64) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(most + 1).read_to_end(&mut bytes)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    ensure!(length <= most, "the file is larger than {most} bytes");
    String::from_utf8(bytes).context("the file is not UTF-8 text")
}

/// Reads a CSV file, named by `flag`, whose header names the columns `prompt_tokens` and `output_tokens`; other columns are passed
/// over.
///
/// # Errors
/// Names the flag, the file, and the line that is wrong.
pub(crate) fn read(file: &Path, flag: &str) -> Result<Vec<Lengths>> {
    read_text(file, MOST_BYTES)
        .and_then(|text| parse(&text))
        .with_context(|| format!("{flag} {}", file.display()))
}

fn parse(text: &str) -> Result<Vec<Lengths>> {
    let lengths = lengths_from_csv(text)?.into_iter();
    Ok(lengths.map(|(prompt, output)| Lengths { prompt, output }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "arrival_s, output_tokens,prompt_tokens\r\n0.0,12,7\n\n1.5, 3 ,4,\n";
        let expected =
            [Lengths { prompt: 7, output: 12 }, Lengths { prompt: 4, output: 3 }].to_vec();
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |text| parse(text).unwrap_err().to_string();
        assert!(problem("").contains("prompt_tokens"));
        assert!(problem("prompt_tokens,output\n1,2\n").contains("output_tokens"));
        assert!(problem("prompt_tokens,output_tokens\n1,2\n3\n").contains("line 3"));
        assert!(problem("prompt_tokens,output_tokens\n1,-2\n").contains("line 2"));
        assert!(problem("prompt_tokens,output_tokens\n").contains("no request"));
    }
}
