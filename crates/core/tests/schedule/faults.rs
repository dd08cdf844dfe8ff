//! Executors that fail, and executors that answer what they were not asked: the scheduler goes on, and whoever was not
//! concerned gets what it would have got alone.

use folio_core::event::{EventKind, Failure};
use folio_core::exec::{DrawFault, Drawn, Score};
use folio_core::ids::Token;
use folio_core::kv::Config;
use folio_core::schedule::Limits;
use proptest::prelude::*;

use super::properties::config;
use super::server::{Server, VOCAB, alone, job, wide};

const CONFIG: Config = Config { block_size: 4, capacity: 12, prefix_caching: true, secret: 0 };

/// Three requests in the middle of their work: one decodes, one has two samples, one computes its prompt.
fn busy() -> Server {
    let mut server = Server::new(Limits { max_num_batched_tokens: 8, ..wide() }, CONFIG);
    server.submit(job(0, 4, 1, Some(9))).unwrap();
    server.submit(job(1, 4, 2, Some(9))).unwrap();
    server.submit(job(2, 20, 1, Some(3))).unwrap();
    for _ in 0..2 {
        assert!(server.step());
    }
    server.schedule();
    server.execute();
    assert_eq!((server.plan.rows.len(), server.plan.draws.len()), (4, 3));
    server
}

/// How the requests end.
fn finish(mut server: Server) -> Vec<Option<Failure>> {
    server.drain(100);
    let n = [1, 2, 1];
    for ((id, record), n) in server.records.iter().zip(n) {
        if record.failure.is_none() {
            let job = if id.0 == 2 { job(2, 20, n, Some(3)) } else { job(id.0, 4, n, Some(9)) };
            assert_eq!(record.choices, alone(job, 96).choices);
        }
    }
    server.records.values().map(|record| record.failure).collect()
}

#[test]
fn logits_that_are_not_finite_end_their_own_group() {
    let mut server = busy();
    server.out.draws[2] = Err(DrawFault::NotFinite);
    server.commit();
    assert_eq!(finish(server), [None, Some(Failure::NotFinite), None]);
}

#[test]
fn one_bad_draw_of_a_prompt_with_samples_ends_all_of_them() {
    let mut server = Server::new(wide(), CONFIG);
    let id = server.submit(job(1, 4, 3, Some(9))).unwrap();
    server.schedule();
    server.execute();
    server.out.draws[1] = Err(DrawFault::NotFinite);
    server.commit();
    let kinds: Vec<_> = server.events.iter().map(|event| event.kind.clone()).collect();
    let failed = EventKind::Failed(Failure::NotFinite);
    assert_eq!(kinds, [EventKind::Admitted { cached_tokens: 0 }, failed]);
    assert!(server.records[&id].choices.is_empty());
    server.drain(0);
}

#[test]
fn a_token_that_does_not_exist_ends_its_own_group() {
    let mut server = busy();
    server.out.draws[0] = Ok(Drawn { token: Token(VOCAB), score: None });
    server.commit();
    assert_eq!(finish(server), [Some(Failure::Step), None, None]);
}

#[test]
fn an_output_of_another_length_fails_the_step() {
    let mangles: [fn(&mut Server); 4] = [
        |server| server.out.draws.clear(),
        |server| drop(server.out.draws.pop()),
        |server| server.out.draws.push(Err(DrawFault::NotFinite)),
        |server| server.out.scores.push(Score::default()),
    ];
    for mangle in mangles {
        let mut server = busy();
        mangle(&mut server);
        server.commit();
        assert_eq!(finish(server), [Some(Failure::Step); 3]);
    }
}

