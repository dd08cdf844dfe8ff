//! The choice of a step's size, on made-up rates; the measurement itself only has to work.

use folio_kernels::WeightFormat;
use folio_model::step_tokens::{FEWEST, MOST, TARGET, Trial, choose};
use folio_model::{Dtype, Isa, Quantization};
use proptest::prelude::*;

use crate::driver::open;
use crate::golden::zoo;

#[test]
fn a_step_takes_an_eighth_of_a_second_where_that_uses_the_machine() {
    assert_eq!(choose(2500.0, 64), 256);
    assert_eq!(choose(8192.0, 64), 1024);
    // Too slow for that: what runs must get on.
    assert_eq!(choose(180.0, 16), FEWEST);
    assert_eq!(choose(180.0, 64), 128);
    assert_eq!(choose(1e9, 64), MOST);
    assert_eq!(choose(f64::NAN, 1), FEWEST);
    assert_eq!(choose(0.0, 4096), 8192);
}

proptest! {
    #[test]
    fn half_of_a_step_is_left_for_prompts_and_a_larger_one_keeps_to_the_target(
        rate in 0.0..1e6_f64, sequences in 1..5000_usize,
    ) {
        let tokens = choose(rate, sequences);
        prop_assert!(tokens >= 2 * sequences && tokens >= FEWEST);
        let least = (2 * sequences).max(FEWEST).next_power_of_two();
        prop_assert!(tokens <= least || tokens as f64 <= rate * TARGET.as_secs_f64());
        prop_assert!(tokens <= MOST.max(2 * sequences));
    }
}

#[test]
fn every_kind_of_weights_has_a_rate() {
    let checkpoint = open(&zoo("llama3-ropescaled"));
    let floats = [Dtype::F32, Dtype::F16, Dtype::Bf16].map(WeightFormat::Float);
    let quantised = [Quantization::Int8, Quantization::Int4 { group: 32 }]
        .map(|quantization| checkpoint.layer_format(None, Some(quantization)));
    assert!(matches!(quantised, [WeightFormat::Codes(_), WeightFormat::Codes(_)]));
    for format in floats.into_iter().chain(quantised) {
        let trial = Trial { spec: checkpoint.spec(), format, threads: 2, isa: Isa::detect() };
        let rate = trial.run().unwrap();
        assert!(rate.is_finite() && rate > 0.0, "{format:?}: {rate}");
    }
}
