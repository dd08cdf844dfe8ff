//! Log-probabilities in the two shapes OpenAI has for them.
//!
//! Numbers are the model's own distribution, before bias, penalties and temperature. A token's text is its bytes read as
//! UTF-8, incomplete characters as U+FFFD; in the chat shape `bytes` tells exactly.

use folio_core::exec::Score;
use folio_core::ids::Token;
use serde::{Serialize, Serializer};

use super::choice::{Rendering, TokenRecord};

/// The `logprobs` of a chat choice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatToken {
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
pub(crate) fn chat(rendering: &Rendering, records: &[TokenRecord]) -> ChatLogprobs {
    let content = records
        .iter()
        .filter_map(|record| {
            let score = record.score.as_ref()?;
            let ChatAlternative { token, logprob, bytes } =
                alternative(rendering, record.token, score.logprob);
            let top_logprobs = score
                .top
                .iter()
                .map(|&(id, logprob)| alternative(rendering, id, logprob))
                .collect();
            Some(ChatToken { token, logprob, bytes, top_logprobs })
        })
        .collect();
    ChatLogprobs { content, refusal: None }
}

fn alternative(rendering: &Rendering, id: Token, logprob: f32) -> ChatAlternative {
    let bytes = rendering.tokenizer.token_bytes(id.0).unwrap_or_default().to_vec();
    ChatAlternative { token: text(rendering, id), logprob: finite(logprob), bytes }
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
pub(crate) fn completion(rendering: &Rendering, records: &[TokenRecord]) -> CompletionLogprobs {
    let mut out = CompletionLogprobs::default();
    for TokenRecord { token, score, offset } in records {
        out.tokens.push(text(rendering, *token));
        out.text_offset.push(*offset);
        out.token_logprobs.push(score.as_ref().map(|score| finite(score.logprob)));
        out.top_logprobs.push(score.as_ref().map(|score| {
            let mut by_text = ByText::default();
            for &(id, logprob) in score.top.iter().chain([&(*token, score.logprob)]) {
                by_text.add(text(rendering, id), finite(logprob));
            }
            by_text
        }));
    }
    out
}

fn text(rendering: &Rendering, id: Token) -> String {
    if rendering.output.names_are_ids {
        return format!("token_id:{}", id.0);
    }
    rendering.tokenizer.token_text(id.0).unwrap_or_default()
}

/// The log-probabilities of a prompt in vLLM's shape: for each token but the first, those of the token itself and of the
/// likeliest in its place, by id.
#[derive(Clone, Debug)]
pub(crate) struct PromptLogprobs(Vec<Option<ById>>);

#[derive(Clone, Debug)]
struct ById(Vec<(u32, PromptLogprob)>);

#[derive(Clone, Debug, Serialize)]
struct PromptLogprob {
    logprob: f32,
    /// 1 for the likeliest; unknown for a token that is not among those reported.
    rank: Option<usize>,
    decoded_token: String,
}

impl Serialize for ById {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, logprob)| (id, logprob)))
    }
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The prompt's shape. `scores` are those of all `tokens` but the first, which nothing predicts.
pub(crate) fn prompt(rendering: &Rendering, tokens: &[u32], scores: &[Score]) -> PromptLogprobs {
    let of = |id: Token, logprob: f32, rank| {
        let decoded_token = rendering.tokenizer.token_text(id.0).unwrap_or_default();
        (id.0, PromptLogprob { logprob: finite(logprob), rank, decoded_token })
    };
    let scored = tokens.iter().skip(1).zip(scores).map(|(&token, score)| {
        let ranked = (1..).zip(&score.top);
        let mut all: Vec<_> = ranked.map(|(rank, &(id, l))| of(id, l, Some(rank))).collect();
        if all.iter().all(|(id, _)| *id != token) {
            all.push(of(Token(token), score.logprob, None));
        }
        Some(ById(all))
    });
    PromptLogprobs(std::iter::once(None).chain(scored).collect())
}
