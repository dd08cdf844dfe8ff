//! The door: which requests can be served at all.
//!
//! Everything that depends only on the request and on what was configured is decided here, by [`Admission`], which holds
//! numbers and no memory: a caller on another thread can refuse a request before it queues. What passes fits into the
//! context, the sequence budget and, alone, into the memory; so the oldest request can always go on, and ends.

use std::fmt;
use std::sync::Arc;

use super::Reject;
use crate::ids::{Salt, Token};
use crate::kv::{KvMemory, most_paged_blocks};
use crate::params::Params;

/// What a scheduler may do at once, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: u32,
    /// Most sequences that run at once, and so the most rows and draws of a step.
    pub max_num_seqs: u32,
    /// Most tokens computed in one step; 0 counts as 1.
    pub max_num_batched_tokens: u32,
    /// Most groups that wait for the first time; preempted groups wait beside them.
    pub max_queued: u32,
    /// Tokens `0..vocab` exist.
    pub vocab: u32,
}

/// One request in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What the model reads first.
    pub prompt: Vec<Token>,
    /// What it writes, and how.
    pub params: Params,
    /// Which prefix cache it may use.
    pub salt: Salt,
    /// What ends a sequence besides tokens. Only for requests that rank their choices; where choices are told as they
    /// come, the reader may stop reading.
    pub stop_rule: Option<StopRule>,
    /// Whether the prompt's full blocks stay in memory when the request has ended, for as long as the scheduler lives.
    pub pin: bool,
}

impl Job {
    /// A job without a stop rule.
    #[must_use]
    pub fn new(prompt: Vec<Token>, params: Params, salt: Salt) -> Self {
        Self { prompt, params, salt, stop_rule: None, pin: false }
    }
}

/// Decides whether a sequence ends with its last token, from the tokens generated so far, that one included. It must be
/// a pure function of them, total and quick: it runs between two steps.
pub trait EndsWith: Send + Sync {
    /// Whether `generated` ends here. It is asked about every token once, so it need only look for ends in the last one.
    fn ends(&self, generated: &[Token]) -> bool;
}

/// A shared [`EndsWith`]; equal to its clones only.
#[derive(Clone)]
pub struct StopRule(pub Arc<dyn EndsWith>);

impl fmt::Debug for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StopRule")
    }
}

impl PartialEq for StopRule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Decides whether a job can ever be served; see the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The scheduler's limits.
    pub limits: Limits,
    /// Positions in one block.
    pub block_size: u32,
    /// Blocks there are.
    pub capacity: u32,
}

/// The lengths of a job that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    /// Prompt tokens.
    pub(super) prompt: u32,
    /// The most tokens one sequence ever holds in memory: prompt and output without the last token.
    pub(super) longest: u32,
}

impl Admission {
    /// The facts of a scheduler with these limits over this memory.
    pub fn new<M: KvMemory>(limits: Limits, memory: &M) -> Self {
        Self { limits, block_size: memory.block_size(), capacity: memory.capacity() }
    }

    /// Refuses what `Scheduler::submit` refuses, except that the queue is full. The memory is taken to be paged: one that
    /// reserves more than it needs may make `submit` refuse more.
    ///
    /// # Errors
    /// Why the job can never be served, and what to change.
    pub fn check(&self, job: &Job) -> Result<(), Reject> {
        self.lengths(job, |prompt, longest, n| {
            most_paged_blocks(self.block_size, prompt, longest, n)
        })
        .map(|_| ())
    }

    /// Checks `job` and bounds its output, where `most_blocks` is the memory's.
    pub(super) fn lengths(
        &self,
        job: &Job,
        most_blocks: impl Fn(u32, u32, u32) -> u32,
    ) -> Result<Lengths, Reject> {
        let prompt = self.check_prompt(&job.prompt)?;
        let width = self.check_sequences(&job.params)?;
        let limit = self.limits.max_model_len;
        // The last token of a sequence is never computed upon, so the memory never holds it.
        let longest = match job.params.max_tokens {
            Some(max_tokens) => match prompt.checked_add(max_tokens) {
                Some(len) if len <= limit => len.saturating_sub(1).max(prompt),
                _ => return Err(Reject::TooLong { prompt, max_tokens, limit }),
            },
            None => self.longest_that_fits(prompt, |longest| most_blocks(prompt, longest, width)),
        };
        let need = most_blocks(prompt, longest, width);
        if need > self.capacity {
            let &Self { block_size, capacity, .. } = self;
            let max_tokens = longest - prompt + 1;
            let field = job.params.width_field();
            return Err(Reject::NeverFits {
                need,
                capacity,
                block_size,
                prompt,
                field,
                width,
                max_tokens,
            });
        }
        Ok(Lengths { prompt, longest })
    }

    fn check_prompt(&self, prompt: &[Token]) -> Result<u32, Reject> {
        let &Limits { max_model_len, vocab, .. } = &self.limits;
        // At least one token must be left to generate.
        let len = match u32::try_from(prompt.len()) {
            Ok(0) => return Err(Reject::EmptyPrompt),
            Ok(len) if len < max_model_len => len,
            _ => return Err(Reject::PromptTooLong { prompt: prompt.len(), limit: max_model_len }),
        };
        match prompt.iter().position(|token| token.0 >= vocab) {
            Some(position) => {
                Err(Reject::UnknownToken { position, token: prompt[position], vocab })
            }
            None => Ok(len),
        }
    }

    fn check_sequences(&self, params: &Params) -> Result<u32, Reject> {
        let (width, limit) = (params.width(), self.limits.max_num_seqs);
        if width > limit {
            return Err(Reject::TooManySequences { field: params.width_field(), width, limit });
        }
        Ok(width.max(1))
    }

    /// The greatest length of sequences that the context and the memory allow; `prompt` if not even that fits. More
    /// tokens never take fewer blocks, so halving finds it.
    fn longest_that_fits(&self, prompt: u32, blocks: impl Fn(u32) -> u32) -> u32 {
        let (mut fits, mut bound) = (prompt, self.limits.max_model_len);
        while bound - fits > 1 {
            let middle = fits + (bound - fits) / 2;
            if blocks(middle) <= self.capacity {
                fits = middle;
            } else {
                bound = middle;
            }
        }
        fits
    }
}
