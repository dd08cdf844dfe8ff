//! Random arrivals, aborts, pools and budgets: what the scheduler promises, whatever comes.
//!
//! After every call the server checks scheduler, memory and plan; the oldest request gets on in every step. Here: everyone
//! finishes or is refused, in a bounded number of steps; each request gets, token for token and score for score, what it
//! would have got alone; the same calls make the same plans; nothing leaks.

use std::cell::RefCell;
use std::sync::Arc;

use folio_core::event::FinishReason;
use folio_core::ids::{GroupId, Token};
use folio_core::kv::Config;
use folio_core::params::{Beams, Decoding, EarlyStopping};
use folio_core::plan::StepPlan;
use folio_core::schedule::{EndsWith, HEADROOM, Job, Limits, PreemptionMode, StopRule};
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
    slots: u32,
    mode: PreemptionMode,
    /// One swapped block in so many is lost; 0 loses none.
    loses_one_in: u64,
    /// One step in so many fails before it has done anything; 0: none.
    fails_one_in: u64,
    arrivals: Vec<Arrival>,
}

/// How choices come about, before it is known how many there are.
#[derive(Clone, Debug)]
enum Choosing {
    Plain,
    BestOf { more: u32 },
    Beams { more: u32, length_penalty: f32, early_stopping: EarlyStopping },
}

fn decoding() -> impl Strategy<Value = Choosing> {
    let early_stopping = prop::sample::select(vec![
        EarlyStopping::Heuristic,
        EarlyStopping::AtOnce,
        EarlyStopping::Never,
    ]);
    let length_penalty = prop::sample::select(vec![-0.5, 0.0, 1.0, 2.0]);
    prop_oneof![
        2 => Just(Choosing::Plain),
        1 => (1..=3u32).prop_map(|more| Choosing::BestOf { more }),
        2 => (0..=3u32, length_penalty, early_stopping).prop_map(
            |(more, length_penalty, early_stopping)| {
                Choosing::Beams { more, length_penalty, early_stopping }
            }
        ),
    ]
}

impl Choosing {
    fn apply(self, job: &mut Job, n: u32, with_rule: bool) {
        job.params.decoding = match self {
            Self::Plain => Decoding::Sample { best_of: n },
            Self::BestOf { more } => Decoding::Sample { best_of: n + more },
            Self::Beams { more, length_penalty, early_stopping } => {
                job.params.sampling.repetition_penalty = 1.0;
                Decoding::Beam(Beams { width: n + more, length_penalty, early_stopping })
            }
        };
        if !job.params.is_ranked() {
            return;
        }
        // Where a search ends depends on how long it might have become, so that is not left to the memory.
        job.params.max_tokens.get_or_insert(10);
        if with_rule {
            job.stop_rule = Some(StopRule(Arc::new(EndsOnTwin)));
        }
    }
}

/// Ends where a token follows one that is 0 to 3 less.
struct EndsOnTwin;

