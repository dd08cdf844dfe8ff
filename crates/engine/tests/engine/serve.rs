//! What is served: the same tokens alone and in any company, with the facts about time and numbers beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::common::*;
use folio_core::exec::{ExecError, Executor, StepOutput};
use folio_core::params::Requested;
use folio_core::plan::StepPlan;
use folio_core::schedule::Scheduler;
use folio_engine::{Health, Update, start};
use folio_sim::{CostExecutor, Gate};

#[test]
fn a_request_gets_its_tokens_its_facts_and_an_end() {
    let (handle, thread) = engine(32, limits(), |executor| executor);
    let job = plain(1, 10, 20);
    let wanted = expected(&job);
    let generation = handle.generate(job).unwrap();
    let read = block_on(read(generation));
    let timing = read.timing.unwrap();
    let points = [Some(timing.arrival), timing.admitted, timing.first_token, timing.last_token];
    assert!(points.iter().all(Option::is_some) && points.is_sorted(), "{timing:?}");
    assert!(timing.last_token <= timing.ended);
    assert_eq!(read.finished(), wanted);

    // What was published is not older than the last update.
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.requests, 0);
    assert_eq!(snapshot.stats.kv.used, 0);
    assert_eq!((snapshot.steps, snapshot.failed_steps), (20, 0));
    // The last token is never computed.
    assert_eq!(snapshot.step_tokens.sum, 10 + 19);
    assert_eq!(snapshot.step_tokens.counts.iter().sum::<u64>(), 20);
    assert!(snapshot.last_step <= snapshot.step_time);
    assert_eq!(handle.health(), Health::Ok);
    finish(&handle, thread);
}

#[test]
fn a_request_is_admitted_when_its_first_step_begins() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(32, limits(), |executor| executor.with_gate(held));
    let generation = handle.generate(plain(1, 10, 1)).unwrap();
    gate.wait_for_arrivals(1);
    let in_the_step = Some(Instant::now());
    gate.open();
    let timing = block_on(read(generation)).timing.unwrap();
    assert!(timing.admitted <= in_the_step && in_the_step <= timing.first_token, "{timing:?}");
    finish(&handle, thread);
}

/// Never done with preparing; tells how often it was asked.
struct Preparing {
    inner: CostExecutor,
    asked: Arc<AtomicU64>,
}

impl Executor for Preparing {
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError> {
        self.inner.execute(plan, out)
    }

    fn prepare(&mut self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        true
    }
}

#[test]
fn what_an_executor_prepares_in_idle_moments_holds_up_nobody() {
    let asked = Arc::new(AtomicU64::new(0));
    let executor = Box::new(Preparing { inner: executor(32), asked: Arc::clone(&asked) });
    let (handle, thread) = start(Scheduler::new(limits(), memory(32)), executor, config()).unwrap();
    for i in 0..3 {
        let before = asked.load(Ordering::Relaxed);
        while asked.load(Ordering::Relaxed) < before + 10 {
            std::thread::yield_now();
        }
        let job = plain(i, 10, 20);
        assert_eq!(
            block_on(read(handle.generate(job.clone()).unwrap())).finished(),
            expected(&job)
        );
    }
    finish(&handle, thread);
}

#[test]
fn many_requests_together_get_what_each_gets_alone() {
    let (handle, thread) = engine(40, limits(), |executor| executor);
    let jobs: Vec<_> = (0..64).map(varied).collect();
    let streams: Vec<_> = jobs.iter().map(|job| handle.generate(job.clone()).unwrap()).collect();
    block_on(async {
        for (job, stream) in jobs.iter().zip(streams) {
            assert_eq!(read(stream).await.finished(), expected(job));
        }
    });
    finish(&handle, thread);

    let (handle, thread) = engine(40, limits(), |executor| executor);
    block_on(async {
        for job in jobs {
            let wanted = expected(&job);
            assert_eq!(read(handle.generate(job).unwrap()).await.finished(), wanted);
        }
    });
    finish(&handle, thread);
}

#[test]
fn a_thousand_requests_pass_through_a_tiny_pool() {
    // 16 blocks of 4: three of the longest requests do not fit together.
    let (handle, thread) = engine(16, limits(), |executor| executor);
    let jobs: Vec<_> = (0..1_000).map(|i| plain(i, 1 + i % 9, 1 + i64::from(i % 13))).collect();
    let streams: Vec<_> = jobs.iter().map(|job| handle.generate(job.clone()).unwrap()).collect();
    block_on(async {
        for (job, stream) in jobs.iter().zip(streams) {
            assert_eq!(read(stream).await.finished(), expected(job));
        }
    });
    assert!(handle.snapshot().stats.totals.preemptions > 0, "the pool was not tiny enough");
    finish(&handle, thread);
}

#[test]
fn log_probabilities_come_with_the_tokens_and_the_prompt() {
    let (handle, thread) = engine(32, limits(), |executor| executor);
    let asked = Requested {
        max_tokens: Some(5),
        logprobs: Some(2),
        prompt_logprobs: Some(1),
        ignore_eos: true,
        ..Requested::default()
    };
    let mut generation = handle.generate(job(0..30, &asked)).unwrap();
    let (mut prompt, mut output) = (0, 0);
    block_on(async {
        while let Some(updates) = generation.next().await {
            for update in updates {
                match update {
                    Update::PromptScored(scores) => {
                        assert!(scores.iter().all(|score| score.top.len() == 1));
                        prompt += scores.len();
                    }
                    Update::Sampled { drawn, .. } => {
                        assert_eq!(drawn.score.unwrap().top.len(), 2);
                        output += 1;
                    }
                    _ => {}
                }
            }
        }
    });
    assert_eq!((prompt, output), (29, 5));
    finish(&handle, thread);
}
