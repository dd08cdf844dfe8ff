//! What a request is told: how its tokens are drawn, why its sequences end, which prompt tokens were scored.

use folio_core::event::{EventKind, FinishReason};
use folio_core::exec::Score;
use folio_core::ids::Token;
use folio_core::kv::Config;
use folio_core::schedule::{Job, Limits};

use super::scenario::CACHED;
use super::server::{Output, Server, alone, job, text_of, wide};

/// What the only choice of `job` generates.
fn output(job: Job) -> Output {
    alone(job, 96).choices.remove(&0).unwrap()
}

#[test]
fn a_sequence_ends_at_the_first_token_that_ends_it() {
    let free = output(job(5, 6, 1, Some(12)));
    assert_eq!((free.tokens.len(), free.finish), (12, Some(FinishReason::Length)));
    let third = free.tokens[2];
    assert!(!free.tokens[..2].contains(&third));

    let ends = |eos: &[Token], stop: &[Token], max_tokens: u32| {
        let mut job = job(5, 6, 1, Some(max_tokens));
        job.params.eos = eos.to_vec();
        job.params.stop_tokens = stop.to_vec();
        let output = output(job);
        assert!(free.tokens.starts_with(&output.tokens));
        (output.tokens.len(), output.finish.unwrap())
    };
    assert_eq!(ends(&[third], &[], 12), (3, FinishReason::Stop(None)));
    assert_eq!(ends(&[], &[Token(0), third], 12), (3, FinishReason::Stop(Some(third))));
    // When several reasons meet, the model's own end is told, then the caller's, then the length.
    assert_eq!(ends(&[third], &[third], 3), (3, FinishReason::Stop(None)));
    assert_eq!(ends(&[], &[third], 3), (3, FinishReason::Stop(Some(third))));
    assert_eq!(ends(&[third], &[third], 2), (2, FinishReason::Length));
}

#[test]
fn samples_draw_each_by_their_own_choice() {
    let mut server = Server::new(wide(), CACHED);
    let mut job = job(8, 5, 3, Some(4));
    job.params.sampling.presence_penalty = 0.5;
    let id = server.submit(job.clone()).unwrap();
    for step in 0..4 {
        server.schedule();
        assert_eq!(server.plan.samplings, [job.params.sampling.clone()]);
        assert_eq!(server.plan.draws.len(), 3);
        for (draw, choice) in server.plan.draws.iter().zip(0..) {
            assert_eq!((draw.choice, draw.position), (choice, 5 + step));
            assert_eq!(draw.seq.0, u64::from(choice));
            let (prompt, output) =
                server.plan.history[draw.history.clone()].split_at(draw.history_prompt);
            let known = server.records[&id].choices.get(&choice);
            assert_eq!(prompt, text_of(8, 5));
            assert_eq!(output, known.map_or(&[][..], |known| &known.tokens));
        }
        server.execute();
        server.commit();
    }
    let record = &server.records[&id];
    assert_eq!(record.preemptions, Some(0));
    assert_ne!(record.choices[&0].tokens, record.choices[&1].tokens);
    assert_ne!(record.choices[&1].tokens, record.choices[&2].tokens);
}

#[test]
fn history_is_left_out_where_nothing_is_penalised() {
    let mut server = Server::new(wide(), CACHED);
    server.submit(job(8, 5, 1, Some(2))).unwrap();
    server.schedule();
    assert!(server.plan.history.is_empty());
    assert_eq!(
        (server.plan.draws[0].history.clone(), server.plan.draws[0].history_prompt),
        (0..0, 0)
    );
}

#[test]
fn every_prompt_token_but_the_first_is_scored_once_and_in_order() {
    // The second request computes its prompt in chunks and is preempted in the middle of it.
    let limits = Limits { max_num_batched_tokens: 4, ..wide() };
    let mut server = Server::new(limits, Config { capacity: 5, ..CACHED });
    let first = server.submit(job(1, 3, 1, Some(8))).unwrap();
    let mut scored = job(2, 14, 1, Some(2));
    scored.params.prompt_logprobs = Some(3);
    let second = server.submit(scored.clone()).unwrap();
    let mut parts = Vec::new();
    while server.step() {
        for event in &server.events {
            if let EventKind::PromptScored(scores) = &event.kind {
                assert_eq!(event.group, second);
                parts.push(scores.len());
            }
        }
    }
    assert_eq!(server.records[&first].preemptions, Some(0));
    assert_eq!(server.records[&second].preemptions, Some(1));
    // What was scored before the preemption is computed again (4 tokens) and not reported again.
    assert_eq!(parts, [1, 3, 4, 4, 1]);
    let got = &server.records[&second].prompt_scores;
    assert!(got.iter().all(|score: &Score| score.top.len() == 3));
    assert_eq!(*got, alone(scored, 96).prompt_scores);
}

#[test]
fn a_prompt_of_one_token_has_no_scores() {
    let mut job = job(3, 1, 2, Some(1));
    job.params.prompt_logprobs = Some(1);
    job.params.sampling.logprobs = Some(2);
    let record = alone(job, 96);
    assert!(record.prompt_scores.is_empty());
    for (choice, output) in &record.choices {
        let [score] = &output.scores[..] else { panic!("choice {choice}: one token, one score") };
        assert_eq!((output.tokens.len(), score.top.len()), (1, 2));
    }
}