impl EndsWith for EndsOnTwin {
    fn ends(&self, generated: &[Token]) -> bool {
        matches!(generated, [.., a, b] if (0..4).contains(&b.0.wrapping_sub(a.0)))
    }
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
    let n = (n, decoding());
    let max_tokens = prop::option::weighted(0.9, 1..=20u32);
    let flags = any::<[bool; 4]>();
    let patience = prop::option::weighted(0.2, 0..30u64);
    (prompt(), n, max_tokens, flags, any::<u64>(), 0..4u64, patience).prop_map(
        |(prompt, (n, decoding), max_tokens, flags, seed, gap, patience)| {
            let [eos, stop, history, scores] = flags;
            let mut job = Job { prompt, ..job(seed, 0, n, max_tokens) };
            job.params.eos.extend(eos.then_some(EOS));
            job.params.stop_tokens.extend(stop.then_some(Token(1)));
            job.params.sampling.repetition_penalty = if history { 1.5 } else { 1.0 };
            job.params.sampling.temperature = if seed % 3 == 0 { 0.0 } else { 1.0 };
            decoding.apply(&mut job, n, history);
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
    let modes = prop::sample::select(vec![
        PreemptionMode::Recompute,
        PreemptionMode::Auto,
        PreemptionMode::Swap,
    ]);
    let swap = (0..=60u32, modes, prop_oneof![2 => Just(0u64), 1 => 1..5u64]);
    let fails = prop_oneof![4 => Just(0u64), 1 => 4..20u64];
    (limits, config, arrivals, swap, fails).prop_map(
        |(limits, config, arrivals, (slots, mode, loses_one_in), fails_one_in)| {
            let (max_model_len, max_num_seqs, max_num_batched_tokens, max_queued) = limits;
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
                slots,
                mode,
                loses_one_in,
                fails_one_in,
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
    let config = Config { secret, ..trace.config };
    // Every other trace; not drawn by itself, so that the seeds of former failures keep their meaning.
    let headroom = if trace.slots.is_multiple_of(2) { 0 } else { HEADROOM };
    let mut server = Server::with_headroom(trace.limits, config, trace.slots, trace.mode, headroom);
    server.executor.loses_one_in = trace.loses_one_in;
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
            work += u64::from(trace.limits.max_model_len * (1 + arrival.job.params.width()));
            accepted.push((id, arrival.job.clone()));
        }
        // Half of those who leave do so while a step is being executed.
        let gone = leaving.iter().filter(|(at, _)| *at == now).map(|&(_, id)| id);
        let (during, before): (Vec<_>, Vec<_>) = gone.partition(|id| id.0.is_multiple_of(2));
        before.into_iter().for_each(|id| server.abort(id));
        let fails = trace.fails_one_in > 0 && (now + 1).is_multiple_of(trace.fails_one_in);
        let worked = server.step_while(fails, |server| {
            during.iter().for_each(|&id| server.abort(id));
        });
        plans.push(server.plan.clone());
        if !worked && arrivals.peek().is_none() {
            break;
        }
        now += 1;
        // What a step computes from a lost block is thrown away.
        assert!(now <= 2 * work + 1, "{now} steps for {work} tokens");
    }
    server.drain(0);
    Outcome { server, accepted, plans }
}

/// The request as it is served alone. Where the memory bounded the output, alone it is bounded to the same length.
fn check_alone(outcome: &Outcome, trace: &Trace) -> Result<(), TestCaseError> {
    let max_model_len = trace.limits.max_model_len;
    let trace_fails = trace.fails_one_in > 0;
    for (id, job) in &outcome.accepted {
        let got = &outcome.server.records[id];
        let mut job = job.clone();
        let length = Some(FinishReason::Length);
        let full = got.choices.values().find(|output| output.finish == length);
        if let (None, Some(full)) = (job.params.max_tokens, full) {
            job.params.max_tokens = Some(u32::try_from(full.tokens.len()).unwrap());
        }
        let alone = alone(job, max_model_len);
        if got.aborted || got.failure.is_some() {
            for (choice, output) in &got.choices {
                let want = &alone.choices[choice];
                prop_assert!(want.tokens.starts_with(&output.tokens));
                prop_assert!(want.scores.starts_with(&output.scores));
            }
            prop_assert_eq!(got.failure.is_some(), !got.aborted);
            prop_assert!(trace_fails || got.failure.is_none());
            prop_assert!(alone.prompt_scores.starts_with(&got.prompt_scores));
        } else {
            prop_assert_eq!(&got.choices, &alone.choices);
            prop_assert_eq!(&got.ranks, &alone.ranks);
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
        check_alone(&outcome, &trace)?;
        let stats = outcome.server.scheduler.stats();
        let seen = &mut *seen.borrow_mut();
        seen.totals.preemptions += stats.totals.preemptions;
        seen.totals.ended += stats.totals.ended;
        seen.totals.aborted += stats.totals.aborted;
        seen.totals.failed += stats.totals.failed;
        seen.kv.prefix_hits += stats.kv.prefix_hits;
        seen.kv.copies += stats.kv.copies;
        seen.totals.swap_preemptions += stats.totals.swap_preemptions;
        seen.totals.lost_slots += stats.totals.lost_slots;
        seen.kv.swap_reused += stats.kv.swap_reused;
        Ok(())
    });
    result.unwrap();
    // The traces are not all trivial.
    let Stats { totals, kv, .. } = seen.into_inner();
    assert!(totals.preemptions > 100 && totals.ended > 2000 && totals.aborted > 150);
    assert!(kv.prefix_hits > 1500 && kv.copies > 700);
    assert!(totals.failed > 100);
    assert!(totals.swap_preemptions > 40 && totals.lost_slots > 5 && kv.swap_reused > 20);
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
