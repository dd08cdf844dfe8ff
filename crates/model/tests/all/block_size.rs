//! The choice of a block size, on made-up measurements and counted waste; the measurement itself only has to work.

use folio_model::block_size::{CANDIDATES, Lengths, Measured, Trial, choose, mean_context};
use folio_model::{Isa, KvDtype};
use proptest::prelude::*;

use crate::driver::open;
use crate::golden::zoo;

fn measured(nanos: [f64; 5]) -> Vec<Measured> {
    CANDIDATES
        .into_iter()
        .zip(nanos)
        .map(|(block_size, nanos)| Measured { block_size, nanos })
        .collect()
}

#[test]
fn equal_speed_takes_the_smallest_and_speed_outweighs_waste() {
    let chosen = |nanos, lengths| choose(&measured(nanos), &[lengths]).1;
    assert_eq!(chosen([1000.0; 5], Lengths::SHAREGPT), Some(8));
    assert_eq!(chosen([2000.0, 1500.0, 1000.0, 990.0, 980.0], Lengths::SHAREGPT), Some(32));
    // Blocks of 128 are mostly empty when requests are short, and hardly when they are long.
    let nanos = [1300.0, 1250.0, 1200.0, 1150.0, 1000.0];
    assert_eq!(chosen(nanos, Lengths { prompt: 10, output: 20 }), Some(8));
    assert_eq!(chosen(nanos, Lengths { prompt: 8000, output: 1000 }), Some(128));
}

#[test]
fn without_measurements_or_lengths_nothing_breaks() {
    assert_eq!(choose(&[], &[Lengths::SHAREGPT]), (Vec::new(), None));
    let (candidates, chosen) = choose(&measured([5.0, 4.0, 3.0, 2.0, 1.0]), &[]);
    assert_eq!(chosen, Some(128));
    assert!(candidates.iter().all(|candidate| candidate.waste == 0.0));
    assert_eq!(mean_context(&[]), 1);
}

proptest! {
    #[test]
    fn waste_and_context_are_what_counting_finds(
        lengths in prop::collection::vec((0..400_u32, 0..300_u32), 1..5),
        block_size in 1..200_usize,
    ) {
        let (mut used, mut wasted, mut tokens) = (0, 0, 0);
        for &(prompt, output) in &lengths {
            for length in prompt as usize + 1..=(prompt + output) as usize {
                used += length;
                wasted += length.next_multiple_of(block_size) - length;
                tokens += 1;
            }
        }
        let expected: Vec<Lengths> =
            lengths.into_iter().map(|(prompt, output)| Lengths { prompt, output }).collect();
        let (candidates, _) = choose(&[Measured { block_size, nanos: 1.0 }], &expected);
        let share = if used == 0 { 0.0 } else { wasted as f64 / used as f64 };
        prop_assert!((candidates[0].waste - share).abs() < 1e-12);
        prop_assert_eq!(mean_context(&expected), (used / tokens.max(1)).max(1));
    }
}

#[test]
fn every_candidate_is_measured() {
    let checkpoint = open(&zoo("gemma2"));
    let spec = checkpoint.spec();
    for context in [1, 330, usize::MAX] {
        let trial =
            Trial { spec, kv_dtype: KvDtype::Bf16, threads: 2, isa: Isa::detect(), context };
        let measured = trial.run().unwrap();
        let sizes: Vec<usize> = measured.iter().map(|m| m.block_size).collect();
        assert_eq!(sizes, CANDIDATES);
        assert!(measured.iter().all(|m| m.nanos > 0.0));
    }
}
