//! Requests that arrive together and begin alike: the common prefix is computed once, by one of them.

use folio_core::ids::Salt;
use folio_core::kv::Config;
use folio_core::schedule::{Job, Limits, PreemptionMode};

use super::scenario::CACHED;
use super::server::{Server, alone, job, text_of, wide};

const REQUESTS: u32 = 32;
const PREFIX: u32 = 512;
const TAIL: u32 = 5;
const OUTPUT: u32 = 4;

fn request(number: u32) -> Job {
    let mut job = job(7, PREFIX, 1, Some(OUTPUT));
    job.prompt.extend(text_of(100 + u64::from(number), TAIL));
    job
}

fn burst(tokens: u32, config: Config) -> Server {
    let limits = Limits { max_model_len: 600, max_num_batched_tokens: tokens, ..wide() };
    let mut server = Server::with_swap(limits, config, 0, PreemptionMode::Recompute);
    for number in 0..REQUESTS {
        server.submit(request(number)).unwrap();
    }
    server
}

#[test]
fn a_burst_computes_its_common_prefix_once_whatever_the_budget() {
    let wanted: Vec<_> = (0..REQUESTS).map(|n| alone(request(n), 600).choices).collect();
    for tokens in [8, 33, 64, 512, 2048, 100_000] {
        let mut server = burst(tokens, Config { block_size: 16, capacity: 200, ..CACHED });
        server.drain(10_000);
        for (record, wanted) in server.records.values().zip(&wanted) {
            assert_eq!(record.choices, *wanted, "budget {tokens}");
        }
        let each = TAIL + OUTPUT - 1;
        let computed = server.scheduler.stats().totals.computed_tokens;
        assert_eq!(computed, u64::from(PREFIX + REQUESTS * each), "budget {tokens}");
    }
}

#[test]
fn when_the_one_who_computes_the_prefix_leaves_the_next_takes_over() {
    let mut server = burst(64, Config { block_size: 16, capacity: 200, ..CACHED });
    for _ in 0..3 {
        assert!(server.step());
    }
    let first = *server.records.keys().next().unwrap();
    server.abort(first);
    server.drain(10_000);
    // What was computed before it left is not lost: 192 tokens were published.
    let computed = server.scheduler.stats().totals.computed_tokens;
    assert_eq!(computed, u64::from(PREFIX + (REQUESTS - 1) * (TAIL + OUTPUT - 1)));
    for (number, record) in (0..).zip(server.records.values()).skip(1) {
        assert_eq!(record.choices, alone(request(number), 600).choices);
    }
}

#[test]
fn a_pinned_prefix_stays_when_everything_else_is_evicted() {
    let mut server = burst(64, Config { block_size: 16, capacity: 60, ..CACHED });
    let ids: Vec<_> = server.records.keys().copied().collect();
    ids.into_iter().for_each(|id| server.abort(id));
    let mut pinned = job(9, 40, 1, Some(1));
    pinned.pin = true;
    server.submit(pinned).unwrap();
    server.drain(100);
    assert_eq!(server.scheduler.stats().kv.pinned, 2, "its full blocks");
    for text in 20..30 {
        server.submit(job(text, 500, 1, Some(4))).unwrap();
        server.drain(100);
    }
    assert!(server.scheduler.stats().kv.evictions > 200);
    // Found under another salt as well.
    let mut later = job(9, 45, 1, Some(2));
    later.salt = Salt(77);
    let id = server.submit(later.clone()).unwrap();
    server.drain(100);
    let record = &server.records[&id];
    assert_eq!(record.cached, Some(32));
    assert_eq!(record.choices, alone(later, 600).choices);
}
