//! The paper's comparison in virtual time, small: how much of the memory each policy puts to use, and what follows from it.
//!
//! OPT-13B with the 15.7 K slots of Table 1. The two overheads of the cost model are chosen so that a step of vLLM takes as
//! long as Fig. 13 implies; everything else follows.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use folio_core::schedule::PreemptionMode;
use folio_sim::cost::{Roofline, Shape, StepCost, device};
use folio_sim::memory::Policy;
use folio_sim::metrics::{Objectives, Summary};
use folio_sim::setup::Setup;
use folio_sim::workload::{Arrivals, Content, Decoding, Lengths, Recipe};

fn cost() -> Box<dyn StepCost> {
    let mut device = device("a100-40g").unwrap();
    device.step_overhead = 3e-3;
    device.request_overhead = 0.31e-3;
    Box::new(Roofline { shape: Shape::opt_13b(), device, devices: 1, block_size: 16 })
}

fn setup(policy: Policy) -> Setup {
    Setup {
        policy,
        block_size: 16,
        blocks: 983,
        swap_blocks: 0,
        preemption: PreemptionMode::Recompute,
        prefix_caching: false,
        max_model_len: 2048,
        max_num_seqs: 256,
        max_num_batched_tokens: 2560,
    }
}

fn recipe(lengths: Lengths, rate: f64, decoding: Decoding, count: usize) -> Recipe {
    let arrivals = Arrivals::Poisson { rate };
    Recipe { count, arrivals, lengths, content: Content::Plain, decoding, seed: 0 }
}

fn play(policy: Policy, recipe: &Recipe) -> Summary {
    let played = setup(policy).play(cost(), &recipe.generate(), &mut |_| ()).unwrap();
    Summary::new(&played, &Objectives::default())
}

/// `value` is what the paper has, give or take `by` of it.
fn near(what: &str, value: f64, paper: f64, by: f64) {
    assert!((value / paper - 1.0).abs() < by, "{what}: {value:.3} where the paper has {paper}");
}

#[test]
fn a_reservation_wastes_what_the_paper_says_and_paging_less() {
    // Three requests a second are more than anybody serves, so the memory is what limits all of them.
    let recipe = recipe(Lengths::ShareGpt, 3.0, Decoding::Single, 400);
    for (policy, tokens, batched) in [
        (Policy::OrcaMax, 0.204, 7.0),
        (Policy::OrcaPow2, 0.268, 9.81),
        (Policy::OrcaOracle, 0.382, 13.62),
    ] {
        let summary = play(policy, &recipe);
        near(policy.name(), summary.kv.tokens, tokens, 0.2);
        near(policy.name(), summary.batched_requests, batched, 0.15);
        assert_eq!((summary.completed, summary.preemptions), (400, 0));
    }
    let paged = play(Policy::Paged, &recipe);
    assert!(paged.kv.tokens > 0.9, "{:?}", paged.kv);
    assert!(paged.batched_requests > 28.0, "{}", paged.batched_requests);
}

#[test]
fn samples_and_beams_share_what_the_paper_says() {
    let saved =
        |decoding| play(Policy::Paged, &recipe(Lengths::Alpaca, 4.0, decoding, 80)).saved_share;
    near("2 samples", saved(Decoding::Samples(2)), 0.0609, 0.3);
    near("6 samples", saved(Decoding::Samples(6)), 0.0979, 0.3);
    near("2 beams", saved(Decoding::Beams(2)), 0.3756, 0.1);
    near("6 beams", saved(Decoding::Beams(6)), 0.5516, 0.2);
}

#[test]
fn a_batch_that_runs_to_its_end_keeps_everybody_waiting() {
    let recipe = recipe(Lengths::Alpaca, 2.0, Decoding::Single, 60);
    let orca = play(Policy::OrcaMax, &recipe).normalized_latency;
    let fixed = play(Policy::Static, &recipe).normalized_latency;
    assert!(fixed > 2.0 * orca, "{fixed} {orca}");
}
