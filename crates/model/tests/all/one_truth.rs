//! One truth: the same hundred requests, in all ways of decoding, give the same bits however they are served.
//!
//! Alone or batched, in whatever chunks and blocks, with or without prefix cache, preempted and computed again, preempted and
//! swapped to a file or to a full disk, on one thread or two.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use folio_core::event::EventKind;
use folio_core::exec::{Drawn, Executor, Score, StepOutput};
use folio_core::ids::{GroupId, Salt, Tick, Token};
use folio_core::kv::{Config, Manager};
use folio_core::params::{EarlyStopping, ParamLimits, Params, Requested};
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Limits, PreemptionMode, Scheduler};
use folio_core::stats::Stats;
use folio_model::{Checkpoint, KvDtype, SwapStore};

use crate::driver::{Random, Setup, cpu_runner, open};
use crate::folder::TempFolder;
use crate::golden::zoo;

const REQUESTS: u64 = 100;

/// How the requests are served.
#[derive(Clone, Copy, Debug)]
struct Way {
    block_size: usize,
    /// Most tokens of a step, so also of a chunk.
    tokens: u32,
    /// Blocks in positions; 0: plenty.
    positions: usize,
    prefix_cache: bool,
    threads: usize,
    together: bool,
    swap: Swap,
    kv_dtype: KvDtype,
}

/// Where preempted requests go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Swap {
    /// They are computed again.
    No,
    /// To a file.
    File,
    /// To a file on a full disk: whatever was swapped is lost.
    FullDisk,
}

const USUAL: Way = Way {
    block_size: 16,
    tokens: 512,
    positions: 0,
    prefix_cache: true,
    threads: 1,
    together: true,
    swap: Swap::No,
    kv_dtype: KvDtype::F32,
};

/// What a request got: its choices, best first where they are ranked, and its prompt's scores.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    choices: BTreeMap<u32, Vec<Drawn>>,
    ranks: Vec<f64>,
    prompt: Vec<Score>,
}

/// Prompts that share beginnings, and every way to decode.
fn requests(vocab: u32) -> Vec<Job> {
    let mut random = Random(11);
    let texts: Vec<Vec<Token>> =
        (0..4).map(|_| (0..60).map(|_| Token(3 + random.below(500) as u32)).collect()).collect();
    let limits = ParamLimits {
        vocab,
        max_n: 16,
        max_logprobs: 5,
        max_logit_bias: 4,
        max_stop_token_ids: 4,
        eos: vec![Token(2)],
    };
    (0..REQUESTS)
        .map(|number| {
            let mut prompt = texts[random.below(4)][..random.below(60)].to_vec();
            prompt.extend((0..1 + random.below(12)).map(|_| Token(3 + random.below(500) as u32)));
            let mut asked = Requested {
                max_tokens: Some(1 + random.below(24) as i64),
                seed: Some(number as i64),
                temperature: Some(0.0),
                logprobs: (number % 3 == 0).then_some(3),
                ..Requested::default()
            };
            match number % 7 {
                0 => {}
                1 => asked.temperature = Some(0.9),
                2 => (asked.n, asked.temperature) = (Some(3), Some(1.2)),
                3 => (asked.n, asked.best_of, asked.temperature) = (Some(2), Some(4), Some(1.0)),
                4 => {
                    asked.temperature = Some(0.8);
                    asked.frequency_penalty = Some(0.7);
                    asked.top_p = Some(0.8);
                    asked.prompt_logprobs = Some(2);
                }
                which => {
                    asked.use_beam_search = true;
                    asked.beam_width = Some(if which == 5 { 4 } else { 2 });
                    asked.n = Some(2);
                    asked.length_penalty = Some(random.below(3) as f64);
                    asked.early_stopping = Some(match random.below(3) {
                        0 => EarlyStopping::Heuristic,
                        1 => EarlyStopping::AtOnce,
                        _ => EarlyStopping::Never,
                    });
                    asked.stop_token_ids = vec![random.below(500) as i64];
                }
            }
            Job::new(prompt, Params::parse(&asked, &limits, 0).unwrap(), Salt(number % 2))
        })
        .collect()
}

/// Serves all requests in one way.
fn serve(checkpoint: &Checkpoint, jobs: &[Job], way: Way) -> (Vec<Answer>, Stats) {
    let setup = Setup {
        block_size: way.block_size,
        threads: way.threads,
        batched_tokens: way.tokens as usize,
        kv_dtype: Some(way.kv_dtype),
        ..Setup::default()
    };
    let (mut runner, plan) = cpu_runner(checkpoint, &setup);
    let capacity =
        if way.positions == 0 { plan.blocks } else { way.positions.div_ceil(way.block_size) };
    assert!(capacity <= plan.blocks, "{capacity} of {}", plan.blocks);
    let folder = TempFolder::new();
    let bytes = usize::try_from(plan.kv_bytes_per_block).unwrap();
    let full = || File::options().read(true).write(true).open("/dev/full").unwrap();
    let store = match way.swap {
        Swap::No => None,
        Swap::File => Some(SwapStore::file(&folder.0, capacity, bytes).unwrap()),
        Swap::FullDisk => Some(SwapStore::over(full(), capacity, bytes).unwrap()),
    };
    let slots = if store.is_some() { capacity } else { 0 };
    if let Some(store) = store {
        runner = runner.with_swap_store(store);
    }
    let small = |n: usize| u32::try_from(n).unwrap();
    let memory = Manager::new(Config {
        block_size: small(way.block_size),
        capacity: small(capacity),
        prefix_caching: way.prefix_cache,
        secret: 1,
    });
    let limits = Limits {
        max_model_len: 128,
        max_num_seqs: 16,
        max_num_batched_tokens: way.tokens,
        max_queued: 1000,
        vocab: small(checkpoint.spec().vocab),
    };
    let mut scheduler = Scheduler::new(limits, memory.unwrap().with_swap_space(small(slots)))
        .with_preemption(PreemptionMode::Swap)
        .with_headroom(0);
    let mut answers = BTreeMap::new();
    for job in jobs {
        answers.insert(scheduler.submit(job.clone(), Tick(0)).unwrap(), Answer::default());
        if !way.together {
            run(&mut scheduler, &mut runner, &mut answers);
        }
    }
    run(&mut scheduler, &mut runner, &mut answers);
    let stats = scheduler.stats();
    assert_eq!((stats.kv.used, stats.kv.swap_used), (0, 0), "{way:?}: blocks are left");
    assert_eq!((stats.totals.ended, stats.totals.failed), (REQUESTS, 0));
    (answers.into_values().collect(), stats)
}

