//! How an engine ends when it is told to: drained, at once, or because nobody holds a handle any more.

use crate::common::*;
use folio_engine::{Cause, Health, Refused, Update};
use folio_sim::Gate;

#[test]
fn draining_finishes_what_was_accepted_and_refuses_the_rest() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(24, limits(), |executor| executor.with_gate(held));
    let jobs: Vec<_> = (0..40).map(varied).collect();
    let streams: Vec<_> = jobs.iter().map(|job| handle.generate(job.clone()).unwrap()).collect();
    gate.wait_for_arrivals(1);
    handle.drain();
    handle.drain();
    assert_eq!(handle.health(), Health::Draining);
    assert_eq!(handle.generate(plain(1, 4, 4)).unwrap_err(), Refused::ShuttingDown);
    gate.open();
    // The thread ends by itself; what it sent can be read afterwards.
    thread.join().unwrap();
    block_on(async {
        for (job, stream) in jobs.iter().zip(streams) {
            assert_eq!(read(stream).await.finished(), expected(job));
        }
    });
    assert_all_returned(&handle);
    assert_eq!(handle.health(), Health::Dead);
    assert_eq!(handle.generate(plain(1, 4, 4)).unwrap_err(), Refused::ShuttingDown);
}

#[test]
fn aborting_ends_every_stream_with_one_last_update() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(24, limits(), |executor| executor.with_gate(held));
    let mut streams: Vec<_> = (0..40).map(|i| handle.generate(plain(i, 9, 50)).unwrap()).collect();
    gate.allow(5);
    gate.wait_for_arrivals(6);
    // One that lies in the inbox, and a drain before the abort, as a second signal comes after a first.
    streams.push(handle.generate(plain(99, 9, 50)).unwrap());
    handle.drain();
    handle.abort_all();
    gate.open();
    thread.join().unwrap();
    block_on(async {
        for stream in streams {
            assert_eq!(read(stream).await.last, Some(Update::Failed(Cause::Shutdown)));
        }
    });
    assert_all_returned(&handle);
    assert_eq!(handle.generate(plain(1, 4, 4)).unwrap_err(), Refused::ShuttingDown);
}

#[test]
fn an_idle_engine_ends_at_once() {
    for abort in [false, true] {
        let (handle, thread) = engine(8, limits(), |executor| executor);
        if abort {
            handle.abort_all();
        } else {
            handle.drain();
        }
        thread.join().unwrap();
        assert_eq!(handle.health(), Health::Dead);
    }
}

#[test]
fn the_last_handle_takes_the_engine_with_it_but_not_the_streams() {
    let (handle, thread) = engine(32, limits(), |executor| executor);
    let job = plain(1, 4, 20);
    let wanted = expected(&job);
    let stream = handle.clone().generate(job).unwrap();
    drop(handle);
    thread.join().unwrap();
    assert_eq!(block_on(read(stream)).finished(), wanted);
}
