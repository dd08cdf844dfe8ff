//! The real scheduler and block manager under random traces: everyone ends, gets what they would get alone, and every
//! block comes back. The executor fails a step that reads memory which was not written, so a plan cannot be wrong quietly.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use folio_core::exec::{DrawFault, ExecError};
use folio_core::ids::{Salt, Tick, Token};
use folio_core::kv::Config;
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::{Job, Limits, PreemptionMode, Scheduler};
use folio_sim::memory::{Memory, Policy};
use folio_sim::{Arrival, CostExecutor, CostModel, Outcome, Report, Stopping, TokenRule, run};
use proptest::prelude::*;

const EOS: Token = Token(3);

fn rule(vocab: u32) -> TokenRule {
    TokenRule { stopping: Some(Stopping { token: EOS, one_in: 25 }), ..TokenRule::new(vocab) }
}

fn params(asked: &Requested, vocab: u32) -> Params {
    let limits = ParamLimits {
        vocab,
        max_n: 8,
        max_logprobs: 5,
        max_logit_bias: 0,
        max_stop_token_ids: 2,
        eos: vec![EOS],
    };
    Params::parse(asked, &limits, 0).unwrap()
}

/// Memory, and how much of it one step may use.
#[derive(Clone, Copy, Debug)]
struct House {
    block_size: u32,
    blocks: u32,
    prefix_caching: bool,
    policy: Policy,
    swap: Option<(u32, PreemptionMode)>,
    limits: Limits,
}

impl House {
    fn scheduler(&self) -> Scheduler<Memory> {
        let Self { block_size, blocks: capacity, prefix_caching, policy, swap, limits } = *self;
        let config = Config { block_size, capacity, prefix_caching, secret: 1 };
        let (slots, mode) = swap.unwrap_or((0, PreemptionMode::Recompute));
        let memory = Memory::new(policy, config, slots, limits.max_model_len).unwrap();
        Scheduler::new(limits, memory).with_preemption(mode).with_headroom(0)
    }

