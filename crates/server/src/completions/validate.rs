//! From a [`CompletionBody`] to a [`ValidCompletion`].

use super::types::{CompletionBody, CompletionFields, Prompt, Prompts};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::request::common::{self, Common, Dialect, Groups};
use crate::request::structured::{Wanted, wanted};
use crate::state::Served;

/// OpenAI's default for this endpoint.
const MAX_TOKENS: i64 = 16;

/// A request whose prompts can be tokenised.
#[derive(Debug)]
pub(crate) struct ValidCompletion {
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    /// Whether answers begin with their prompt.
    pub(crate) echo: bool,
    /// Whether answers are their prompts and nothing else, which are only to be scored.
    pub(crate) prompts_only: bool,
    /// The grammar of all answers.
    pub(crate) wanted: Option<Wanted>,
    pub(crate) common: Common,
}

/// Checks a body.
///
/// # Errors
/// 400 that names the first field that is wrong or not served; 404 for another model.
pub(crate) fn validate(
    body: CompletionBody,
    served: &Served,
    caller: Caller,
) -> Result<ValidCompletion, ApiError> {
    let CompletionBody {
        completion,
        shared,
        sampling,
        decoding,
        constraints,
        output,
        structured,
        unserved,
        unserved_completion,
    } = body;
    let CompletionFields { prompt, max_tokens, logprobs, echo, suffix } = completion;
    unserved_completion.refuse()?;
    if suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field("suffix", "is not supported: text is only appended"));
    }
    let echo = echo.unwrap_or(false);
    let logprobs = logprobs.map(|k| k.0);
    let max_tokens = max_tokens.map_or(MAX_TOKENS, |limit| limit.0);
    let prompts_only = echo && max_tokens == 0;
    let groups = Groups { shared, sampling, decoding, constraints, output, unserved };
    let dialect = Dialect {
        max_tokens_field: "max_tokens",
        // Scoring a prompt takes the step that would choose the next token.
        max_tokens: Some(if prompts_only { 1 } else { max_tokens }),
        logprobs_field: "logprobs",
        logprobs,
        prompt_logprobs: logprobs.filter(|_| echo),
        add_special_tokens: true,
    };
    let common = common::validate(groups, dialect, served, caller)?;
    let prompts = match prompt {
        None => return Err(ApiError::field("prompt", "is missing")),
        Some(Prompts::One(prompt)) => vec![prompt],
        Some(Prompts::Many(prompts)) => prompts,
    };
    bounded(&prompts, common.params.n, served)?;
    let wanted = wanted(structured, &common.params)?;
    Ok(ValidCompletion { prompts, echo, prompts_only, wanted, common })
}

fn bounded(prompts: &[Prompt], n: u32, served: &Served) -> Result<(), ApiError> {
    let count = prompts.len();
    let most = served.limits.prompts;
    if count == 0 {
        return Err(ApiError::field("prompt", "is an empty list; send at least one prompt"));
    }
    if count > most {
        return Err(ApiError::field("prompt", format!("has {count} entries; at most {most}")));
    }
    let choices = count.saturating_mul(usize::try_from(n).unwrap_or(usize::MAX));
    let most = served.limits.choices;
    if choices > most {
        let problem =
            format!("is {n} for each of {count} prompts, {choices} choices; at most {most}");
        return Err(ApiError::field("n", problem));
    }
    Ok(())
}
