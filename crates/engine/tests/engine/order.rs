//! Who comes next: by urgency, then by how much has been served, then by arrival.

use crate::common::*;
use folio_core::params::Requested;
use folio_core::schedule::Limits;
use folio_engine::{Generation, Owner};
use folio_sim::Gate;

/// One sequence at a time, and prompts that fill a step: one request is handed over after the other.
fn narrow() -> Limits {
    Limits { max_num_seqs: 1, max_num_batched_tokens: 4, ..limits() }
}

/// Sends requests, each of an owner and with a priority, while the engine is busy with another one; tells in which order they were admitted.
fn order(requests: &[(Owner, i64)]) -> Vec<usize> {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(64, narrow(), |executor| executor.with_gate(held));
    let busy = handle.generate(plain(99, 4, 2)).unwrap();
    gate.wait_for_arrivals(1);
    let waiting: Vec<Generation> = (0..)
        .zip(requests)
        .map(|(number, &(owner, priority))| {
            let asked = Requested {
                max_tokens: Some(4),
                ignore_eos: true,
                priority: Some(priority),
                ..Requested::default()
            };
            handle.generate_for(owner, job((0..4).map(|i| number * 5 + i), &asked)).unwrap()
        })
        .collect();
    gate.open();
    let mut admitted = block_on(async {
        read(busy).await.finished();
        let mut admitted = Vec::new();
        for (number, generation) in waiting.into_iter().enumerate() {
            let read = read(generation).await;
            admitted.push((read.timing.and_then(|timing| timing.admitted).unwrap(), number));
            read.finished();
        }
        admitted
    });
    finish(&handle, thread);
    admitted.sort_unstable();
    admitted.into_iter().map(|(_, number)| number).collect()
}

#[test]
fn equals_are_served_in_the_order_they_came() {
    assert_eq!(order(&[(0, 0), (0, 0), (0, 0), (0, 0)]), [0, 1, 2, 3]);
}

#[test]
fn the_urgent_come_first() {
    assert_eq!(order(&[(0, 5), (0, 0), (0, -3), (0, 0)]), [2, 1, 3, 0]);
}

#[test]
fn who_sends_many_does_not_keep_others_waiting() {
    let order = order(&[(1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (2, 0), (2, 0)]);
    let place = |number: usize| order.iter().position(|&other| other == number).unwrap();
    // The few of the second owner are served before the third of the many, and nobody's own order changes.
    assert!(place(5) < place(2) && place(6) < place(3), "{order:?}");
    assert!(order.iter().filter(|&&number| number < 5).is_sorted(), "{order:?}");
}

#[test]
fn who_leaves_while_waiting_takes_nothing_along() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(64, narrow(), |executor| executor.with_gate(held));
    let busy = handle.generate(plain(9, 4, 20)).unwrap();
    gate.wait_for_arrivals(1);
    let mut waiting: Vec<Generation> =
        (0..6).map(|i| handle.generate_for(i % 2, plain(i, 4, 2)).unwrap()).collect();
    // They are in the line once the next step arrives.
    gate.allow(1);
    gate.wait_for_arrivals(2);
    let last = waiting.pop().unwrap();
    drop(waiting);
    gate.open();
    block_on(async {
        read(last).await.finished();
        read(busy).await.finished();
    });
    finish(&handle, thread);
}
