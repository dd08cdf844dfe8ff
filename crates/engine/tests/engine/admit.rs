//! Who is let in: permits, refusals, and the signs of health.

use std::time::Duration;

use crate::common::*;
use folio_core::schedule::{Limits, Scheduler};
use folio_engine::{EngineConfig, Health, Refused, start};
use folio_sim::Gate;

#[test]
fn a_full_engine_refuses_with_numbers_until_a_request_ends() {
    let gate = Gate::closed();
    let held = gate.clone();
    let few = Limits { max_queued: 3, ..limits() };
    let (handle, thread) = engine(32, few, |executor| executor.with_gate(held));
    let first = handle.generate(plain(0, 4, 1)).unwrap();
    let mut others: Vec<_> = (1..3).map(|i| handle.generate(plain(i, 4, 4)).unwrap()).collect();
    let busy = Refused::Busy { requests: 3, limit: 3 };
    assert_eq!(handle.generate(plain(9, 4, 4)).unwrap_err(), busy);
    // The first step ends the first request, and exactly one more is let in.
    gate.allow(1);
    block_on(read(first)).finished();
    others.push(handle.generate(plain(3, 4, 4)).unwrap());
    assert_eq!(handle.generate(plain(9, 4, 4)).unwrap_err(), busy);
    gate.open();
    block_on(async {
        for stream in others {
            read(stream).await.finished();
        }
    });
    assert_eq!(handle.snapshot().requests, 0);
    finish(&handle, thread);
}

#[test]
fn a_dropped_stream_keeps_its_permit_until_the_engine_lets_go_of_the_request() {
    let gate = Gate::closed();
    let held = gate.clone();
    let one = Limits { max_queued: 1, ..limits() };
    let (handle, thread) = engine(32, one, |executor| executor.with_gate(held));
    let stream = handle.generate(plain(1, 4, 50)).unwrap();
    gate.wait_for_arrivals(1);
    drop(stream);
    assert!(matches!(
        handle.generate(plain(2, 4, 4)),
        Err(Refused::Busy { requests: 1, limit: 1 })
    ));
    gate.open();
    finish(&handle, thread);
}

#[test]
fn what_can_never_be_served_is_refused_and_costs_no_permit() {
    let one = Limits { max_queued: 1, ..limits() };
    let (handle, thread) = engine(8, one, |executor| executor);
    for (prompt, max_tokens, field) in
        [(0, 5, "prompt"), (500, 5, "prompt"), (4, 400, "max_tokens")]
    {
        let Err(Refused::Rejected(reject)) = handle.generate(plain(1, prompt, max_tokens)) else {
            panic!("a prompt of {prompt} with {max_tokens} tokens was accepted");
        };
        assert_eq!(reject.field(), Some(field), "{reject}");
    }
    // The one permit is still there.
    block_on(read(handle.generate(plain(1, 4, 5)).unwrap())).finished();
    finish(&handle, thread);
}

#[test]
fn an_engine_whose_step_never_ends_is_found_to_have_stalled() {
    let gate = Gate::closed();
    let scheduler = Scheduler::new(limits(), memory(8));
    let impatient = EngineConfig { stall_after: Duration::ZERO, ..config() };
    let executor = Box::new(executor(8).with_gate(gate.clone()));
    let (handle, thread) = start(scheduler, executor, impatient).unwrap();
    // Nothing to do is no stall.
    assert_eq!(handle.health(), Health::Ok);
    let stream = handle.generate(plain(1, 4, 1)).unwrap();
    gate.wait_for_arrivals(1);
    assert!(matches!(handle.health(), Health::Stalled { .. }));
    gate.open();
    block_on(read(stream)).finished();
    assert_eq!(handle.health(), Health::Ok);
    finish(&handle, thread);
    assert_eq!(handle.health(), Health::Dead);
}
