//! What the scheduler does in the cases that matter, as tables that can be read. The language is that of `scenario`.

use expect_test::expect;
use folio_core::ids::{Salt, Tick};
use folio_core::kv::Config;
use folio_core::schedule::{Limits, PreemptionMode};
use folio_core::stats::{Load, Stats};

use super::scenario::{CACHED, check};
use super::server::{Server, job, wide};

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_decoding() {
    check(
        "tokens 6; A 3+5; B 14+2 @1",
        expect![[r#"
            0   A[0..3]*                                    | free 15
            1   A[3..4]*  B[0..5]                           | free 11
            2   A[4..5]*  B[5..10]                          | free 10
            3   A[5..6]*  B[10..14]*                        | free 10
            4   A[6..7]*  B[14..15]*                        | ends A; ends B; free 16
        "#]],
    );
}

#[test]
fn the_next_starts_with_the_tokens_that_the_one_before_left() {
    check(
        "tokens 3; A 8+2; B 2+5; C 2+3",
        expect![[r#"
            0   A[0..3]                                     | waiting B C; free 14
            1   A[3..6]                                     | waiting B C; free 14
            2   A[6..8]*  B[0..1]                           | waiting C; free 13
            3   A[8..9]*  B[1..2]*  C[0..1]                 | ends A; free 14
            4   B[2..3]*  C[1..2]*                          | free 14
            5   B[3..4]*  C[2..3]*                          | free 14
            6   B[4..5]*  C[3..4]*                          | ends C; free 14
            7   B[5..6]*                                    | ends B; free 16
        "#]],
    );
}

#[test]
fn too_few_tokens_skip_a_turn_and_preempt_nobody() {
    check(
        "tokens 2, blocks 6; A 2+3 x3; B 1+2",
        expect![[r#"
            0   A.0[0..2]*3                                 | waiting B; free 5
            1   A.0[2..3]*  A.1[2..3]*                      | copies 2; waiting B; free 3
            2   A.0[3..4]*  A.1[3..4]*                      | waiting B; free 5
            3   A.2[2..3]*  B[0..1]*                        | free 4
            4   A.2[3..4]*  B[1..2]*                        | ends A; ends B; free 6
        "#]],
    );
}

#[test]
fn the_youngest_is_preempted_and_computes_everything_again() {
    check(
        "blocks 5; A 6+6; B 5+6; C 2+2 @1",
        expect![[r#"
            0   A[0..6]*  B[0..5]*                          | free 1
            1   A[6..7]*  B[5..6]*  C[0..2]*                | free 0
            2   A[7..8]*  B[6..7]*  C[2..3]*                | ends C; free 1
            3   A[8..9]*  B[7..8]*                          | free 0
            4   A[9..10]*                                   | preempts B; waiting B; free 2
            5   A[10..11]*                                  | waiting B; ends A; free 5
            6   B[0..9]*                                    | free 2
            7   B[9..10]*                                   | ends B; free 5
        "#]],
    );
}

#[test]
fn a_preempted_request_finds_its_blocks_in_the_prefix_cache() {
    check(
        "blocks 5, cache; A 6+6; B 5+6",
        expect![[r#"
            0   A[0..6]*  B[0..5]*                          | free 1
            1   A[6..7]*  B[5..6]*                          | free 1
            2   A[7..8]*  B[6..7]*                          | free 1
            3   A[8..9]*  B[7..8]*                          | free 0
            4   A[9..10]*                                   | preempts B; waiting B; free 2
            5   A[10..11]*                                  | waiting B; ends A; free 5
            6   B[8..9]*                                    | free 2
            7   B[9..10]*                                   | ends B; free 5
        "#]],
    );
}

#[test]
fn samples_share_the_prompt_and_copy_its_last_block_when_they_write() {
    check(
        "size 4; A 6+4 x3",
        expect![[r#"
            0   A.0[0..6]*3                                 | free 14
            1   A.0[6..7]*  A.1[6..7]*  A.2[6..7]*          | copies 2; free 12
            2   A.0[7..8]*  A.1[7..8]*  A.2[7..8]*          | free 12
            3   A.0[8..9]*  A.1[8..9]*  A.2[8..9]*          | ends A; free 16
        "#]],
    );
}

#[test]
fn samples_of_a_prompt_of_full_blocks_copy_nothing() {
    check(
        "size 4; A 8+2 x2",
        expect![[r#"
            0   A.0[0..8]*2                                 | free 14
            1   A.0[8..9]*  A.1[8..9]*                      | ends A; free 16
        "#]],
    );
}

#[test]
fn samples_share_the_prompt_again_after_a_preemption() {
    check(
        "blocks 7, tokens 8; A 4+7; B 6+6 x2",
        expect![[r#"
            0   A[0..4]*  B.0[0..4]                         | free 4
            1   A[4..5]*  B.0[4..6]*2                       | free 3
            2   A[5..6]*  B.0[6..7]*  B.1[6..7]*            | copies 1; free 2
            3   A[6..7]*  B.0[7..8]*  B.1[7..8]*            | free 2
            4   A[7..8]*  B.0[8..9]*  B.1[8..9]*            | free 0
            5   A[8..9]*                                    | preempts B; waiting B; free 4
            6   A[9..10]*                                   | waiting B; ends A; free 7
            7   B.0[0..6]                                   | free 5
            8   B.0[6..10]*  B.1[6..10]*                    | copies 1; free 2
            9   B.0[10..11]*  B.1[10..11]*                  | ends B; free 7
        "#]],
    );
}

#[test]
fn the_group_that_grows_may_be_the_last_and_its_copies_are_taken_back() {
    check(
        "blocks 6; A 8+6; B 5+3 x3",
        expect![[r#"
            0   A[0..8]*  B.0[0..5]*3                       | free 2
            1   A[8..9]*                                    | preempts B; waiting B; free 3
            2   A[9..10]*                                   | waiting B; free 3
            3   A[10..11]*                                  | waiting B; free 3
            4   A[11..12]*                                  | waiting B; free 3
            5   A[12..13]*                                  | waiting B; ends A; free 6
            6   B.0[0..5]                                   | free 4
            7   B.0[5..6]*  B.1[5..6]*  B.2[5..6]*          | copies 2; free 2
            8   B.0[6..7]*  B.1[6..7]*  B.2[6..7]*          | ends B; free 6
        "#]],
    );
}

#[test]
fn a_prompt_that_starts_alike_is_not_computed_twice() {
    check(
        "cache; A 10+3; B 10+2 like=A; C 9+2 like=A @1; D 8+2 like=A @2",
        expect![[r#"
            0   A[0..10]*                                   | free 12
            1   A[10..11]*  B[8..10]*  C[8..9]*             | cached B 8; cached C 8; free 11
            2   A[11..12]*  B[10..11]*  C[9..10]*  D[7..8]*  | copies 1; ends A; ends B; ends C; cached D 7; free 14
            3   D[8..9]*                                    | ends D; free 16
        "#]],
    );
}

#[test]
fn a_scored_prompt_is_computed_whole_and_reported_once() {
    check(
        "cache, blocks 6, tokens 5; A 9+2; B 9+8 @4; C 9+3 like=A scores @4",
        expect![[r#"
            0   A[0..5]                                     | free 3
            1   A[5..9]*                                    | free 3
            2   A[9..10]*                                   | ends A; free 6
            3                                               | free 6
            4   B[0..5]                                     | waiting C; free 3
            5   B[5..9]*  C[0..1]                           | scored C 1; free 0
            6   B[9..10]*  C[1..5]                          | scored C 4; free 0
            7   B[10..11]*  C[5..9]*                        | scored C 3; free 0
            8   B[11..12]*  C[9..10]*                       | free 0
            9   B[12..13]*                                  | preempts C; waiting C; free 2
            10  B[13..14]*                                  | waiting C; free 2
            11  B[14..15]*                                  | waiting C; free 2
            12  B[15..16]*                                  | waiting C; ends B; free 6
            13  C[8..11]*                                   | ends C; free 6
        "#]],
    );
}

#[test]
fn nobody_overtakes_a_large_request() {
    check(
        "blocks 5; A 6+6; B 14+2 @1; C 1+1 @1",
        expect![[r#"
            0   A[0..6]*                                    | free 3
            1   A[6..7]*                                    | waiting B C; free 3
            2   A[7..8]*                                    | waiting B C; free 3
            3   A[8..9]*                                    | waiting B C; free 2
            4   A[9..10]*                                   | waiting B C; free 2
            5   A[10..11]*                                  | waiting B C; ends A; free 5
            6   B[0..14]*  C[0..1]*                         | ends C; free 1
            7   B[14..15]*                                  | ends B; free 5
        "#]],
    );
}

#[test]
fn the_preempted_stand_in_front_of_those_that_wait() {
    check(
        "blocks 6; A 7+9; B 5+7; C 5+5; D 3+1 @1",
        expect![[r#"
            0   A[0..7]*  B[0..5]*  C[0..4]                 | free 0
            1   A[7..8]*  B[5..6]*  C[4..5]*                | waiting D; free 0
            2   A[8..9]*  B[6..7]*                          | preempts C; waiting C D; free 1
            3   A[9..10]*  B[7..8]*                         | waiting C D; free 1
            4   A[10..11]*  B[8..9]*                        | waiting C D; free 0
            5   A[11..12]*  B[9..10]*                       | waiting C D; free 0
            6   A[12..13]*                                  | preempts B; waiting B C D; free 2
            7   A[13..14]*                                  | waiting B C D; free 2
            8   A[14..15]*                                  | waiting B C D; ends A; free 6
            9   B[0..11]*  C[0..5]                          | waiting D; ends B; free 4
            10  C[5..6]*  D[0..3]*                          | ends D; free 4
            11  C[6..7]*                                    | free 4
            12  C[7..8]*                                    | free 4
            13  C[8..9]*                                    | ends C; free 6
        "#]],
    );
}

#[test]
fn a_step_that_preempts_admits_nobody() {
    // In step 1 B would fit again at once: by now it can share what A has computed.
    check(
        "cache, blocks 5; A 8+3; B 8+3 like=A scores",
        expect![[r#"
            0   A[0..8]*  B[0..8]*                          | scored B 7; free 1
            1   A[8..9]*                                    | preempts B; waiting B; free 2
            2   A[9..10]*  B[8..9]*                         | ends A; free 2
            3   B[9..10]*                                   | ends B; free 5
        "#]],
    );
}

#[test]
fn a_request_that_waits_for_memory_does_not_wear_out_the_prefix_cache() {
    // H could have its prompt's blocks at once, but not those of its samples. Did it take them to find out, what A left in the
    // cache would be gone when Z comes.
    check(
        "cache, blocks 9, seqs 6; A 9+1; X 4+12; H 17+2 x4 @1 drop=6; Z 9+1 like=A @6",
        expect![[r#"
            0   A[0..9]*  X[0..4]*                          | ends A; free 8
            1   X[4..5]*                                    | waiting H; free 7
            2   X[5..6]*                                    | waiting H; free 7
            3   X[6..7]*                                    | waiting H; free 7
            4   X[7..8]*                                    | waiting H; free 7
            5   X[8..9]*                                    | waiting H; free 6
            6   X[9..10]*  Z[8..9]*                         | cached Z 8; ends Z; free 6
            7   X[10..11]*                                  | free 6
            8   X[11..12]*                                  | free 6
            9   X[12..13]*                                  | free 5
            10  X[13..14]*                                  | free 5
            11  X[14..15]*                                  | ends X; free 9
        "#]],
    );
}

#[test]
fn a_request_that_waits_for_memory_takes_nothing_and_counts_for_nothing() {
    let limits = Limits { max_num_seqs: 6, ..wide() };
    let mut server = Server::new(limits, Config { capacity: 9, ..CACHED });
    server.submit(job(1, 9, 1, Some(1))).unwrap();
    server.submit(job(2, 4, 1, Some(12))).unwrap();
    server.step();
    // There are blocks for its prompt, one of which the cache would lose, but not for its samples.
    server.submit(job(3, 21, 4, Some(2))).unwrap();
    for _ in 0..4 {
        server.step();
        let Stats { waiting, kv, .. } = server.scheduler.stats();
        assert_eq!((waiting.groups, kv.prefix_queries, kv.evictions), (1, 9 + 4, 0));
    }
    server.drain(100);
    assert_eq!(server.scheduler.stats().kv.prefix_queries, 9 + 4 + 21);
}

#[test]
fn the_oldest_gets_on_beside_more_decoding_than_there_are_tokens() {
    // From step 6 on A computes again what a preemption took from its samples.
    check(
        "tokens 3, blocks 5, seqs 6; X 2+5; A 1+7 x2; C 1+3 x3 @5",
        expect![[r#"
        0   X[0..2]*  A.0[0..1]*2                       | free 3
        1   X[2..3]*  A.0[1..2]*  A.1[1..2]*            | copies 1; free 2
        2   X[3..4]*  A.0[2..3]*  A.1[2..3]*            | free 2
        3   X[4..5]*  A.0[3..4]*  A.1[3..4]*            | free 1
        4   X[5..6]*                                    | preempts A; waiting A; ends X; free 5
        5   A.0[0..1]  C.0[0..1]*3                      | free 3
        6   A.0[1..2]  C.0[1..2]*  C.1[1..2]*           | copies 3; free 0
        7   A.0[2..3]  C.0[2..3]*  C.1[2..3]*           | free 2
        8   A.0[3..5]*  C.2[1..2]*                      | free 1
        9   A.0[5..6]*  A.1[1..2]  C.2[2..3]*           | ends C; free 2
        10  A.0[6..7]*  A.1[2..4]                       | free 4
        11  A.1[4..5]*                                  | free 3
        12  A.1[5..6]*                                  | free 3
        13  A.1[6..7]*                                  | ends A; free 5
    "#]],
    );
}

#[test]
fn all_samples_of_a_request_need_a_seat() {
    check(
        "seqs 3; A 2+3; B 2+2; C 2+2 x2; D 2+2",
        expect![[r#"
            0   A[0..2]*  B[0..2]*                          | waiting C D; free 14
            1   A[2..3]*  B[2..3]*                          | waiting C D; ends B; free 15
            2   A[3..4]*  C.0[0..2]*2                       | waiting D; ends A; free 15
            3   C.0[2..3]*  C.1[2..3]*  D[0..2]*            | copies 1; ends C; free 15
            4   D[2..3]*                                    | ends D; free 16
        "#]],
    );
}

#[test]
fn an_aborted_request_leaves_its_memory_to_the_next() {
    check(
        "blocks 4; A 8+8 drop=2; B 8+2 drop=1; C 12+2",
        expect![[r#"
            0   A[0..8]*                                    | waiting B C; free 2
            1   A[8..9]*                                    | waiting C; free 1
            2   C[0..12]*                                   | free 1
            3   C[12..13]*                                  | ends C; free 4
        "#]],
    );
}

#[test]
fn a_prompt_of_another_salt_shares_nothing() {
    let mut server = Server::new(wide(), CACHED);
    let mut cached = |salt: u64| {
        let mut job = job(1, 9, 1, Some(1));
        job.salt = Salt(salt);
        let id = server.submit(job).unwrap();
        server.drain(1);
        server.records[&id].cached
    };
    assert_eq!([cached(1), cached(2), cached(1)], [Some(0), Some(0), Some(8)]);
}

#[test]
fn the_numbers_of_a_small_day() {
    let limits = Limits { max_num_seqs: 3, ..wide() };
    let mut server = Server::new(limits, Config { capacity: 5, ..CACHED });
    let stats = |server: &Server| server.scheduler.stats();
    for (text, n) in [(1, 1), (2, 2), (3, 1)] {
        server.submit(job(text, 6, n, Some(6))).unwrap();
    }
    let waiting = stats(&server).waiting;
    assert_eq!(waiting, Load { groups: 3, sequences: 4, tokens: 18 });
    assert_eq!(stats(&server).oldest_waiting, Some(Tick(0)));

    server.step();
    let Stats { running, waiting, kv, last_step, .. } = stats(&server);
    assert_eq!(running, Load { groups: 2, sequences: 3, tokens: 21 });
    assert_eq!(waiting, Load { groups: 1, sequences: 1, tokens: 6 });
    assert_eq!((kv.used, kv.free, last_step), (4, 1, Some(Tick(1))));

    server.drain(100);
    let Stats { running, waiting, oldest_waiting, totals, .. } = stats(&server);
    assert_eq!((running, waiting, oldest_waiting), (Load::default(), Load::default(), None));
    expect![[r#"
        Totals {
            steps: 15,
            submitted: 3,
            ended: 3,
            failed: 0,
            aborted: 0,
            preemptions: 2,
            swap_preemptions: 0,
            swap_refusals: 0,
            lost_slots: 0,
            prompt_tokens: 18,
            generated_tokens: 24,
            computed_tokens: 47,
            queue_time: 9,
        }
    "#]]
    .assert_debug_eq(&totals);
}

#[test]
fn a_scheduler_that_is_dropped_gives_its_tables_back() {
    let mut server = Server::new(wide(), CACHED);
    for n in [1, 2, 3] {
        server.submit(job(4, 6, n, Some(6))).unwrap();
    }
    server.step();
    // A table that still holds blocks panics when it is dropped.
    assert!(server.scheduler.stats().kv.used > 0);
    drop(server);
}

#[test]
fn samples_that_were_preempted_find_their_own_tails_in_the_prefix_cache() {
    // B's samples part in its second block. When they come back, each finds its own full blocks again.
    check(
        "cache, blocks 12; A 8+18; B 6+14 x2",
        expect![[r#"
        0   A[0..8]*  B.0[0..6]*2                       | free 8
        1   A[8..9]*  B.0[6..7]*  B.1[6..7]*            | copies 1; free 6
        2   A[9..10]*  B.0[7..8]*  B.1[7..8]*           | free 6
        3   A[10..11]*  B.0[8..9]*  B.1[8..9]*          | free 4
        4   A[11..12]*  B.0[9..10]*  B.1[9..10]*        | free 4
        5   A[12..13]*  B.0[10..11]*  B.1[10..11]*      | free 3
        6   A[13..14]*  B.0[11..12]*  B.1[11..12]*      | free 3
        7   A[14..15]*  B.0[12..13]*  B.1[12..13]*      | free 1
        8   A[15..16]*  B.0[13..14]*  B.1[13..14]*      | free 1
        9   A[16..17]*  B.0[14..15]*  B.1[14..15]*      | free 0
        10  A[17..18]*  B.0[15..16]*  B.1[15..16]*      | free 0
        11  A[18..19]*                                  | preempts B; waiting B; free 7
        12  A[19..20]*                                  | waiting B; free 7
        13  A[20..21]*                                  | waiting B; free 6
        14  A[21..22]*                                  | waiting B; free 6
        15  A[22..23]*                                  | waiting B; free 6
        16  A[23..24]*                                  | waiting B; free 6
        17  A[24..25]*                                  | waiting B; ends A; free 12
        18  B.0[5..6]                                   | copies 1; free 7
        19  B.0[6..17]*  B.1[16..17]*                   | free 3
        20  B.0[17..18]*  B.1[17..18]*                  | free 3
        21  B.0[18..19]*  B.1[18..19]*                  | ends B; free 12
    "#]],
    );
}

#[test]
fn nobody_starts_in_the_room_that_the_running_are_about_to_take() {
    let config = Config { capacity: 6, ..CACHED };
    let run = |headroom| {
        let mode = PreemptionMode::Recompute;
        let mut server = Server::with_headroom(wide(), config, 0, mode, headroom);
        for (text, prompt, output) in [(1, 8, 12), (2, 4, 1), (3, 8, 12)] {
            server.submit(job(text, prompt, 1, Some(output))).unwrap();
        }
        server.step();
        let after_a_step = server.scheduler.stats().running.groups;
        server.drain(100);
        (after_a_step, server.scheduler.stats().totals.preemptions)
    };
    // Two blocks, one and two fit, but the first and the third request need five each in the end. The second one ends at once.
    assert_eq!(run(0), (2, 1));
    assert_eq!(run(8), (1, 0));
}
