//! Dropping a stream ends its request wherever it is, and nothing is lost by it.

use crate::common::*;
use folio_sim::Gate;
use proptest::prelude::*;

#[test]
fn a_request_dropped_in_the_inbox_is_never_scheduled() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(32, limits(), |executor| executor.with_gate(held));
    let first = handle.generate(plain(1, 4, 2)).unwrap();
    // The engine is in a step now, so that the next request must wait in the inbox.
    gate.wait_for_arrivals(1);
    let second = handle.generate(plain(2, 4, 2)).unwrap();
    assert_eq!(handle.snapshot().requests, 2);
    drop(second);
    gate.open();
    block_on(read(first)).finished();
    finish(&handle, thread);
    // Only the first request was ever computed: a prompt of four and one of its two tokens.
    assert_eq!(handle.snapshot().step_tokens.sum, 5);
}

#[test]
fn requests_dropped_while_waiting_prefilling_and_decoding_give_their_blocks_back() {
    let gate = Gate::closed();
    let held = gate.clone();
    let one_at_a_time = folio_core::schedule::Limits { max_num_seqs: 2, ..limits() };
    let (handle, thread) = engine(64, one_at_a_time, |executor| executor.with_gate(held));
    let decoding = handle.generate(plain(1, 4, 50)).unwrap();
    gate.wait_for_arrivals(1);
    // 130 tokens take three steps of 64.
    let prefilling = handle.generate(plain(2, 130, 5)).unwrap();
    let waiting = handle.generate(plain(3, 4, 5)).unwrap();
    let last = plain(4, 4, 5);
    let wanted = expected(&last);
    let last = handle.generate(last).unwrap();
    gate.allow(1);
    gate.wait_for_arrivals(2);
    let stats = handle.snapshot().stats;
    assert_eq!(stats.running.sequences, 1, "{stats:?}");
    gate.allow(1);
    gate.wait_for_arrivals(3);
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.stats.running.sequences, snapshot.requests), (2, 4), "{snapshot:?}");
    drop((decoding, prefilling, waiting));
    gate.open();
    assert_eq!(block_on(read(last)).finished(), wanted);
    finish(&handle, thread);
    let totals = handle.snapshot().stats.totals;
    assert_eq!((totals.submitted, totals.aborted, totals.ended), (4, 3, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    /// Each request is read for a number of turns and then dropped, or to its end. Those that are read to their end get
    /// what they get alone; nothing is lost.
    #[test]
    fn readers_that_leave_at_random_disturb_nobody(
        patience in prop::collection::vec(prop::option::of(0u32..12), 1..40),
        blocks in 36u32..72,
    ) {
        let (handle, thread) = engine(blocks, limits(), |executor| executor);
        let mut readers = Vec::new();
        for (i, patience) in (0..).zip(&patience) {
            let job = varied(i);
            readers.push((*patience, expected(&job), handle.generate(job).unwrap()));
        }
        block_on(async {
            for (patience, wanted, mut stream) in readers {
                match patience {
                    Some(turns) => {
                        for _ in 0..turns {
                            if stream.next().await.is_none() {
                                break;
                            }
                        }
                    }
                    None => assert_eq!(read(stream).await.finished(), wanted),
                }
            }
        });
        finish(&handle, thread);
    }
}