fn run(
    scheduler: &mut Scheduler<Manager>,
    runner: &mut impl Executor,
    answers: &mut BTreeMap<GroupId, Answer>,
) {
    let (mut plan, mut out, mut events) = (StepPlan::default(), StepOutput::default(), Vec::new());
    while !scheduler.is_idle() {
        scheduler.schedule(Tick(0), &mut plan);
        out.clear();
        runner.execute(&plan, &mut out).unwrap();
        scheduler.commit(&plan, &out, Tick(0), &mut events);
        scheduler.check().unwrap();
        for event in events.drain(..) {
            let answer = answers.get_mut(&event.group).unwrap();
            match event.kind {
                EventKind::Sampled { choice, drawn, .. } => {
                    answer.choices.entry(choice).or_default().push(drawn);
                }
                EventKind::Ranked { scores } => answer.ranks = scores,
                EventKind::PromptScored(scores) => answer.prompt.extend(scores),
                EventKind::Failed(why) => panic!("{why:?}"),
                EventKind::Admitted { .. } | EventKind::Ended { .. } => {}
            }
        }
    }
}

/// What must have happened for a way to be worth trying.
type Happened = fn(&Stats) -> bool;

fn ways() -> Vec<(Way, Happened)> {
    let any = |_: &Stats| true;
    let preempts = |stats: &Stats| stats.totals.preemptions > 20;
    let swaps = |stats: &Stats| stats.totals.swap_preemptions > 20 && stats.kv.swapped_in > 50;
    let tight = Way { positions: 256, ..USUAL };
    let loses = |stats: &Stats| stats.totals.lost_slots > 50;
    let swap = Way { swap: Swap::File, ..tight };
    vec![
        (USUAL, |stats: &Stats| stats.kv.prefix_hits > 500 && stats.kv.copies > 50),
        (Way { threads: 2, ..USUAL }, any),
        (Way { prefix_cache: false, ..USUAL }, |stats: &Stats| stats.kv.prefix_hits == 0),
        (Way { tokens: 1, ..USUAL }, any),
        (Way { tokens: 7, ..USUAL }, any),
        (Way { tokens: 64, prefix_cache: false, ..USUAL }, any),
        (Way { block_size: 1, ..USUAL }, any),
        (Way { block_size: 8, tokens: 64, ..USUAL }, any),
        (Way { block_size: 32, ..USUAL }, any),
        (tight, preempts),
        (Way { block_size: 1, prefix_cache: false, ..tight }, preempts),
        (Way { block_size: 8, threads: 2, ..swap }, swaps),
        (Way { block_size: 1, prefix_cache: false, ..swap }, swaps),
        (Way { tokens: 64, ..swap }, swaps),
        (Way { swap: Swap::FullDisk, ..tight }, loses),
    ]
}

/// Serves the same requests one by one and in all ways, and compares.
fn check(usual: Way, ways: &[(Way, Happened)]) {
    let checkpoint = open(&zoo("llama3-ropescaled"));
    let jobs = requests(u32::try_from(checkpoint.spec().vocab).unwrap());
    let (alone, _) =
        serve(&checkpoint, &jobs, Way { together: false, prefix_cache: false, ..usual });
    assert!(alone.iter().all(|answer| !answer.choices.is_empty()));
    for &(way, happened) in ways {
        if way.swap == Swap::FullDisk && !Path::new("/dev/full").exists() {
            println!("skipped: there is no /dev/full");
            continue;
        }
        let (answers, stats) = serve(&checkpoint, &jobs, way);
        for (number, (answer, alone)) in answers.iter().zip(&alone).enumerate() {
            assert_eq!(answer, alone, "request {number}, {way:?}");
        }
        assert!(happened(&stats), "{way:?}: {stats:?}");
    }
}

#[test]
fn a_hundred_requests_get_the_same_bits_however_they_are_served() {
    check(USUAL, &ways());
}

#[test]
fn so_they_do_with_keys_and_values_in_int8() {
    let usual = Way { kv_dtype: KvDtype::Int8, ..USUAL };
    let tight = Way { positions: 256, swap: Swap::File, ..usual };
    check(
        usual,
        &[
            (Way { block_size: 64, ..usual }, |_| true),
            (Way { block_size: 1, tokens: 7, threads: 2, ..usual }, |_| true),
            (tight, |stats| stats.kv.swapped_in > 50),
        ],
    );
}
