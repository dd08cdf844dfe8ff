//! The engine's numbers as last published, for metrics. Copied once per step; readers hold the lock for a copy only.

use std::time::Duration;

use folio_core::stats::Stats;

/// How many tokens the steps computed, as a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepTokens {
    /// Steps per bucket, not cumulative: bucket `i` holds steps of at most [`Self::BOUNDS`]`[i]` tokens that fit in no
    /// earlier one; the last bucket holds the rest.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// Tokens of all steps.
    pub sum: u64,
}

impl StepTokens {
    /// Upper bounds of the buckets: vLLM's, so that dashboards need no translation.
    pub const BOUNDS: [u64; 13] = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

    fn record(&mut self, tokens: u64) {
        let bucket = Self::BOUNDS.partition_point(|&bound| bound < tokens);
        self.counts[bucket] += 1;
        self.sum += tokens;
    }
}

/// What the masks of constrained requests cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskCosts {
    /// Masks that were made.
    pub made: u64,
    /// Time the threads that make them spent on them, all threads together.
    pub work: Duration,
    /// Time the engine waited for them before steps: what of the work the rest of the step did not hide.
    pub waited: Duration,
}

/// What the engine published after its last step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The scheduler's and the block manager's numbers.
    pub stats: Stats,
    /// Requests that hold a permit: in the inbox, waiting, or running.
    pub requests: u32,
    /// Steps executed, failed ones included.
    pub steps: u64,
    /// Steps that the executor could not execute.
    pub failed_steps: u64,
    /// Time spent in the executor, all steps together.
    pub step_time: Duration,
    /// Time the last step spent in the executor.
    pub last_step: Duration,
    /// Tokens computed per step.
    pub step_tokens: StepTokens,
    /// What masks cost.
    pub masks: MaskCosts,
}

impl Snapshot {
    pub(crate) fn record_step(&mut self, tokens: usize, took: Duration, failed: bool) {
        self.steps += 1;
        self.failed_steps += u64::from(failed);
        self.step_time = self.step_time.saturating_add(took);
        self.last_step = took;
        self.step_tokens.record(u64::try_from(tokens).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_counted_in_the_first_bucket_that_holds_it() {
        let mut tokens = StepTokens::default();
        for n in [1, 2, 8, 9, 16_384, 16_385] {
            tokens.record(n);
        }
        let mut expected = [0; 14];
        expected[0] = 1; // 1
        expected[1] = 2; // 2 and 8
        expected[2] = 1; // 9
        expected[12] = 1; // 16384
        expected[13] = 1; // 16385
        assert_eq!(tokens.counts, expected);
        assert_eq!(tokens.sum, 1 + 2 + 8 + 9 + 16_384 + 16_385);
    }
}
