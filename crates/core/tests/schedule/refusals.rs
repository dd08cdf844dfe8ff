//! What is refused at the door, and what the refusal says.

use expect_test::expect;
use folio_core::ids::{GroupId, Tick, Token};
use folio_core::kv::{Config, KvMemory, Manager};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::{Admission, Job, Limits, Reject, Scheduler};
use proptest::prelude::*;

use super::properties::config;
use super::server::{Server, VOCAB, job, wide};

const LIMITS: Limits = Limits {
    max_model_len: 32,
    max_num_seqs: 4,
    max_num_batched_tokens: 8,
    max_queued: 3,
    vocab: VOCAB,
};
const CONFIG: Config = Config { block_size: 4, capacity: 6, prefix_caching: true, secret: 0 };

fn server() -> Server {
    Server::new(LIMITS, CONFIG)
}

/// However the width is spelled: a search over fewer tokens could find less than it is to return.
#[test]
fn a_search_is_no_wider_than_the_vocabulary() {
    let limits = ParamLimits { max_n: 64, ..ParamLimits::plain(8, Vec::new()) };
    let parse = |n, best_of, beam_width| {
        let asked = Requested { n, best_of, beam_width, ..Requested::default() };
        Params::parse(&Requested { use_beam_search: true, ..asked }, &limits, 0)
    };
    assert_eq!(parse(Some(8), None, None).map(|params| params.width()), Ok(8));
    for (n, best_of, beam_width, field) in [
        (None, None, Some(9), "beam_width"),
        (None, Some(9), None, "best_of"),
        (Some(9), None, None, "n"),
    ] {
        let problem = parse(n, best_of, beam_width).unwrap_err();
        assert_eq!(problem.field, field, "{problem:?}");
    }
}

