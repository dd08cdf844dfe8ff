//! Same request, same bits: whatever the block size, the chunks, the neighbours, the blocks' places and the threads.

use folio_core::exec::{Executor, StepOutput};
use folio_core::ids::{BlockId, SeqId, Token};
use folio_core::params::Requested;
use folio_core::plan::{CacheOp, Draw, Row, StepPlan};
use folio_model::{Dtype, MemoryPlan};

use crate::driver::{Driver, Job, Outcome, Random, Setup, cpu_runner, greedy, open, sampling};
use crate::golden::zoo;

/// Prompts of many lengths, greedy and sampled with every parameter.
fn jobs(vocab: usize) -> Vec<Job> {
    let mut random = Random(3);
    let lengths = [1, 2, 15, 16, 17, 40, 75];
    let samplings = [
        greedy(),
        sampling(&Requested { temperature: Some(0.8), seed: Some(5), ..Requested::default() }),
        sampling(&Requested {
            temperature: Some(1.3),
            top_p: Some(0.9),
            top_k: Some(40),
            seed: Some(6),
            logprobs: Some(3),
            ..Requested::default()
        }),
        sampling(&Requested {
            min_p: Some(0.05),
            repetition_penalty: Some(1.2),
            presence_penalty: Some(0.3),
            frequency_penalty: Some(0.2),
            logit_bias: vec![(7, 4.0), (9, -50.0)],
            seed: Some(7),
            ..Requested::default()
        }),
    ];
    lengths
        .iter()
        .enumerate()
        .map(|(number, &length)| Job {
            prompt: (0..length).map(|_| u32::try_from(random.below(vocab)).unwrap()).collect(),
            new_tokens: 10,
            sampling: samplings[number % samplings.len()].clone(),
            score_prompt: number % 2 == 0,
        })
        .collect()
}

fn outcomes(family: &str, setup: &Setup, seed: u64) -> Vec<Outcome> {
    let checkpoint = open(&zoo(family));
    let (mut runner, plan) = cpu_runner(&checkpoint, setup);
    Driver::new(&mut runner, &plan, seed).run(&jobs(checkpoint.spec().vocab), setup)
}

fn check(family: &str, setups: &[Setup]) {
    let alone = outcomes(family, &setups[0], 1);
    for (seed, setup) in (2..).zip(&setups[1..]) {
        let other = outcomes(family, setup, seed);
        assert_eq!(alone, other, "{family}: {:?} and {setup:?} differ", setups[0]);
    }
}

/// One sequence at a time in whole prompts, and then everything else.
fn setups(dtype: Option<Dtype>) -> Vec<Setup> {
    let base = Setup { dtype, ..Setup::default() };
    vec![
        base,
        Setup { block_size: 1, chunk: 7, together: 3, ..base },
        Setup { block_size: 8, chunk: 1, together: 7, threads: 2, ..base },
        Setup { block_size: 16, together: 7, batched_tokens: 40, ..base },
        Setup { block_size: 256, chunk: 7, together: 7, threads: 2, batched_tokens: 20, ..base },
    ]
}

#[test]
fn grouped_queries_and_rotation() {
    check("llama3-ropescaled", &setups(None));
}

#[test]
fn windows_caps_and_post_norms_in_half_precision() {
    check("gemma2", &setups(Some(Dtype::Bf16)));
}

#[test]
fn learned_positions_and_transposed_weights_in_half_precision() {
    check("gpt2", &setups(Some(Dtype::F16)));
}

#[test]
fn halves_side_by_side() {
    check("gpt-neox", &setups(None)[..3]);
}

/// A row over `tokens` from `start`, with one greedy draw.
pub(crate) fn single_row(tokens: &[u32], start: usize, blocks: &[BlockId]) -> StepPlan {
    StepPlan {
        rows: vec![Row {
            seq: SeqId(1),
            start: u32::try_from(start).unwrap(),
            tokens: 0..tokens.len(),
            blocks: 0..blocks.len(),
            draws: 0..1,
            targets: 0..0,
            first_target: 0,
            target_alternatives: 0,
        }],
        tokens: tokens.iter().map(|&t| Token(t)).collect(),
        blocks: blocks.to_vec(),
        draws: vec![Draw {
            seq: SeqId(1),
            choice: 0,
            position: u32::try_from(start + tokens.len()).unwrap(),
            sampling: 0,
            history: 0..0,
            history_prompt: 0,
            banned: 0..0,
            mask: 0..0,
        }],
        samplings: vec![greedy()],
        ..StepPlan::default()
    }
}

pub(crate) fn execute(executor: &mut dyn Executor, plan: &StepPlan) -> StepOutput {
    let mut out = StepOutput::default();
    executor.execute(plan, &mut out).unwrap();
    out
}

