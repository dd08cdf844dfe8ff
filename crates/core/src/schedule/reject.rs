//! Why a request is not even queued: a sentence with the numbers, and what to change.

use std::fmt;

use crate::ids::Token;

/// A job that is refused at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reject {
    /// There is nothing to go on from.
    EmptyPrompt,
    /// The prompt contains a token that the model does not have.
    UnknownToken {
        /// Index in the prompt.
        position: usize,
        /// The token.
        token: Token,
        /// Tokens `0..vocab` exist.
        vocab: u32,
    },
    /// The prompt leaves no room for output.
    PromptTooLong {
        /// Prompt tokens.
        prompt: usize,
        /// The context's length.
        limit: u32,
    },
    /// Prompt and output together exceed the context.
    TooLong {
        /// Prompt tokens.
        prompt: u32,
        /// Tokens asked for.
        max_tokens: u32,
        /// The context's length.
        limit: u32,
    },
    /// More sequences than may run at once.
    TooManySequences {
        /// The request field that asks for them.
        field: &'static str,
        /// Sequences asked for.
        width: u32,
        /// Sequences that may run at once.
        limit: u32,
    },
    /// The request alone would need more memory than there is.
    NeverFits {
        /// Blocks it may need.
        need: u32,
        /// Blocks there are.
        capacity: u32,
        /// Positions in one block.
        block_size: u32,
        /// Prompt tokens.
        prompt: u32,
        /// The request field that asks for the sequences.
        field: &'static str,
        /// Sequences asked for.
        width: u32,
        /// Tokens each of them may generate.
        max_tokens: u32,
    },
    /// Too many requests wait already. The only one that another moment may cure.
    QueueFull {
        /// Requests that may wait.
        limit: u32,
    },
}

impl Reject {
    /// The request field that is to be changed; none if it is not the request's fault.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::EmptyPrompt | Self::UnknownToken { .. } | Self::PromptTooLong { .. } => {
                Some("prompt")
            }
            Self::TooLong { .. } => Some("max_tokens"),
            Self::TooManySequences { field, .. } => Some(field),
            Self::NeverFits { capacity, block_size, prompt, field, width, .. } => {
                let prompt_fits = prompt.div_ceil((*block_size).max(1)) <= *capacity;
                Some(match (prompt_fits, width) {
                    (false, _) => "prompt",
                    (true, 0 | 1) => "max_tokens",
                    (true, _) => field,
                })
            }
            Self::QueueFull { .. } => None,
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPrompt => f.write_str("the prompt is empty; send at least one token"),
            Self::UnknownToken { position, token, vocab } => write!(
                f,
                "token {token} at position {position} of the prompt does not exist; ids go from 0 to {}",
                vocab.saturating_sub(1)
            ),
            Self::PromptTooLong { prompt, limit } => write!(
                f,
                "the prompt has {prompt} tokens but the context is {limit}, and at least one is to be generated; \
                 shorten the prompt or raise --max-model-len"
            ),
            Self::TooLong { prompt, max_tokens, limit } => write!(
                f,
                "the prompt has {prompt} tokens and max_tokens asks for {max_tokens} more, but the context is {limit}; \
                 lower max_tokens to {} or shorten the prompt",
                limit.saturating_sub(*prompt)
            ),
            Self::TooManySequences { field, width, limit } => write!(
                f,
                "{field} asks for {width} sequences but at most {limit} run at once; lower {field} or raise --max-num-seqs"
            ),
            Self::NeverFits { need, capacity, block_size, prompt, field, width, max_tokens } => {
                let tokens = u64::from(*capacity) * u64::from(*block_size);
                write!(
                    f,
                    "a prompt of {prompt} tokens with {field} = {width} and max_tokens = {max_tokens} may need {need} KV blocks of \
                     {block_size} tokens, but there are {capacity} ({tokens} tokens); \
                     {} or raise --kv-cache-memory-bytes",
                    match self.field() {
                        Some("prompt") => "shorten the prompt".to_owned(),
                        Some("max_tokens") => "lower max_tokens".to_owned(),
                        _ => format!("lower {field} or max_tokens"),
                    }
                )
            }
            Self::QueueFull { limit } => write!(
                f,
                "{limit} requests are waiting already; try again later or raise --max-num-queued-reqs"
            ),
        }
    }
}

impl std::error::Error for Reject {}