    fn executor(&self) -> CostExecutor {
        CostExecutor::new(self.blocks, self.block_size, rule(self.limits.vocab))
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![4 => Just(Policy::Paged), 4 => prop::sample::select(Policy::ALL.to_vec())]
}

fn swap() -> impl Strategy<Value = (u32, PreemptionMode)> {
    (1u32..40, prop::sample::select(vec![PreemptionMode::Auto, PreemptionMode::Swap]))
}

fn house() -> impl Strategy<Value = House> {
    let memory = (1u32..9, 2u32..48, any::<bool>(), policy(), prop::option::of(swap()));
    (memory, 1u32..9, 1u32..40, 8u32..80, 4u32..200).prop_map(
        |(memory, max_num_seqs, tokens, max_model_len, vocab)| House {
            block_size: memory.0,
            blocks: memory.1,
            prefix_caching: memory.2,
            policy: memory.3,
            swap: memory.4,
            limits: Limits {
                max_model_len,
                max_num_seqs,
                max_num_batched_tokens: tokens,
                max_queued: 20,
                vocab,
            },
        },
    )
}

/// One request, before it is known which tokens there are.
#[derive(Clone, Copy, Debug)]
struct Wish {
    at: u64,
    abort_after: Option<u64>,
    prompt: u32,
    /// Requests of one family begin alike.
    family: u32,
    max_tokens: Option<i64>,
    n: i64,
    temperature: f64,
    penalty: bool,
    prompt_logprobs: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let times = (0u64..60_000, prop::option::weighted(0.2, 0u64..40_000));
    let lengths = (1u32..40, 0u32..4, prop::option::weighted(0.9, 1i64..30));
    let sampling = (1i64..5, 0u8..2, any::<bool>(), prop::bool::weighted(0.2));
    (times, lengths, sampling).prop_map(
        |(
            (at, abort_after),
            (prompt, family, max_tokens),
            (n, temperature, penalty, prompt_logprobs),
        )| Wish {
            at,
            abort_after,
            prompt,
            family,
            max_tokens,
            n,
            temperature: f64::from(temperature),
            penalty,
            prompt_logprobs,
        },
    )
}

impl Wish {
    fn arrival(&self, vocab: u32) -> Arrival {
        let asked = Requested {
            n: Some(self.n),
            max_tokens: self.max_tokens,
            temperature: Some(self.temperature),
            seed: Some(i64::from(self.family)),
            presence_penalty: self.penalty.then_some(1.0),
            prompt_logprobs: self.prompt_logprobs.then_some(2),
            ..Requested::default()
        };
        let prompt = (0..self.prompt).map(|p| Token((self.family * 31 + p * 7) % vocab)).collect();
        Arrival {
            at: Tick(self.at),
            job: Job::new(prompt, params(&asked, vocab), Salt(0)),
            abort_at: self.abort_after.map(|after| Tick(self.at + after)),
        }
    }
}

/// What every run must satisfy.
fn judge(house: &House, trace: &[Arrival], report: &Report) {
    assert_eq!(report.requests.len(), trace.len());
    for (record, Arrival { job, abort_at, .. }) in report.requests.iter().zip(trace) {
        let longest =
            house.limits.max_model_len.saturating_sub(u32::try_from(job.prompt.len()).unwrap());
        let most = job.params.max_tokens.unwrap_or(longest);
        for (choice, tokens) in (0..).zip(&record.choices) {
            let alone =
                rule(house.limits.vocab).continuation(&job.prompt, &job.params, choice, most);
            assert!(alone.starts_with(tokens), "{tokens:?} is no part of {alone:?}");
            let complete = matches!(record.outcome, Outcome::Finished { .. })
                && job.params.max_tokens.is_some();
            assert!(!complete || tokens.len() == alone.len(), "{tokens:?} is not {alone:?}");
        }
        match &record.outcome {
            Outcome::Finished { .. } => {
                let wanted = job.params.prompt_logprobs.map_or(0, |_| job.prompt.len() - 1);
                assert_eq!(record.scores, wanted);
                assert!(record.choices.iter().all(|tokens| !tokens.is_empty()));
                assert!(record.arrival < record.ended && record.admitted <= record.first_token);
            }
            Outcome::Rejected(_) => assert_eq!(record.admitted, None),
            Outcome::Aborted => assert!(abort_at.is_some_and(|at| at <= record.ended)),
            Outcome::Failed(failure) => panic!("a request failed: {failure:?}"),
        }
    }
    for step in &report.steps {
        assert_eq!(step.error, None);
        assert!((1..=house.limits.max_num_batched_tokens as usize).contains(&step.tokens));
        assert!((1..=house.limits.max_num_seqs as usize).contains(&step.rows));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn everyone_ends_with_what_they_would_get_alone(
        house in house(),
        wishes in prop::collection::vec(wish(), 1..30),
    ) {
        let trace: Vec<_> = wishes.iter().map(|wish| wish.arrival(house.limits.vocab)).collect();
        let mut scheduler = house.scheduler();
        let report = run(&mut scheduler, &mut house.executor(), trace.clone()).unwrap();
        judge(&house, &trace, &report);
        prop_assert_eq!(scheduler.stats().kv.used, 0);
        prop_assert_eq!(scheduler.check(), Ok(()));

        // The same trace makes the same run.
        let again = run(&mut house.scheduler(), &mut house.executor(), trace).unwrap();
        prop_assert_eq!(report, again);
    }
}

/// Ten requests that come together to a house where four run.
fn crowd() -> (House, Vec<Arrival>) {
    let limits = Limits {
        max_model_len: 64,
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        max_queued: 20,
        vocab: 100,
    };
    let policy = Policy::Paged;
    let house =
        House { block_size: 4, blocks: 12, prefix_caching: true, policy, swap: None, limits };
    let wish = Wish {
        at: 5,
        abort_after: None,
        prompt: 9,
        family: 0,
        max_tokens: Some(14),
        n: 1,
        temperature: 0.0,
        penalty: false,
        prompt_logprobs: false,
    };
    let trace = (0..10).map(|family| Wish { family, ..wish }.arrival(100)).collect();
    (house, trace)
}

#[test]
fn a_crowd_is_preempted_and_served() {
    let (house, trace) = crowd();
    let mut scheduler = house.scheduler();
    let report = run(&mut scheduler, &mut house.executor(), trace.clone()).unwrap();
    judge(&house, &trace, &report);
    assert!(scheduler.stats().totals.preemptions > 0);
    assert_eq!(report.steps[0].began, Tick(5));
}

#[test]
fn the_clock_moves_by_what_steps_cost() {
    let (house, trace) = crowd();
    let cost = CostModel { step: 2_000_000, token: 0, context_token: 0, copy: 0 };
    let mut executor = house.executor().with_cost(cost);
    let report = run(&mut house.scheduler(), &mut executor, trace).unwrap();
    for (step, expected) in report.steps.iter().zip((5u64..).step_by(2_000)) {
        assert_eq!((step.began.0, step.took.as_millis()), (expected, 2));
    }
    let last = report.requests.iter().map(|request| request.ended.0).max().unwrap();
    assert_eq!(last, 5 + 2_000 * u64::try_from(report.steps.len()).unwrap());
}

#[test]
fn what_a_test_injects_reaches_the_requests_it_names() {
    let (house, trace) = crowd();
    let poisoned = trace[2].job.prompt.clone();
    let mut calls = 0;
    let mut executor = house
        .executor()
        .with_hook(move |_| {
            calls += 1;
            if calls == 1 { Err(ExecError("the first step".to_owned())) } else { Ok(()) }
        })
        .with_chooser(move |sight| {
            let hit = sight.tokens.starts_with(&poisoned) && sight.tokens.len() > 12;
            if hit { Err(DrawFault::NotFinite) } else { Ok(sight.natural) }
        });
    let report = run(&mut house.scheduler(), &mut executor, trace).unwrap();
    assert_eq!(report.steps.iter().filter(|step| step.error.is_some()).count(), 1);
    let failed: Vec<_> =
        (0..10).filter(|&i| matches!(report.requests[i].outcome, Outcome::Failed(_))).collect();
    // Two prompts of nine tokens are begun in a first step of sixteen.
    assert_eq!(failed, [0, 1, 2]);
}
