//! Choosing tokens: against a plain reference that sorts everything, against frequencies, and at the extremes.

use folio_core::exec::DrawFault;
use folio_core::ids::Token;
use folio_core::params::{Requested, Sampling};
use folio_core::plan::allows;
use folio_model::Isa;
use folio_model::sample::{DrawInput, SampleWork, draw, score};
use proptest::prelude::*;

use crate::driver::{Random, sampling};

fn input(sampling: &Sampling) -> DrawInput<'_> {
    let (history, banned, mask) = (&[][..], &[][..], &[][..]);
    DrawInput { sampling, choice: 0, position: 0, history, history_prompt: 0, banned, mask }
}

fn choose(row: &[f32], input: &DrawInput<'_>) -> u32 {
    draw(Isa::detect(), row, input, &mut SampleWork::default()).unwrap().token.0
}

fn asked(change: impl FnOnce(&mut Requested)) -> Sampling {
    let mut requested = Requested { seed: Some(1), ..Requested::default() };
    change(&mut requested);
    sampling(&requested)
}

/// The probability of every token, by the definitions, in f64.
fn probabilities(row: &[f32], input: &DrawInput<'_>) -> Vec<f64> {
    let s = input.sampling;
    let mut logits: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    for &(token, bias) in &s.logit_bias {
        logits[token.index()] += f64::from(bias);
    }
    for (id, logit) in (0..).zip(&mut logits) {
        let seen = input.history.contains(&Token(id));
        let output = &input.history[input.history_prompt..];
        let times = output.iter().filter(|t| t.0 == id).count();
        let repetition = f64::from(s.repetition_penalty);
        if seen {
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        }
        if times > 0 {
            *logit -= f64::from(s.frequency_penalty) * times as f64 + f64::from(s.presence_penalty);
        }
    }
    let peak = logits.iter().copied().fold(f64::MIN, f64::max);
    let weight = |logit: f64| ((logit - peak) / f64::from(s.temperature)).exp();
    let mut ranked: Vec<(usize, f64)> = logits.iter().map(|&l| weight(l)).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.retain(|&(_, w)| w >= f64::from(s.min_p));
    if s.top_k > 0 {
        ranked.truncate(s.top_k as usize);
    }
    let total: f64 = ranked.iter().map(|r| r.1).sum();
    let mut passed = 0.0;
    let kept = ranked.iter().take_while(|(_, w)| {
        let more = passed < f64::from(s.top_p) * total;
        passed += w;
        more
    });
    let kept: Vec<_> = kept.copied().collect();
    let total: f64 = kept.iter().map(|r| r.1).sum();
    let mut result = vec![0.0; row.len()];
    for (id, weight) in kept {
        result[id] = weight / total;
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Every draw is possible, and the frequencies are those of the definition.
    #[test]
    fn draws_follow_the_definition(
        seed in 0..1_000_000_u64, vocab in 2..24_usize, temperature in 0.2..3.0_f64,
        top_p in prop::option::of(0.05..1.0_f64), top_k in prop::option::of(1..12_i64),
        min_p in prop::option::of(0.0..0.5_f64), repetition in 0.5..2.0_f64,
        presence in -1.0..1.0_f64, frequency in -0.5..0.5_f64,
    ) {
        let mut random = Random(seed);
        let row: Vec<f32> = (0..vocab).map(|_| 3.0 * random.float()).collect();
        let history: Vec<Token> =
            (0..12).map(|_| Token(u32::try_from(random.below(vocab + 2)).unwrap())).collect();
        let sampling = asked(|r| {
            r.temperature = Some(temperature);
            r.top_p = top_p;
            r.top_k = top_k;
            r.min_p = min_p;
            r.repetition_penalty = Some(repetition);
            r.presence_penalty = Some(presence);
            r.frequency_penalty = Some(frequency);
            r.logit_bias = vec![(0, 0.7), (1, -0.4)];
            r.seed = Some(i64::try_from(seed).unwrap());
        });
        const DRAWS: u32 = 3000;
        let mut counts = vec![0.0; vocab];
        let mut work = SampleWork::default();
        let base = DrawInput { history: &history, history_prompt: 5, ..input(&sampling) };
        for position in 0..DRAWS {
            let input = DrawInput { position, ..base };
            let drawn = draw(Isa::detect(), &row, &input, &mut work).unwrap();
            counts[drawn.token.index()] += 1.0;
        }
        let mut surprise = 0.0;
        let mut cells = 0;
        for (count, p) in counts.iter().zip(probabilities(&row, &base)) {
            let expected = p * f64::from(DRAWS);
            prop_assert!(*count == 0.0 || p > 0.0, "an impossible token was drawn");
            if expected > 5.0 {
                surprise += (count - expected).powi(2) / expected;
                cells += 1;
            }
        }
        // Mean `cells`, deviation √(2·cells): far beyond what chance gives in this fixed sequence of draws.
        let cells = f64::from(cells);
        prop_assert!(surprise < cells + 6.0 * (2.0 * cells).sqrt() + 12.0, "{surprise} over {cells}");
    }
}

/// Large vocabularies take the paths that avoid sorting; the kept set must be the same.
#[test]
fn large_vocabularies_keep_the_same_set() {
    let mut random = Random(17);
    for (spread, vocab) in [(0.001, 5000), (1.0, 5000), (6.0, 20_000), (40.0, 3000)] {
        let row: Vec<f32> = (0..vocab).map(|_| spread * random.float()).collect();
        for (top_p, top_k) in
            [(0.01, 0), (0.5, 0), (0.9, 0), (0.999, 0), (1.0, 1), (1.0, 700), (0.3, 700)]
        {
            let sampling = asked(|r| (r.top_p, r.top_k) = (Some(top_p), Some(top_k)));
            let reference = probabilities(&row, &input(&sampling));
            let kept = reference.iter().zip(&row).filter(|(p, _)| **p > 0.0);
            let least = kept.map(|(_, &logit)| logit).fold(f32::MAX, f32::min);
            for position in 0..40 {
                let token = choose(&row, &DrawInput { position, ..input(&sampling) });
                // The token at the border may fall either way by rounding; nothing clearly beyond it may.
                let logit = row[token as usize];
                assert!(logit >= least - 1e-4, "{spread} {top_p} {top_k}: {logit} and {least}");
            }
        }
    }
}

#[test]
fn greedy_and_narrow_filters_take_the_best_with_the_lowest_id() {
    let row = [0.5, 2.0, 1.0, 2.0, -1.0];
    for sampling in [
        asked(|r| r.temperature = Some(0.0)),
        asked(|r| r.temperature = Some(1e-30)),
        asked(|r| r.temperature = Some(1e-60)),
        asked(|r| r.top_k = Some(1)),
        asked(|r| r.top_p = Some(1e-9)),
    ] {
        for position in 0..50 {
            let token = choose(&row, &DrawInput { position, ..input(&sampling) });
            let tied = sampling.temperature > 0.0 && sampling.temperature < 1e-20;
            assert!(token == 1 || (tied && token == 3), "{sampling:?}: {token}");
        }
    }
    // Only ties with the best survive.
    let equal = asked(|r| r.min_p = Some(1.0));
    let seen: std::collections::BTreeSet<u32> =
        (0..50).map(|position| choose(&row, &DrawInput { position, ..input(&equal) })).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn extremes_stay_defined() {
    let wide = [f32::MAX, f32::MIN, 0.0, -1e-40, f32::MAX];
    for sampling in [
        asked(|_| ()),
        asked(|r| r.temperature = Some(100.0)),
        asked(|r| r.temperature = Some(1e-38)),
        asked(|r| (r.repetition_penalty, r.presence_penalty) = (Some(10.0), Some(-2.0))),
        asked(|r| (r.repetition_penalty, r.top_p) = (Some(1e-9), Some(0.5))),
        asked(|r| r.logit_bias = (0..5).map(|id| (id, -100.0)).collect()),
        asked(|r| (r.top_k, r.min_p) = (Some(3), Some(1e-9))),
    ] {
        let history = [0, 1, 2, 3, 4, 5, 4_000_000_000].map(Token);
        for position in 0..20 {
            let input = DrawInput { history: &history, position, ..input(&sampling) };
            assert!(choose(&wide, &input) < 5, "{sampling:?}");
            assert_eq!(choose(&[3.0], &input), 0);
        }
    }
}

#[test]
fn penalties_tell_prompt_from_output() {
    let row = [1.0, 0.9, -0.5];
    let greedy_after = |change: &dyn Fn(&mut Requested), history: &[u32], prompt: usize| {
        let sampling = asked(|r| {
            r.temperature = Some(0.0);
            change(r);
        });
        let history: Vec<Token> = history.iter().map(|&id| Token(id)).collect();
        choose(&row, &DrawInput { history: &history, history_prompt: prompt, ..input(&sampling) })
    };
    let presence = |r: &mut Requested| r.presence_penalty = Some(0.2);
    // Generated once or twice, token 0 falls behind token 1; in the prompt it does not count.
    assert_eq!(greedy_after(&presence, &[1, 0], 1), 1);
    assert_eq!(greedy_after(&presence, &[0, 0], 0), 1);
    assert_eq!(greedy_after(&presence, &[1, 0], 2), 0);
    let frequency = |r: &mut Requested| r.frequency_penalty = Some(0.08);
    assert_eq!(greedy_after(&frequency, &[0, 0], 0), 1);
    assert_eq!(greedy_after(&frequency, &[0, 0], 1), 0);
    // Repetition counts both, divides what is positive and multiplies what is negative.
    let repetition = |r: &mut Requested| r.repetition_penalty = Some(1.5);
    assert_eq!(greedy_after(&repetition, &[0], 1), 1);
    assert_eq!(greedy_after(&repetition, &[0], 0), 1);
    assert_eq!(greedy_after(&repetition, &[1], 0), 0);
    let all = [0, 1, 2].map(Token);
    let strong = asked(|r| (r.temperature, r.repetition_penalty) = (Some(0.0), Some(4.0)));
    let row = [1.0, 2.0, -0.1];
    let after = |history: &[Token]| {
        choose(&row, &DrawInput { history, history_prompt: history.len(), ..input(&strong) })
    };
    assert_eq!((after(&all), after(&all[1..2])), (1, 0));
    let negative = [-1.0, -0.9];
    let token = choose(&negative, &DrawInput { history: &all[1..2], ..input(&strong) });
    assert_eq!(token, 0);
}

#[test]
fn draws_depend_on_seed_choice_and_position_alone() {
    let row: Vec<f32> = vec![0.0; 64];
    let mut dirty = SampleWork::default();
    let mut counts = [0_u32; 64];
    let mut all = std::collections::BTreeSet::new();
    for seed in 0..16_i64 {
        let sampling = asked(|r| r.seed = Some(seed));
        for choice in 0..16 {
            let run: Vec<u32> = (0..16)
                .map(|position| {
                    let input = DrawInput { choice, position, ..input(&sampling) };
                    let again = draw(Isa::detect(), &row, &input, &mut dirty).unwrap();
                    assert_eq!(again.token.0, choose(&row, &input));
                    again.token.0
                })
                .collect();
            run.iter().for_each(|&token| counts[token as usize] += 1);
            all.insert(run);
        }
    }
    assert_eq!(all.len(), 256, "neighbouring seeds and choices share draws");
    // 4096 draws over 64 cells: 63 degrees of freedom.
    let surprise: f64 = counts.iter().map(|&c| (f64::from(c) - 64.0).powi(2) / 64.0).sum();
    assert!((20.0..130.0).contains(&surprise), "{surprise}");
}

#[test]
fn log_probabilities_are_the_models_own() {
    let row = [1.0, 3.0, 2.0, 3.0, -4.0];
    let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
    let sampling = asked(|r| {
        r.temperature = Some(0.0);
        r.logit_bias = vec![(2, 50.0)];
        r.logprobs = Some(3);
    });
    let drawn = draw(Isa::detect(), &row, &input(&sampling), &mut SampleWork::default()).unwrap();
    assert_eq!(drawn.token, Token(2));
    let scored = drawn.score.unwrap();
    assert!((f64::from(scored.logprob) - (2.0 - total)).abs() < 1e-6);
    let ids: Vec<u32> = scored.top.iter().map(|t| t.0.0).collect();
    assert_eq!(ids, [1, 3, 2], "best first, ties by id");
    assert_eq!(scored.top[2].1, scored.logprob);
    let whole = score(Isa::detect(), &row, Token(4), 100);
    assert_eq!(whole.top.len(), 5);
    let sum: f64 = whole.top.iter().map(|t| f64::from(t.1).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    assert!(score(Isa::detect(), &row, Token(0), 0).top.is_empty());
    let quiet = asked(|r| r.logprobs = None);
    let drawn = draw(Isa::detect(), &row, &input(&quiet), &mut SampleWork::default()).unwrap();
    assert_eq!(drawn.score, None);
}

proptest! {
    #[test]
    fn alternatives_are_the_best_in_order_however_many(
        row in proptest::collection::vec((-3..4_i8).prop_map(f32::from), 1..200), count in 0..220_usize,
    ) {
        let mut ids: Vec<usize> = (0..row.len()).collect();
        ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        ids.truncate(count);
        let top = score(Isa::detect(), &row, Token(0), count).top;
        prop_assert_eq!(top.iter().map(|(token, _)| token.index()).collect::<Vec<_>>(), ids);
    }
}

#[test]
fn logits_that_are_not_finite_are_a_fault() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let row = [1.0, bad, 2.0];
        let sampling = asked(|r| r.temperature = Some(0.0));
        let result = draw(Isa::detect(), &row, &input(&sampling), &mut SampleWork::default());
        assert_eq!(result, Err(DrawFault::NotFinite));
        assert!(score(Isa::detect(), &row, Token(0), 2).logprob.is_nan());
    }
}

/// A mask chooses as a row does in which what it forbids is hopeless.
#[test]
fn a_mask_forbids_tokens_and_changes_nothing_else() {
    let mut random = Random(23);
    for vocab in [5_usize, 40, 300] {
        let row: Vec<f32> = (0..vocab).map(|_| 4.0 * random.float()).collect();
        let words = vocab.div_ceil(32);
        for (top_p, top_k) in [(1.0, 0), (0.9, 0), (0.999, 0), (1.0, 3), (0.6, 50)] {
            for temperature in [0.0, 0.7, 1.5] {
                let sampling = asked(|r| {
                    (r.top_p, r.top_k) = (Some(top_p), Some(top_k));
                    r.temperature = Some(temperature);
                });
                for position in 0..40 {
                    let bits = |_| u32::try_from(random.below(1 << 31)).unwrap();
                    let mut mask: Vec<u32> = (0..words).map(bits).collect();
                    mask[0] |= 1 << 2;
                    let allowed = |id: usize| allows(&mask, Token(u32::try_from(id).unwrap()));
                    let hopeless: Vec<f32> =
                        (0..vocab).map(|id| if allowed(id) { row[id] } else { -1e30 }).collect();
                    let input = DrawInput { position, ..input(&sampling) };
                    let token = choose(&row, &DrawInput { mask: &mask, ..input });
                    assert!(allowed(usize::try_from(token).unwrap()));
                    assert_eq!(token, choose(&hopeless, &input));
                }
            }
        }
    }
    let (row, sampling) = ([0.5; 40], asked(|_| {}));
    let nothing = DrawInput { mask: &[0], ..input(&sampling) };
    let drawn = draw(Isa::detect(), &row, &nothing, &mut SampleWork::default());
    assert_eq!(drawn, Err(DrawFault::NothingAllowed));
}

/// Whatever else is asked for, a token that is banned or not allowed is never chosen, however likely it is.
#[test]
fn banned_tokens_are_never_chosen() {
    let row: Vec<f32> = (0..40_u8).map(|id| f32::from(id) * 3.0).collect();
    let allowed = [0, 3, 38, 39];
    for sampling in [
        asked(|r| r.temperature = Some(0.0)),
        asked(|r| r.temperature = Some(100.0)),
        asked(|r| (r.temperature, r.top_k) = (Some(100.0), Some(39))),
        asked(|r| (r.temperature, r.top_p) = (Some(100.0), Some(0.99))),
        asked(|r| (r.temperature, r.min_p) = (Some(100.0), Some(0.01))),
        asked(|r| r.logit_bias = vec![(39, 100.0)]),
    ] {
        let only = Sampling {
            allowed: Some(allowed.iter().copied().map(Token).collect()),
            ..sampling.clone()
        };
        for position in 0..200 {
            let banned = [Token(39), Token(4_000_000_000)];
            let input = DrawInput { position, banned: &banned, ..input(&sampling) };
            assert_ne!(choose(&row, &input), 39, "{sampling:?}");
            let input = DrawInput { sampling: &only, ..input };
            assert!([0, 3, 38].contains(&choose(&row, &input)), "{only:?}");
        }
    }
}
