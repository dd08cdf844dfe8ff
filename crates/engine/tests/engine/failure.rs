//! The blast radius of what goes wrong: one request, one step, or, at worst, an engine that says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::*;
use folio_core::exec::{DrawFault, ExecError, Executor, StepOutput};
use folio_core::ids::Token;
use folio_core::kv::{BlockTable, Claim, KvMemory, KvStats, Manager, Short};
use folio_core::params::Requested;
use folio_core::plan::{CacheOp, StepPlan};
use folio_core::schedule::Scheduler;
use folio_engine::{Cause, EngineError, EngineThread, Handle, Health, Refused, Update, start};
use folio_sim::{CostExecutor, Gate};

/// Three requests are computed together, and the step in which they all decode goes wrong once. They fail; a request that
/// waits its turn and one that comes later are served.
fn one_bad_step(bad: impl FnOnce() -> Result<(), ExecError> + Send + 'static) {
    let mut bad = Some(bad);
    let hook = move |plan: &StepPlan| match bad.take_if(|_| plan.tokens.len() == 3) {
        Some(bad) => bad(),
        None => Ok(()),
    };
    let three = folio_core::schedule::Limits { max_num_seqs: 3, ..limits() };
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(64, three, |executor| executor.with_gate(held).with_hook(hook));
    let first = handle.generate(plain(0, 6, 12)).unwrap();
    gate.wait_for_arrivals(1);
    let mut failing = vec![first];
    failing.extend((1..3).map(|i| handle.generate(plain(i, 6, 12)).unwrap()));
    let waiting = plain(3, 6, 12);
    let wanted = expected(&waiting);
    let waiting = handle.generate(waiting).unwrap();
    gate.open();
    block_on(async {
        for stream in failing {
            assert_eq!(read(stream).await.last, Some(Update::Failed(Cause::Step)));
        }
        assert_eq!(read(waiting).await.finished(), wanted);
        let again = plain(0, 6, 12);
        let wanted = expected(&again);
        assert_eq!(read(handle.generate(again).unwrap()).await.finished(), wanted);
    });
    assert_eq!(handle.snapshot().failed_steps, 1);
    assert_eq!(handle.health(), Health::Ok);
    finish(&handle, thread);
}

#[test]
fn a_failing_step_fails_its_requests_and_no_others() {
    one_bad_step(|| Err(ExecError("the device is on fire".to_owned())));
}

#[test]
fn a_panic_in_the_executor_fails_its_requests_and_no_others() {
    one_bad_step(|| panic!("as this test wants it"));
}

#[test]
fn logits_that_are_not_finite_fail_one_request() {
    let marked = Token(999);
    let (handle, thread) = engine(64, limits(), |executor| {
        executor.with_chooser(move |sight| {
            let poisoned = sight.tokens[0] == marked && sight.tokens.len() == 10;
            if poisoned { Err(DrawFault::NotFinite) } else { Ok(sight.natural) }
        })
    });
    let canaries: Vec<_> = (0..8).map(varied).collect();
    let streams: Vec<_> = canaries.iter().map(|j| handle.generate(j.clone()).unwrap()).collect();
    let mut poisoned = plain(1, 7, 20);
    poisoned.prompt[0] = marked;
    let failed = block_on(read(handle.generate(poisoned).unwrap()));
    assert_eq!(failed.last, Some(Update::Failed(Cause::NotFinite)));
    assert_eq!(failed.choices[0].len(), 3);
    block_on(async {
        for (job, stream) in canaries.iter().zip(streams) {
            assert_eq!(read(stream).await.finished(), expected(job));
        }
    });
    assert_eq!(handle.snapshot().failed_steps, 0);
    finish(&handle, thread);
}

/// Asserts that an engine is dead for everybody who looks at it.
fn assert_dead(handle: &Handle, streams: Vec<folio_engine::Generation>) {
    block_on(async {
        for stream in streams {
            let last = read(stream).await.last;
            assert!(matches!(last, Some(Update::Failed(Cause::Died | Cause::Step))), "{last:?}");
            // Whoever hears of it cannot send another request.
            if last == Some(Update::Failed(Cause::Died)) {
                assert_eq!(handle.generate(plain(1, 4, 4)).unwrap_err(), Refused::Dead);
            }
        }
    });
    assert_eq!(handle.snapshot().requests, 0);
}

#[test]
fn an_executor_that_fails_again_and_again_ends_the_engine() {
    let two = folio_core::schedule::Limits { max_num_seqs: 2, ..limits() };
    let (handle, thread) = engine(64, two, |executor| {
        executor.with_hook(|_| Err(ExecError("the device is gone".to_owned())))
    });
    let streams: Vec<_> = (0..40).map_while(|i| handle.generate(plain(i, 6, 12)).ok()).collect();
    assert_dead(&handle, streams);
    let error = thread.join().unwrap_err();
    assert!(matches!(error, EngineError::FailedSteps { count: 8, .. }), "{error}");
    assert!(error.to_string().contains("the device is gone"), "{error}");
    assert_eq!(handle.health(), Health::Dead);
    assert_eq!(handle.snapshot().stats.kv.used, 0);
}

/// Forgets the last draw of the steps that have three.
struct Forgetful(CostExecutor);

impl Executor for Forgetful {
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError> {
        self.0.execute(plan, out)?;
        if plan.draws.len() == 3 {
            out.draws.pop();
        }
        Ok(())
    }
}