#[test]
fn copied_blocks_hold_what_their_sources_held_in_the_order_of_the_plan() {
    let setup = Setup { block_size: 4, ..Setup::default() };
    let (mut runner, _) = cpu_runner(&open(&zoo("qwen3")), &setup);
    let [a, b, c, d] = [3, 9, 5, 11].map(BlockId);
    execute(&mut runner, &single_row(&[5, 6, 7, 8, 9, 10], 0, &[a, b]));
    let original = execute(&mut runner, &single_row(&[11], 6, &[a, b]));
    // The first copy of `a` is copied on before it is overwritten.
    let mut moved = single_row(&[11], 6, &[d, c]);
    moved.ops = vec![
        CacheOp::Copy { source: a, destination: c },
        CacheOp::Copy { source: c, destination: d },
        CacheOp::Copy { source: b, destination: c },
    ];
    let copied = execute(&mut runner, &moved);
    assert_eq!(original.draws, copied.draws);
    // And the copy is private: writing into it leaves the original alone.
    execute(&mut runner, &single_row(&[99, 98, 97], 4, &[d, c]));
    assert_eq!(original.draws, execute(&mut runner, &single_row(&[11], 6, &[a, b])).draws);
}

#[test]
fn many_scores_and_draws_of_one_row_are_worked_off_in_slices() {
    // More rows of logits than are made at once, and several choices of one row.
    let folder = zoo("llama3-ropescaled");
    let setup = Setup::default();
    let prompt: Vec<u32> = (0..200).map(|i| (i * 7 + 3) % 512).collect();
    let (mut runner, plan) = cpu_runner(&open(&folder), &setup);
    let whole = score(&mut runner, &plan, &prompt, &setup);
    let (mut runner, plan) = cpu_runner(&open(&folder), &setup);
    let bit_by_bit = score(&mut runner, &plan, &prompt, &Setup { chunk: 3, ..setup });
    assert_eq!(whole.prompt_scores.len(), 199);
    assert_eq!(whole, bit_by_bit);

    let mut shared = single_row(&prompt[..9], 0, &[BlockId(1)]);
    let sampled = sampling(&Requested { seed: Some(3), ..Requested::default() });
    shared.samplings.push(sampled);
    let template = Draw { sampling: 1, ..shared.draws[0].clone() };
    shared.draws.extend((1..40).map(|choice| Draw { choice, ..template.clone() }));
    shared.rows[0].draws = 0..40;
    let together = execute(&mut runner, &shared);
    assert_eq!(together.draws.len(), 40);
    for choice in [0, 1, 20, 39] {
        let mut alone = shared.clone();
        alone.draws = vec![shared.draws[choice].clone()];
        alone.rows[0].draws = 0..1;
        assert_eq!(execute(&mut runner, &alone).draws[0], together.draws[choice]);
    }
}

fn score(executor: &mut dyn Executor, plan: &MemoryPlan, prompt: &[u32], setup: &Setup) -> Outcome {
    Driver::new(executor, plan, 1).run(&[Job::greedy(prompt, 1)], setup).remove(0)
}

#[test]
fn a_plan_that_breaks_the_rules_is_refused_and_the_next_one_runs() {
    let setup = Setup { block_size: 4, batched_tokens: 64, ..Setup::default() };
    let (mut runner, memory) = cpu_runner(&open(&zoo("opt")), &setup);
    let good = single_row(&[1, 2, 3, 4, 5], 0, &[BlockId(0), BlockId(1)]);
    let expected = execute(&mut runner, &good).draws;
    let beyond = BlockId(u32::try_from(memory.blocks).unwrap());
    let breakages: &[fn(&mut StepPlan, BlockId)] = &[
        |plan, _| plan.tokens[2] = Token(512),
        |plan, beyond| plan.blocks[1] = beyond,
        |plan, beyond| plan.ops.push(CacheOp::Copy { source: BlockId(0), destination: beyond }),
        |plan, _| plan.rows[0].blocks = 0..1,
        |plan, _| plan.rows[0].blocks = 0..9,
        |plan, _| plan.rows[0].tokens = 0..9,
        |plan, _| plan.rows[0].tokens = 1..5,
        |plan, _| plan.rows[0].tokens = 0..0,
        |plan, _| plan.rows[0].start = u32::MAX,
        |plan, _| plan.rows[0].start = 511,
        |plan, _| plan.rows[0].draws = 0..2,
        |plan, _| plan.rows[0].draws = 0..0,
        |plan, _| plan.draws[0].sampling = 1,
        |plan, _| plan.draws[0].history = 0..1,
        |plan, _| plan.draws[0].history_prompt = 1,
        |plan, _| plan.targets.push(Token(3)),
        |plan, _| {
            plan.targets.push(Token(3));
            plan.rows[0].targets = 0..1;
            plan.rows[0].first_target = 5;
        },
        |plan, _| plan.tokens = vec![Token(1); 65],
    ];
    for (number, breakage) in breakages.iter().enumerate() {
        let mut plan = good.clone();
        breakage(&mut plan, beyond);
        let refused = runner.execute(&plan, &mut StepOutput::default());
        let sentence = refused.expect_err(&format!("breakage {number}")).0;
        assert!(sentence.starts_with("the plan cannot be executed: it has "), "{sentence}");
        assert_eq!(execute(&mut runner, &good).draws, expected);
    }
}
