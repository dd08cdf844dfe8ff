//! Log-probabilities in the two shapes OpenAI has for them.
//!
//! Numbers are the model's own distribution, before bias, penalties and temperature. A token's text is its bytes read as
//! UTF-8, incomplete characters as U+FFFD; in the chat shape `bytes` tells exactly.

use folio_core::ids::Token;
use folio_text::Tokenizer;
use serde::{Serialize, Serializer};

use super::choice::TokenRecord;

/// The `logprobs` of a chat choice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Clone, Debug, Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<ChatAlternative>,
}

#[derive(Clone, Debug, Serialize)]
struct ChatAlternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// The chat shape.
pub(crate) fn chat(tokenizer: &Tokenizer, records: &[TokenRecord]) -> ChatLogprobs {
    let content = records
        .iter()
        .filter_map(|record| {
            let score = record.score.as_ref()?;
            let ChatAlternative { token, logprob, bytes } =
                alternative(tokenizer, record.token, score.logprob);
            let top_logprobs = score
                .top
                .iter()
                .map(|&(id, logprob)| alternative(tokenizer, id, logprob))
                .collect();
            Some(ChatToken { token, logprob, bytes, top_logprobs })
        })
        .collect();
    ChatLogprobs { content, refusal: None }
}

fn alternative(tokenizer: &Tokenizer, id: Token, logprob: f32) -> ChatAlternative {
    let bytes = tokenizer.token_bytes(id.0).unwrap_or_default().to_vec();
    ChatAlternative { token: text(tokenizer, id), logprob: finite(logprob), bytes }
}

/// JSON has no infinity; this is what OpenAI and vLLM send for "as good as impossible".
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// The `logprobs` of a completion choice.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    /// The alternatives by text, the token itself among them.
    top_logprobs: Vec<Option<ByText>>,
    text_offset: Vec<u64>,
}

/// Log-probabilities by text, likeliest first.
#[derive(Clone, Debug, Default)]
struct ByText(Vec<(String, f32)>);

impl ByText {
    /// Distinct tokens can read the same; the likelier one, which comes first, stays.
    fn add(&mut self, text: String, logprob: f32) {
        if self.0.iter().all(|(other, _)| *other != text) {
            self.0.push((text, logprob));
        }
    }
}

impl Serialize for ByText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

/// The completions shape.
pub(crate) fn completion(tokenizer: &Tokenizer, records: &[TokenRecord]) -> CompletionLogprobs {
    let mut out = CompletionLogprobs::default();
    for TokenRecord { token, score, offset } in records {
        out.tokens.push(text(tokenizer, *token));
        out.text_offset.push(*offset);
        out.token_logprobs.push(score.as_ref().map(|score| finite(score.logprob)));
        out.top_logprobs.push(score.as_ref().map(|score| {
            let mut by_text = ByText::default();
            for &(id, logprob) in score.top.iter().chain([&(*token, score.logprob)]) {
                by_text.add(text(tokenizer, id), finite(logprob));
            }
            by_text
        }));
    }
    out
}

fn text(tokenizer: &Tokenizer, id: Token) -> String {
    tokenizer.token_text(id.0).unwrap_or_default()
}
