//! Looking into the memory: between steps, for a few at a time, at nobody's cost.

use crate::common::*;
use folio_core::inspect::Activity;
use folio_core::kv::KvStats;
use folio_sim::Gate;

#[test]
fn an_idle_engine_answers() {
    let (handle, thread) = engine(32, limits(), |executor| executor);
    let report = block_on(handle.inspect()).unwrap();
    assert_eq!((report.block_size, report.stats.total, report.stats.used), (BLOCK_SIZE, 32, 0));
    assert!(report.groups.is_empty());
    finish(&handle, thread);
}

#[test]
fn a_busy_engine_answers_between_two_steps() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(32, limits(), |executor| executor.with_gate(held));
    let generation = handle.generate(plain(1, 10, 20)).unwrap();
    gate.wait_for_arrivals(1);
    let asked = handle.inspect();
    gate.allow(1);
    let report = block_on(asked).unwrap();
    // The prompt's step has been committed and the next one not been planned.
    let KvStats { used, held, .. } = report.stats;
    assert_eq!((used, held), (3, 3));
    let group = &report.groups[0];
    assert_eq!((group.activity, group.tokens, group.blocks), (Activity::Decode, 11, 3));
    gate.open();
    assert_eq!(block_on(read(generation)).finished()[0].len(), 20);
    finish(&handle, thread);
}

#[test]
fn a_few_may_ask_at_one_time_and_who_has_gone_counts_until_the_step_is_over() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(32, limits(), |executor| executor.with_gate(held));
    let generation = handle.generate(plain(1, 10, 20)).unwrap();
    gate.wait_for_arrivals(1);
    let mut asking: Vec<_> = (0..4).map(|_| handle.inspect()).collect();
    assert_eq!(block_on(handle.inspect()), None, "all places are taken");
    drop(asking.pop());
    assert_eq!(block_on(handle.inspect()), None, "the engine has not looked yet");
    gate.open();
    let reports: Vec<_> = asking.into_iter().map(block_on).collect();
    assert!(reports.iter().all(|report| report.is_some() && *report == reports[0]));
    assert!(block_on(handle.inspect()).is_some());
    assert_eq!(block_on(read(generation)).finished()[0].len(), 20);
    finish(&handle, thread);
}

#[test]
fn an_engine_that_has_ended_tells_nothing() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(32, limits(), |executor| executor.with_gate(held));
    let _generation = handle.generate(plain(1, 10, 20)).unwrap();
    gate.wait_for_arrivals(1);
    let asked = handle.inspect();
    handle.abort_all();
    gate.open();
    thread.join().unwrap();
    assert_eq!(block_on(asked), None);
    assert_eq!(block_on(handle.inspect()), None);
}