#[test]
fn a_failed_step_fails_who_was_in_it_and_nobody_else() {
    let limits = Limits { max_num_seqs: 2, ..wide() };
    let mut server = Server::new(limits, CONFIG);
    for id in 0..3 {
        server.submit(job(id, 4, if id == 1 { 2 } else { 1 }, Some(9))).unwrap();
    }
    server.schedule();
    server.fail();
    let failures: Vec<_> = server.records.values().map(|record| record.failure).collect();
    assert_eq!(failures, [Some(Failure::Step), None, None]);
    server.drain(100);
    assert_eq!(server.records.values().filter(|record| record.preemptions.is_some()).count(), 2);
    assert_eq!(server.scheduler.stats().totals.failed, 1);
}

#[test]
fn a_group_that_is_aborted_during_a_step_gets_nothing_from_it() {
    let mut server = busy();
    let ids: Vec<_> = server.records.keys().copied().collect();
    server.abort(ids[1]);
    server.commit();
    assert!(server.events.iter().all(|event| event.group != ids[1]));
    assert_eq!(finish_aborted(server), [false, true, false]);
}

fn finish_aborted(mut server: Server) -> Vec<bool> {
    server.drain(100);
    server.records.values().map(|record| record.aborted).collect()
}

#[test]
fn a_step_that_is_committed_twice_counts_once() {
    let mut server = busy();
    server.commit();
    let before = server.scheduler.stats();
    server.commit();
    assert!(server.events.is_empty());
    let after = server.scheduler.stats();
    assert_eq!((before.running, before.kv), (after.running, after.kv));
    assert_eq!(finish(server), [None; 3]);
}

/// Something wrong with a step's output.
#[derive(Clone, Debug)]
enum Lie {
    DropDraws(usize),
    ExtraDraw,
    BadToken(usize),
    Fault(usize),
    DropScores(usize),
    ExtraScore,
    FailStep,
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![
        (0..4usize).prop_map(Lie::DropDraws),
        Just(Lie::ExtraDraw),
        (0..8usize).prop_map(Lie::BadToken),
        (0..8usize).prop_map(Lie::Fault),
        (0..4usize).prop_map(Lie::DropScores),
        Just(Lie::ExtraScore),
        Just(Lie::FailStep),
    ]
}

fn tell(server: &mut Server, lie: &Lie) {
    let out = &mut server.out;
    match *lie {
        Lie::DropDraws(kept) => out.draws.truncate(kept),
        Lie::ExtraDraw => out.draws.push(Ok(Drawn::default())),
        Lie::DropScores(kept) => out.scores.truncate(kept),
        Lie::ExtraScore => out.scores.push(Score::default()),
        Lie::BadToken(at) | Lie::Fault(at) => {
            if let Some(draw) = out.draws.get_mut(at) {
                *draw = match lie {
                    Lie::Fault(_) => Err(DrawFault::NotFinite),
                    _ => Ok(Drawn { token: Token(u32::MAX), score: None }),
                };
            }
        }
        Lie::FailStep => return server.fail(),
    }
    server.commit();
}

proptest! {
    #![proptest_config(config(128))]

    /// Whatever an executor answers, invariants hold (each call checks them) and the rest is served as if alone.
    #[test]
    fn no_output_breaks_the_scheduler(lies in prop::collection::vec((0..4usize, lie()), 0..8)) {
        let limits = Limits { max_num_seqs: 5, max_num_batched_tokens: 7, ..wide() };
        let mut server = Server::new(limits, CONFIG);
        let jobs: Vec<_> = (0..8u64)
            .map(|i| {
                let mut job = job(i, 3 + 2 * u32::try_from(i).unwrap(), 1 + u32::from(i % 3 == 1), Some(5));
                job.params.prompt_logprobs = (i % 2 == 0).then_some(1);
                job
            })
            .collect();
        for job in &jobs {
            server.submit(job.clone()).unwrap();
        }
        for (steps, lie) in lies {
            for _ in 0..steps {
                server.step();
            }
            server.schedule();
            if !server.plan.is_empty() {
                server.execute();
                tell(&mut server, &lie);
            }
        }
        server.drain(200);
        for (record, job) in server.records.values().zip(jobs) {
            if record.failure.is_none() {
                prop_assert_eq!(&record.choices, &alone(job, 96).choices);
            }
        }
    }
}
