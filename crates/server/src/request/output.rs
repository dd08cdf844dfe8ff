//! What may be drawn and how the answer is written: the fields that both endpoints have from vLLM beyond OpenAI's own.

use folio_text::Tokenizer;

use super::common::Dialect;
use super::fields::{Ids, Int, List, fields};
use crate::error::ApiError;
use crate::state::Served;
use folio_core::ids::Token;

fields! {
    /// What may be drawn, and what of the prompt is read.
    pub(crate) struct ConstraintFields {
        min_tokens: Int,
        allowed_token_ids: Ids,
        bad_words: List<String>,
        truncate_prompt_tokens: Int,
        priority: Int,
    }
}

fields! {
    /// How the answer is written.
    pub(crate) struct OutputFields {
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
        include_stop_str_in_output: bool,
        prompt_logprobs: Int,
        return_token_ids: bool,
        return_tokens_as_token_ids: bool,
    }
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) skip_special_tokens: bool,
    /// Whether the text keeps the string or token that ended it.
    pub(crate) include_stop: bool,
    /// Whether the ids of all tokens are told.
    pub(crate) token_ids: bool,
    /// Whether log-probabilities call tokens by their ids.
    pub(crate) names_are_ids: bool,
    /// Whether the prompt's log-probabilities are told by themselves.
    pub(crate) prompt_logprobs: bool,
}

impl Output {
    /// The choices of a request.
    ///
    /// # Errors
    /// 400 for what cannot be had.
    pub(crate) fn new(fields: &OutputFields, streamed: bool) -> Result<Self, ApiError> {
        let &OutputFields {
            skip_special_tokens,
            spaces_between_special_tokens,
            include_stop_str_in_output,
            prompt_logprobs,
            return_token_ids,
            return_tokens_as_token_ids,
        } = fields;
        let skip_special_tokens = skip_special_tokens.unwrap_or(true);
        if spaces_between_special_tokens == Some(false) && !skip_special_tokens {
            return Err(ApiError::field(
                "spaces_between_special_tokens",
                "cannot be false where special tokens are shown: text is decoded as the tokenizer says",
            ));
        }
        if prompt_logprobs.is_some() && streamed {
            let problem = "cannot be streamed; leave out `stream`, or use `echo` with `logprobs` of /v1/completions";
            return Err(ApiError::field("prompt_logprobs", problem));
        }
        Ok(Self {
            skip_special_tokens,
            include_stop: include_stop_str_in_output.unwrap_or(false),
            token_ids: return_token_ids.unwrap_or(false),
            names_are_ids: return_tokens_as_token_ids.unwrap_or(false),
            prompt_logprobs: prompt_logprobs.is_some(),
        })
    }
}

/// The most bytes of one bad word; with the bound on their number it bounds what is tokenised here.
const LONGEST_WORD: usize = 256;
/// The most bad words, as vLLM bounds them.
const MOST_WORDS: usize = 128;

/// Bad words as tokens: each as it begins a text, and as it follows a space if that is one more way to write it.
pub(crate) fn bad_words(
    words: Option<List<String>>,
    tokenizer: &Tokenizer,
) -> Result<Vec<Vec<Token>>, ApiError> {
    let words = words.unwrap_or_default().0;
    if words.len() > MOST_WORDS {
        let problem = format!("has {} entries; at most {MOST_WORDS}", words.len());
        return Err(ApiError::field("bad_words", problem));
    }
    let mut spelled: Vec<Vec<Token>> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let at = || format!("bad_words[{index}]");
        if word.trim().is_empty() || word.len() > LONGEST_WORD {
            let problem =
                format!("must have from 1 to {LONGEST_WORD} bytes that are not all spaces");
            return Err(ApiError::field(at(), problem));
        }
        let encode = |text: &str| -> Result<Vec<Token>, ApiError> {
            let ids = tokenizer.encode(text, false);
            let ids =
                ids.map_err(|error| ApiError::field(at(), format!("cannot be read: {error}")))?;
            Ok(ids.into_iter().map(Token).collect())
        };
        let word = word.trim_start();
        let plain = encode(word)?;
        let spaced = encode(&format!(" {word}"))?;
        // Of the two, one may be a token and the other several.
        spelled.extend((spaced != plain).then_some(spaced));
        spelled.push(plain);
    }
    Ok(spelled)
}

/// How many tokens of a prompt are kept, its last ones. -1 keeps what leaves room for the answer.
pub(crate) fn truncation(
    asked: Option<Int>,
    dialect: Dialect,
    served: &Served,
) -> Result<Option<usize>, ApiError> {
    let context = i64::from(served.max_model_len);
    let kept = match asked {
        None => return Ok(None),
        Some(Int(-1)) => (context - dialect.max_tokens.unwrap_or(1).clamp(1, context)).max(1),
        Some(Int(kept)) if (1..=context).contains(&kept) => kept,
        Some(Int(kept)) => {
            let problem = format!("must be -1 or from 1 to {context}, not {kept}");
            return Err(ApiError::field("truncate_prompt_tokens", problem));
        }
    };
    Ok(usize::try_from(kept).ok())
}

/// Keeps the last `kept` tokens; whether any went.
pub(crate) fn truncate(tokens: &mut Vec<Token>, kept: Option<usize>) -> bool {
    let surplus = kept.map_or(0, |kept| tokens.len().saturating_sub(kept));
    tokens.drain(..surplus);
    surplus > 0
}
