//! Random traces under random policies, from one number each: every request ends or is refused, every invariant holds after
//! every step, nobody reads memory that was not written, and no block stays in use.
//!
//! The suite runs a few hundred seeds; `cargo xtask fuzz` runs more. A failure says its seed:
//! `FOLIO_FUZZ_SEED=17 cargo test -p folio-sim --test fuzz` plays it again, alone.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use folio_core::ids::{Salt, Tick, Token};
use folio_core::kv::Config;
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::{Job, Limits, PreemptionMode, RecoveryCosts, Scheduler};
use folio_sim::memory::{Memory, Policy};
use folio_sim::{
    Arrival, CostExecutor, Outcome, Random, Source, Stopping, TokenRule, Watch, run_watched,
};

/// Seeds of one run of the suite.
const SEEDS: u64 = 300;
const EOS: Token = Token(2);

/// Small numbers from a seed.
struct Dice(Random);

impl Dice {
    /// From `low` to `high`.
    fn roll(&mut self, low: u32, high: u32) -> u32 {
        let sides = usize::try_from(high - low + 1).unwrap();
        low + u32::try_from(self.0.below(sides)).unwrap()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.roll(1, n) == 1
    }
}

/// A scheduler with little of everything.
fn scheduler(dice: &mut Dice) -> (Scheduler<Memory>, CostExecutor) {
    let policy = if dice.one_in(2) { Policy::Paged } else { Policy::ALL[dice.roll(0, 4) as usize] };
    let (block_size, capacity, vocab) = (dice.roll(1, 8), dice.roll(2, 60), dice.roll(8, 200));
    let limits = Limits {
        max_model_len: dice.roll(8, 90),
        max_num_seqs: dice.roll(1, 12),
        max_num_batched_tokens: dice.roll(1, 48),
        max_queued: dice.roll(1, 24),
        vocab,
    };
    let config = Config { block_size, capacity, prefix_caching: !dice.one_in(3), secret: 1 };
    let slots = if dice.one_in(2) { dice.roll(1, 50) } else { 0 };
    let memory = Memory::new(policy, config, slots, limits.max_model_len).unwrap();
    let mode = [PreemptionMode::Auto, PreemptionMode::Recompute, PreemptionMode::Swap];
    let mut scheduler =
        Scheduler::new(limits, memory).with_preemption(mode[dice.roll(0, 2) as usize]);
    if dice.one_in(2) {
        let (compute_token, move_block) =
            (f64::from(dice.roll(1, 100)), f64::from(dice.roll(1, 1000)));
        scheduler.set_recovery_costs(RecoveryCosts { compute_token, move_block });
    }
    let stopping = Some(Stopping { token: EOS, one_in: dice.roll(2, 60) });
    let rule = TokenRule { stopping, ..TokenRule::new(vocab) };
    (scheduler, CostExecutor::new(capacity, block_size, rule))
}

fn arrival(dice: &mut Dice, vocab: u32) -> Arrival {
    let beams = dice.one_in(5);
    let n = i64::from(dice.roll(1, 4));
    let asked = Requested {
        n: Some(n),
        best_of: dice.one_in(3).then(|| n + i64::from(dice.roll(0, 2))),
        use_beam_search: beams,
        max_tokens: (!dice.one_in(8)).then(|| i64::from(dice.roll(1, 40))),
        temperature: (!beams).then(|| f64::from(dice.roll(0, 1))),
        seed: Some(i64::from(dice.roll(0, 3))),
        presence_penalty: (!beams && dice.one_in(4)).then_some(1.0),
        prompt_logprobs: dice.one_in(6).then_some(1),
        ignore_eos: dice.one_in(4),
        ..Requested::default()
    };
    let limits = ParamLimits {
        vocab,
        max_n: 8,
        max_logprobs: 5,
        max_logit_bias: 0,
        max_stop_token_ids: 0,
        eos: vec![EOS],
    };
    let (family, len) = (dice.roll(0, 3), dice.roll(1, 50));
    let prompt = (0..len).map(|at| Token((family * 31 + at * 7) % vocab)).collect();
    let at = u64::from(dice.roll(0, 90_000));
    let abort_at = dice.one_in(6).then(|| Tick(at + u64::from(dice.roll(0, 60_000))));
    let params = Params::parse(&asked, &limits, 0).unwrap();
    Arrival { at: Tick(at), job: Job::new(prompt, params, Salt::default()), abort_at }
}

/// A trace, earliest first.
struct Trace(Vec<Arrival>, usize);

impl Source for Trace {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn next_at(&self) -> Option<Tick> {
        self.0.get(self.1).map(|arrival| arrival.at)
    }

    fn pop(&mut self) -> Option<(usize, Arrival)> {
        let arrival = self.0.get(self.1).cloned()?;
        self.1 += 1;
        Some((self.1 - 1, arrival))
    }
}

/// Looks at every invariant, in release builds too.
struct Inspector;

impl Watch<Memory> for Inspector {
    fn step(&mut self, now: Tick, scheduler: &Scheduler<Memory>, _ended: usize) {
        if let Err(broken) = scheduler.check() {
            panic!("at {now} µs: {broken}");
        }
    }
}

fn play(seed: u64) {
    let mut dice = Dice(Random::new(seed, 0));
    let (mut scheduler, mut executor) = scheduler(&mut dice);
    let vocab = scheduler.admission().limits.vocab;
    let count = dice.roll(1, 30);
    let mut trace: Vec<Arrival> = (0..count).map(|_| arrival(&mut dice, vocab)).collect();
    trace.sort_by_key(|arrival| arrival.at);
    let report =
        run_watched(&mut scheduler, &mut executor, Trace(trace, 0), &mut Inspector).unwrap();
    for (index, request) in report.requests.iter().enumerate() {
        if let Outcome::Failed(failure) = &request.outcome {
            panic!("request {index} failed: {failure:?}");
        }
    }
    if let Some(step) = report.steps.iter().find(|step| step.error.is_some()) {
        panic!("the step at {} µs: {:?}", step.began, step.error);
    }
    assert_eq!(scheduler.check(), Ok(()));
    let stats = scheduler.stats();
    assert_eq!((stats.kv.used, stats.kv.swap_used), (0, 0), "blocks in use at the end");
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_random_trace_ends_with_nothing_in_use() {
    let from = number("FOLIO_FUZZ_SEED");
    let count = number("FOLIO_FUZZ_COUNT").unwrap_or(if from.is_some() { 1 } else { SEEDS });
    let from = from.unwrap_or(0);
    for seed in from..from.saturating_add(count) {
        let played = catch_unwind(AssertUnwindSafe(|| play(seed)));
        assert!(
            played.is_ok(),
            "seed {seed} failed; FOLIO_FUZZ_SEED={seed} cargo test -p folio-sim --test fuzz plays it again"
        );
    }
}
