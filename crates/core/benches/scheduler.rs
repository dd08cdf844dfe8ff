//! What planning costs: one step of `schedule` and `commit`, with an executor that answers at once.
//!
//! `cargo bench -p folio-core --bench scheduler`. Running sequences have contexts of 550 to 1100 tokens in blocks of 16; a
//! step grows each by one token.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use folio_core::event::Event;
use folio_core::exec::{Drawn, Score, StepOutput};
use folio_core::ids::{Salt, Tick, Token};
use folio_core::kv::{Config, Manager};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::plan::StepPlan;
use folio_core::schedule::{Job, Limits, Scheduler};

const VOCAB: u32 = 1000;
const PROMPT: u32 = 512;
const BLOCK: u32 = 16;

struct Bench {
    scheduler: Scheduler<Manager>,
    plan: StepPlan,
    out: StepOutput,
    events: Vec<Event>,
}

impl Bench {
    /// `requests` running requests of `width` sequences each, and `waiting` more in the queue.
    fn new(requests: u32, width: u32, beams: bool, waiting: u32) -> Self {
        let limits = Limits {
            max_model_len: 1 << 20,
            max_num_seqs: requests * width,
            max_num_batched_tokens: 8192,
            max_queued: u32::MAX,
            vocab: VOCAB,
        };
        let config =
            Config { block_size: BLOCK, capacity: 1 << 18, prefix_caching: true, secret: 1 };
        let memory = Manager::new(config).expect("a valid configuration");
        let mut scheduler = Scheduler::new(limits, memory);
        for number in 0..requests + waiting {
            scheduler.submit(job(number, width, beams), Tick(0)).expect("a request that fits");
        }
        let (plan, out, events) = (StepPlan::default(), StepOutput::default(), Vec::new());
        let mut bench = Self { scheduler, plan, out, events };
        // Until all prompts have been computed, and samples and beams have parted.
        for _ in 0..u64::from(requests * PROMPT / 8192) + 40 {
            bench.step();
        }
        assert_eq!(bench.plan.rows.len(), (requests * width) as usize);
        bench
    }

    fn step(&mut self) {
        self.scheduler.schedule(Tick(0), &mut self.plan);
        self.out.clear();
        for draw in &self.plan.draws {
            let token = |rank| Token((draw.position * 31 + draw.choice * 7 + rank) % VOCAB);
            let candidates = self.plan.samplings[draw.sampling].logprobs.unwrap_or(0);
            let score = (candidates > 0).then(|| Score {
                logprob: -1.0,
                top: (0..candidates).map(|rank| (token(rank), -1.0 - rank as f32)).collect(),
            });
            self.out.draws.push(Ok(Drawn { token: token(0), score }));
        }
        self.events.clear();
        self.scheduler.commit(&self.plan, &self.out, Tick(0), &mut self.events);
    }
}

fn job(number: u32, width: u32, beams: bool) -> Job {
    let asked = Requested {
        n: Some(i64::from(width)),
        use_beam_search: beams,
        max_tokens: Some(1 << 19),
        ignore_eos: true,
        ..Requested::default()
    };
    let limits = ParamLimits { max_n: 256, ..ParamLimits::plain(VOCAB, Vec::new()) };
    let params = Params::parse(&asked, &limits, 0).expect("valid parameters");
    let prompt = (0..PROMPT).map(|at| Token((at * 7 + number) % VOCAB)).collect();
    Job::new(prompt, params, Salt(0))
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule_and_commit");
    group.sample_size(10);
    for (name, requests, width, beams, waiting) in [
        ("32 sequences", 32, 1, false, 0),
        ("256 sequences", 256, 1, false, 0),
        ("256 sequences, 20000 wait", 256, 1, false, 20_000),
        ("64 requests x 4 samples", 64, 4, false, 0),
        ("64 requests x 4 beams", 64, 4, true, 0),
    ] {
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_custom(|steps| {
                let mut took = Duration::ZERO;
                let mut left = steps;
                while left > 0 {
                    // Begun anew before contexts grow out of what is promised above.
                    let mut bench = Bench::new(requests, width, beams, waiting);
                    let some = left.min(512);
                    let began = Instant::now();
                    for _ in 0..some {
                        bench.step();
                    }
                    took += began.elapsed();
                    left -= some;
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
