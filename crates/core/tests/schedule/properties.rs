//! Random arrivals, aborts, pools and budgets: what the scheduler promises, whatever comes.
//!
//! After every call the server checks scheduler, memory and plan; the oldest request gets on in every step. Here: everyone
//! finishes or is refused, in a bounded number of steps; each request gets, token for token and score for score, what it
//! would have got alone; the same calls make the same plans; nothing leaks.

use std::cell::RefCell;

use folio_core::event::FinishReason;
use folio_core::ids::{GroupId, Token};
use folio_core::kv::Config;
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Limits};
use folio_core::stats::Stats;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use super::server::{EOS, Server, VOCAB, alone, job, text_of};

#[derive(Clone, Debug)]
struct Arrival {
    /// Steps after the arrival before.
    gap: u64,
    job: Job,
    /// Steps after which the caller gives up.
    patience: Option<u64>,
}

#[derive(Clone, Debug)]
struct Trace {
    limits: Limits,
    config: Config,
    arrivals: Vec<Arrival>,
}

/// A prompt starts like one of two texts and goes on in its own way, so that prefixes are shared, up to whole prompts.
fn prompt() -> impl Strategy<Value = Vec<Token>> {
    (0..2u64, 0..=16u32, 0..100u64, 0..=10u32).prop_map(|(text, same, own, rest)| {
        let mut prompt = text_of(text, same);
        prompt.extend(text_of(1000 + own, rest));
        prompt
    })
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let n = prop_oneof![3 => Just(1u32), 2 => 2..=4u32];
    let max_tokens = prop::option::weighted(0.9, 1..=20u32);
    let flags = any::<[bool; 4]>();
    let patience = prop::option::weighted(0.2, 0..30u64);
    (prompt(), n, max_tokens, flags, any::<u64>(), 0..4u64, patience).prop_map(
        |(prompt, n, max_tokens, [eos, stop, history, scores], seed, gap, patience)| {
            let mut job = Job { prompt, ..job(seed, 0, n, max_tokens) };
            job.params.eos.extend(eos.then_some(EOS));
            job.params.stop_tokens.extend(stop.then_some(Token(1)));
            job.params.sampling.repetition_penalty = if history { 1.5 } else { 1.0 };
            job.params.sampling.logprobs = stop.then_some(1);
            job.params.prompt_logprobs = (scores && eos).then_some(2);
            Arrival { gap, job, patience }
        },
    )
}

fn trace() -> impl Strategy<Value = Trace> {
    let limits = (12..=64u32, 1..=8u32, 1..=24u32, 1..=12u32);
    let config = (1..=9u32, 24..=100u32, any::<bool>());
    let arrivals = prop::collection::vec(arrival(), 1..16);
    (limits, config, arrivals).prop_map(
        |((max_model_len, max_num_seqs, max_num_batched_tokens, max_queued), config, arrivals)| {
            let (block_size, positions, prefix_caching) = config;
            let capacity = positions.div_ceil(block_size);
            Trace {
                limits: Limits {
                    max_model_len,
                    max_num_seqs,
                    max_num_batched_tokens,
                    max_queued,
                    vocab: VOCAB,
                },
                config: Config { block_size, capacity, prefix_caching, secret: 0 },
                arrivals,
            }
        },
    )
}

struct Outcome {
    server: Server,
    accepted: Vec<(GroupId, Job)>,
    plans: Vec<StepPlan>,
}

/// Runs a trace to its end. The number of steps is bounded: the oldest request computes something in each.
fn run(trace: &Trace, secret: u64) -> Outcome {
    let mut server = Server::new(trace.limits, Config { secret, ..trace.config });
    let (mut accepted, mut plans) = (Vec::new(), Vec::new());
    let mut leaving: Vec<(u64, GroupId)> = Vec::new();
    let mut arrivals = trace.arrivals.iter().peekable();
    let (mut now, mut due) = (0, 0);
    let mut work: u64 = trace.arrivals.iter().map(|arrival| arrival.gap).sum();
    loop {
        while let Some(arrival) = arrivals.next_if(|arrival| due + arrival.gap <= now) {
            due += arrival.gap;
            let Ok(id) = server.submit(arrival.job.clone()) else { continue };
            leaving.extend(arrival.patience.map(|patience| (now + patience, id)));
            work += u64::from(trace.limits.max_model_len * (1 + arrival.job.params.n));
            accepted.push((id, arrival.job.clone()));
        }
        for &(_, id) in leaving.iter().filter(|(at, _)| *at == now) {
            server.abort(id);
        }
        let worked = server.step();
        plans.push(server.plan.clone());
        if !worked && arrivals.peek().is_none() {
            break;
        }
        now += 1;
        assert!(now <= work + 1, "{now} steps for {work} tokens");
    }
    server.drain(0);
    Outcome { server, accepted, plans }
}

/// The request as it is served alone. Where the memory bounded the output, alone it is bounded to the same length.
fn check_alone(outcome: &Outcome, max_model_len: u32) -> Result<(), TestCaseError> {
    for (id, job) in &outcome.accepted {
        let got = &outcome.server.records[id];
        let mut job = job.clone();
        let full = got.choices.values().find(|output| output.finish == Some(FinishReason::Length));
        if let (None, Some(full)) = (job.params.max_tokens, full) {
            job.params.max_tokens = Some(u32::try_from(full.tokens.len()).unwrap());
        }
        let alone = alone(job, max_model_len);
        if got.aborted {
            for (choice, output) in &got.choices {
                let want = &alone.choices[choice];
                prop_assert!(want.tokens.starts_with(&output.tokens));
                prop_assert!(want.scores.starts_with(&output.scores));
            }
            prop_assert!(alone.prompt_scores.starts_with(&got.prompt_scores));
        } else {
            prop_assert_eq!(&got.choices, &alone.choices);
            prop_assert_eq!(&got.prompt_scores, &alone.prompt_scores);
        }
    }
    Ok(())
}

pub(crate) fn config(cases: u32) -> ProptestConfig {
    let file = FileFailurePersistence::Direct("tests/schedule/regressions.txt");
    ProptestConfig { cases, failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

#[test]
fn everyone_is_served_as_if_alone_or_refused() {
    let seen = RefCell::new(Stats::default());
    let mut runner = TestRunner::new(config(1000));
    let result = runner.run(&trace(), |trace| {
        let outcome = run(&trace, 0);
        check_alone(&outcome, trace.limits.max_model_len)?;
        let stats = outcome.server.scheduler.stats();
        let seen = &mut *seen.borrow_mut();
        seen.totals.preemptions += stats.totals.preemptions;
        seen.totals.ended += stats.totals.ended;
        seen.totals.aborted += stats.totals.aborted;
        seen.kv.prefix_hits += stats.kv.prefix_hits;
        seen.kv.copies += stats.kv.copies;
        Ok(())
    });
    result.unwrap();
    // The traces are not all trivial.
    let Stats { totals, kv, .. } = seen.into_inner();
    assert!(totals.preemptions > 300 && totals.ended > 3000 && totals.aborted > 300);
    assert!(kv.prefix_hits > 3000 && kv.copies > 700);
}

proptest! {
    #![proptest_config(config(64))]

    /// Also when the prefix cache hashes with another key.
    #[test]
    fn the_same_calls_make_the_same_plans(trace in trace()) {
        let (one, other) = (run(&trace, 1), run(&trace, 2));
        prop_assert_eq!(one.plans, other.plans);
        prop_assert_eq!(one.server.records, other.server.records);
    }
}