#[test]
fn a_refusal_says_what_to_change() {
    let mut server = server();
    let mut unknown = job(1, 5, 1, Some(2));
    unknown.prompt[3] = Token(VOCAB);
    let mut said = String::new();
    for job in [
        job(1, 0, 1, Some(2)),
        unknown,
        job(1, 32, 1, None),
        job(1, 30, 1, Some(3)),
        job(1, 30, 1, Some(u32::MAX)),
        job(1, 4, 5, Some(1)),
        job(1, 4, 4, Some(12)),
        job(1, 4, 1, Some(22)),
        job(1, 25, 1, None),
        job(1, 25, 4, Some(1)),
    ] {
        let reject = server.submit(job.clone()).unwrap_err();
        assert_eq!(server.scheduler.admission().check(&job), Err(reject.clone()));
        said += &format!("{}: {reject}\n", reject.field().unwrap());
    }
    assert!(server.scheduler.is_idle());
    expect![[r#"
        prompt: the prompt is empty; send at least one token
        prompt: token 40 at position 3 of the prompt does not exist; ids go from 0 to 39
        prompt: the prompt has 32 tokens but the context is 32, and at least one is to be generated; shorten the prompt or raise --max-model-len
        max_tokens: the prompt has 30 tokens and max_tokens asks for 3 more, but the context is 32; lower max_tokens to 2 or shorten the prompt
        max_tokens: the prompt has 30 tokens and max_tokens asks for 4294967295 more, but the context is 32; lower max_tokens to 2 or shorten the prompt
        n: n asks for 5 sequences but at most 4 run at once; lower n or raise --max-num-seqs
        n: a prompt of 4 tokens with n = 4 and max_tokens = 12 may need 13 KV blocks of 4 tokens, but there are 6 (24 tokens); lower n or max_tokens or raise --kv-cache-memory-bytes
        max_tokens: a prompt of 4 tokens with n = 1 and max_tokens = 22 may need 7 KV blocks of 4 tokens, but there are 6 (24 tokens); lower max_tokens or raise --kv-cache-memory-bytes
        prompt: a prompt of 25 tokens with n = 1 and max_tokens = 1 may need 7 KV blocks of 4 tokens, but there are 6 (24 tokens); shorten the prompt or raise --kv-cache-memory-bytes
        prompt: a prompt of 25 tokens with n = 4 and max_tokens = 1 may need 7 KV blocks of 4 tokens, but there are 6 (24 tokens); shorten the prompt or raise --kv-cache-memory-bytes
    "#]].assert_eq(&said);
}

#[test]
fn what_just_fits_is_served() {
    let mut server = server();
    for job in [job(1, 4, 1, Some(21)), job(2, 4, 4, Some(5)), job(3, 24, 4, Some(1))] {
        let id = server.submit(job.clone()).unwrap();
        let bigger = {
            let mut job = job;
            job.params.max_tokens = job.params.max_tokens.map(|most| most + 1);
            job
        };
        assert!(matches!(server.submit(bigger), Err(Reject::NeverFits { .. })));
        server.drain(100);
        assert_eq!(server.records[&id].preemptions, Some(0));
    }
}

#[test]
fn without_max_tokens_context_and_memory_bound_the_output() {
    let generated = |capacity: u32, len: u32, n: u32| {
        let mut server = Server::new(LIMITS, Config { capacity, ..CONFIG });
        let id = server.submit(job(7, len, n, None)).unwrap();
        server.drain(200);
        let lengths = server.records[&id].choices.values().map(|output| output.tokens.len());
        lengths.collect::<Vec<_>>()
    };
    // 32 positions of context; of the last token no KV is kept.
    assert_eq!(generated(64, 5, 1), [27]);
    assert_eq!(generated(6, 5, 1), [20]);
    // One shared block of the prompt and, for each of two samples, two blocks of their own.
    assert_eq!(generated(6, 5, 2), [8, 8]);
    assert_eq!(generated(6, 24, 4), [1, 1, 1, 1]);
}

#[test]
fn the_queue_is_bounded_but_for_those_that_were_preempted() {
    let mut server = Server::new(LIMITS, Config { capacity: 4, ..CONFIG });
    let running = [server.submit(job(1, 6, 1, Some(6))), server.submit(job(2, 2, 1, Some(12)))];
    for _ in 0..4 {
        assert!(server.step());
    }
    let stats = server.scheduler.stats();
    assert_eq!((stats.totals.preemptions, stats.waiting.groups), (1, 1), "{running:?}");
    for id in 2..5 {
        assert_eq!(server.submit(job(id, 4, 1, Some(2))), Ok(GroupId(id)));
    }
    let full = server.submit(job(9, 4, 1, Some(2))).unwrap_err();
    assert_eq!((full.clone(), full.field()), (Reject::QueueFull { limit: 3 }, None));
    expect!["3 requests are waiting already; try again later or raise --max-num-queued-reqs"]
        .assert_eq(&full.to_string());
    server.drain(100);
}

#[test]
fn a_caller_may_leave_from_anywhere_in_the_queue() {
    let mut server = Server::new(wide(), CONFIG);
    let ids: Vec<_> = (0..20).map(|i| server.submit(job(i, 20, 1, Some(4))).unwrap()).collect();
    server.step();
    for &id in ids.iter().step_by(3).chain(&ids[17..]) {
        server.abort(id);
        server.abort(id);
    }
    server.scheduler.abort(GroupId(1000));
    server.drain(200);
    let ended = server.records.values().filter(|record| record.preemptions.is_some());
    assert_eq!(ended.count(), 11);
}

proptest! {
    #![proptest_config(config(256))]

    /// The door that has no memory says what the memory says.
    #[test]
    fn the_door_agrees_with_the_memory(
        block_size in 1u32..=20, capacity in 1u32..=30, max_model_len in 0u32..100,
        len in 0u32..100, n in 0u32..6, max_tokens in prop::option::of(1u32..100),
    ) {
        let limits = Limits { max_model_len, ..LIMITS };
        let memory = Manager::new(Config { block_size, capacity, ..CONFIG }).unwrap();
        let door = Admission::new(limits, &memory);
        let job: Job = job(3, len, n, max_tokens);
        let said = door.check(&job);
        if let Err(Reject::NeverFits { need, width, max_tokens, .. }) = said {
            prop_assert_eq!(need, memory.most_blocks(len, len + max_tokens - 1, width));
            prop_assert!(need > capacity);
        }
        let mut scheduler = Scheduler::new(limits, memory);
        prop_assert_eq!(scheduler.submit(job, Tick(0)).map(|_| ()), said);
    }
}
