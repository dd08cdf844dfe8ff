//! What the tests of the engine share: a small engine over the mock executor, and readers of streams.

use folio_core::event::FinishReason;
use folio_core::ids::{Salt, Token};
use folio_core::kv::{Config, Manager};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::{Job, Limits, Scheduler};
use folio_engine::{Checks, EngineConfig, EngineThread, Generation, Handle, Timing, Update, start};
use folio_sim::{CostExecutor, Stopping, TokenRule};

pub(crate) const VOCAB: u32 = 1_000;
pub(crate) const EOS: Token = Token(2);
pub(crate) const BLOCK_SIZE: u32 = 4;

/// Draws the end of a sequence once in forty tokens.
pub(crate) fn rule() -> TokenRule {
    TokenRule { stopping: Some(Stopping { token: EOS, one_in: 40 }), ..TokenRule::new(VOCAB) }
}

pub(crate) fn limits() -> Limits {
    Limits {
        max_model_len: 200,
        max_num_seqs: 16,
        max_num_batched_tokens: 64,
        max_queued: 2_000,
        vocab: VOCAB,
    }
}

pub(crate) fn memory(blocks: u32) -> Manager {
    let config =
        Config { block_size: BLOCK_SIZE, capacity: blocks, prefix_caching: true, secret: 7 };
    Manager::new(config).unwrap()
}

pub(crate) fn executor(blocks: u32) -> CostExecutor {
    CostExecutor::new(blocks, BLOCK_SIZE, rule())
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig { checks: Checks::EveryStep, ..EngineConfig::default() }
}

/// An engine over `blocks` blocks whose executor went through `shape`.
pub(crate) fn engine(
    blocks: u32,
    limits: Limits,
    shape: impl FnOnce(CostExecutor) -> CostExecutor,
) -> (Handle, EngineThread) {
    // Without headroom, so that little memory means many preemptions.
    let scheduler = Scheduler::new(limits, memory(blocks)).with_headroom(0);
    start(scheduler, Box::new(shape(executor(blocks))), config()).unwrap()
}

pub(crate) fn params(asked: &Requested) -> Params {
    let limits = ParamLimits {
        vocab: VOCAB,
        max_n: 16,
        max_logprobs: 20,
        max_logit_bias: 300,
        max_stop_token_ids: 16,
        eos: vec![EOS],
    };
    Params::parse(asked, &limits, 0).unwrap()
}

pub(crate) fn job(prompt: impl IntoIterator<Item = u32>, asked: &Requested) -> Job {
    let prompt = prompt.into_iter().map(Token).collect();
    Job::new(prompt, params(asked), Salt(0))
}

/// Greedy and never ending by itself.
pub(crate) fn plain(first: u32, prompt: u32, max_tokens: i64) -> Job {
    let asked =
        Requested { max_tokens: Some(max_tokens), ignore_eos: true, ..Requested::default() };
    job((0..prompt).map(|i| (first * 131 + i * 7) % VOCAB), &asked)
}

/// Request number `i` of a varied lot: lengths, samplings, choices, shared prompts.
pub(crate) fn varied(i: u32) -> Job {
    let asked = Requested {
        n: Some(1 + i64::from(i % 7 == 3) * 2),
        max_tokens: Some(i64::from(1 + i * 5 % 23)),
        temperature: Some(f64::from(i % 3) / 2.0),
        seed: Some(i64::from(i)),
        frequency_penalty: i.is_multiple_of(5).then_some(0.5),
        logprobs: i.is_multiple_of(4).then_some(3),
        ignore_eos: i.is_multiple_of(2),
        ..Requested::default()
    };
    // A third of the requests share a beginning.
    let first = if i.is_multiple_of(3) { 5 } else { i };
    job((0..2 + i * 3 % 31).map(|p| (first * 17 + p * 7) % VOCAB), &asked)
}

/// What `job` must produce, whatever else is going on.
pub(crate) fn expected(job: &Job) -> Vec<Vec<Token>> {
    let most = job.params.max_tokens.unwrap();
    (0..job.params.n).map(|c| rule().continuation(&job.prompt, &job.params, c, most)).collect()
}

/// A stream that was read to its end.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) choices: Vec<Vec<Token>>,
    pub(crate) finishes: Vec<FinishReason>,
    pub(crate) admitted: u32,
    pub(crate) last: Option<Update>,
    pub(crate) timing: Option<Timing>,
}

impl Read {
    /// The tokens, if the request ended well.
    pub(crate) fn finished(self) -> Vec<Vec<Token>> {
        assert!(matches!(self.last, Some(Update::Ended { .. })), "{:?}", self.last);
        assert_eq!(self.finishes.len(), self.choices.len());
        assert_eq!(self.admitted, 1);
        self.choices
    }
}

/// Reads a stream to its end and checks its grammar.
pub(crate) async fn read(mut generation: Generation) -> Read {
    let mut read = Read::default();
    while let Some(updates) = generation.next().await {
        assert!(!updates.is_empty());
        for update in updates {
            assert!(read.last.is_none(), "{update:?} after the last update");
            match &update {
                Update::Admitted { .. } => read.admitted += 1,
                Update::PromptScored(_) | Update::Ranked { .. } => {}
                Update::Sampled { choice, drawn, finish, .. } => {
                    let choice = *choice as usize;
                    if read.choices.len() <= choice {
                        read.choices.resize(choice + 1, Vec::new());
                    }
                    read.choices[choice].push(drawn.token);
                    read.finishes.extend(*finish);
                }
                Update::Ended { .. } | Update::Failed(_) => read.last = Some(update),
            }
        }
    }
    assert!(read.last.is_some(), "a stream ended without a last update");
    assert!(generation.next().await.is_none());
    read.timing = Some(*generation.timing());
    read
}

/// Drains the engine and asserts that it ended well and that every block came back.
pub(crate) fn finish(handle: &Handle, thread: EngineThread) {
    handle.drain();
    thread.join().unwrap();
    assert_all_returned(handle);
}

pub(crate) fn assert_all_returned(handle: &Handle) {
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.requests, 0);
    assert_eq!(snapshot.stats.kv.used, 0, "{snapshot:?}");
}

/// Runs a future on a runtime of its own, on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