#[test]
fn an_answer_of_the_wrong_shape_is_a_failed_step() {
    let scheduler = Scheduler::new(limits(), memory(64));
    let executor = Box::new(Forgetful(executor(64)));
    let (handle, thread) = start(scheduler, executor, config()).unwrap();
    let three = Requested { n: Some(3), max_tokens: Some(9), ..Requested::default() };
    let failed = block_on(read(handle.generate(job(0..5, &three)).unwrap()));
    assert_eq!(failed.last, Some(Update::Failed(Cause::Step)));
    assert_eq!(handle.snapshot().failed_steps, 1);
    block_on(read(handle.generate(plain(1, 5, 9)).unwrap())).finished();
    finish(&handle, thread);
}

#[test]
fn failed_steps_that_are_not_in_a_row_do_not_end_the_engine() {
    let steps = AtomicU64::new(0);
    let (handle, thread) = engine(64, limits(), |executor| {
        executor.with_hook(move |_| match steps.fetch_add(1, Ordering::Relaxed) % 2 {
            1 => Err(ExecError("every second time".to_owned())),
            _ => Ok(()),
        })
    });
    block_on(async {
        for i in 0..20 {
            let failed = read(handle.generate(plain(i, 6, 12)).unwrap()).await;
            assert_eq!(failed.last, Some(Update::Failed(Cause::Step)));
        }
    });
    assert_eq!(handle.snapshot().failed_steps, 20);
    finish(&handle, thread);
}

/// The block manager, with a fault that can be switched on.
#[derive(Debug)]
struct Faulty {
    inner: Manager,
    panics: Arc<AtomicBool>,
    lies: Arc<AtomicBool>,
}

impl KvMemory for Faulty {
    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }
    fn capacity(&self) -> u32 {
        self.inner.capacity()
    }
    fn free_blocks(&self) -> u32 {
        self.inner.free_blocks()
    }
    fn most_blocks(&self, prompt: u32, longest: u32, sequences: u32) -> u32 {
        self.inner.most_blocks(prompt, longest, sequences)
    }
    fn admit(&mut self, claim: &Claim<'_>, ops: &mut Vec<CacheOp>) -> Result<BlockTable, Short> {
        self.inner.admit(claim, ops)
    }
    fn append(
        &mut self,
        table: &mut BlockTable,
        upto: u32,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short> {
        assert!(!self.panics.load(Ordering::Relaxed), "as this test wants it");
        self.inner.append(table, upto, ops)
    }
    fn fork(&mut self, table: &BlockTable) -> BlockTable {
        self.inner.fork(table)
    }
    fn publish(&mut self, table: &mut BlockTable, computed: &[Token]) {
        self.inner.publish(table, computed);
    }
    fn free(&mut self, table: BlockTable) {
        self.inner.free(table);
    }
    fn stats(&self) -> KvStats {
        self.inner.stats()
    }
    fn check(&self, tables: &mut dyn Iterator<Item = &BlockTable>) -> Result<(), String> {
        if self.lies.load(Ordering::Relaxed) {
            return Err("as this test wants it".to_owned());
        }
        self.inner.check(tables)
    }
}

struct FaultyEngine {
    handle: Handle,
    thread: EngineThread,
    gate: Gate,
    panics: Arc<AtomicBool>,
    lies: Arc<AtomicBool>,
}

fn faulty() -> FaultyEngine {
    let (panics, lies) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let memory = Faulty { inner: memory(64), panics: panics.clone(), lies: lies.clone() };
    let scheduler = Scheduler::new(limits(), memory);
    let gate = Gate::closed();
    let executor: CostExecutor = executor(64).with_gate(gate.clone());
    let (handle, thread) = start(scheduler, Box::new(executor), config()).unwrap();
    FaultyEngine { handle, thread, gate, panics, lies }
}

#[test]
fn a_panic_in_the_scheduler_ends_the_engine_and_every_stream() {
    let FaultyEngine { handle, thread, gate, panics, .. } = faulty();
    // More than run at once, so that some never left the queue, and one that never left the inbox.
    let mut streams: Vec<_> = (0..30).map(|i| handle.generate(plain(i, 6, 12)).unwrap()).collect();
    gate.allow(3);
    gate.wait_for_arrivals(4);
    streams.push(handle.generate(plain(31, 6, 12)).unwrap());
    panics.store(true, Ordering::Relaxed);
    gate.open();
    assert_dead(&handle, streams);
    let error = thread.join().unwrap_err();
    assert_eq!(error, EngineError::Panicked("as this test wants it".to_owned()));
    assert_eq!(handle.health(), Health::Dead);
    assert_eq!(handle.generate(plain(1, 4, 4)).unwrap_err(), Refused::Dead);
    // The panic came before anything was changed, so that even now every block comes back.
    assert_eq!(handle.snapshot().stats.kv.used, 0);
}

#[test]
fn a_broken_invariant_ends_the_engine_and_every_stream() {
    let FaultyEngine { handle, thread, gate, lies, .. } = faulty();
    let streams: Vec<_> = (0..30).map(|i| handle.generate(plain(i, 6, 12)).unwrap()).collect();
    gate.wait_for_arrivals(1);
    lies.store(true, Ordering::Relaxed);
    gate.open();
    assert_dead(&handle, streams);
    let error = thread.join().unwrap_err();
    assert_eq!(error, EngineError::Invariant("as this test wants it".to_owned()));
}
