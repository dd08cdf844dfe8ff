//! What sampling needs of a row of logits.

use folio_kernels::{Isa, all_finite, argmax, exp_in_place, log_sum_exp, max};

use crate::common::{Random, wide};

#[test]
fn the_largest_is_found_the_first_of_equals_and_never_nan() {
    let mut random = Random(1);
    for length in [1, 2, 15, 16, 17, 100, 1000] {
        let mut row = random.numbers(length);
        let at = random.below(length);
        row[at] = 2.0;
        for later in [at + 1, at + 16] {
            if later < length {
                row[later] = 2.0;
            }
        }
        for isa in Isa::all_available() {
            assert_eq!((argmax(isa, &row), max(isa, &row)), (at, 2.0), "{isa} {length}");
            for nan in 0..length.min(40) {
                let mut holed = row.clone();
                holed[nan] = f32::NAN;
                let best = argmax(isa, &holed);
                assert!(length == 1 || !holed[best].is_nan(), "{isa} {length} {nan}");
                assert!(!all_finite(isa, &holed));
            }
            assert!(all_finite(isa, &row));
        }
    }
    let isa = Isa::detect();
    assert_eq!(argmax(isa, &[f32::NEG_INFINITY; 20]), 0);
    assert_eq!(max(isa, &[]), f32::NEG_INFINITY);
    assert!(!all_finite(isa, &[0.0, f32::NEG_INFINITY]));
}

#[test]
fn probabilities_sum_up_and_are_the_same_everywhere() {
    let mut random = Random(2);
    for length in [1, 15, 16, 33, 5000] {
        let row: Vec<f32> = random.numbers(length).iter().map(|x| x * 30.0).collect();
        let expected = wide(&row).iter().map(|x| x.exp()).sum::<f64>().ln();
        let all = Isa::all_available();
        let first = log_sum_exp(all[0], &row);
        assert!((f64::from(first) - expected).abs() <= 4e-6, "{first} instead of {expected}");
        let weigh = |isa: Isa| {
            let mut weights = row.clone();
            let sum = exp_in_place(isa, max(isa, &row), &mut weights);
            weights.push(sum);
            weights
        };
        for isa in &all {
            assert_eq!(log_sum_exp(*isa, &row).to_bits(), first.to_bits(), "{isa}");
            crate::common::assert_same_bits(&weigh(all[0]), &weigh(*isa), isa.name());
        }
        let weights = weigh(all[0]);
        let total: f64 = wide(&weights[..length]).iter().sum();
        assert!((f64::from(weights[length]) / total - 1.0).abs() < 1e-6);
        for (logit, weight) in row.iter().zip(&weights) {
            let probability = f64::from(*weight) / total;
            let expected = (f64::from(*logit) - expected).exp();
            assert!((probability - expected).abs() <= 1e-6, "{probability} instead of {expected}");
        }
    }
}
