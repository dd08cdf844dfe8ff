//! Normalisation, alone and fused with the residual stream.

use folio_kernels::{Norm, ViewMut, head_norm, norm, norm_add};

use crate::common::{Random, alone, assert_close, assert_same_bits, same_everywhere};

/// One row in f64.
fn naive(spec: &Norm<'_>, x: &[f32]) -> Vec<f64> {
    let n = f64::from(u32::try_from(x.len()).unwrap());
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    match spec {
        Norm::Rms { weight, offset, eps } => {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / n;
            let factor = 1.0 / (mean + f64::from(*eps)).sqrt();
            x.iter().zip(*weight).map(|(x, w)| x * factor * f64::from(offset + w)).collect()
        }
        Norm::Layer { weight, bias, eps } => {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            let factor = 1.0 / (variance + f64::from(*eps)).sqrt();
            let bias = |i: usize| bias.map_or(0.0, |b| f64::from(b[i]));
            let weigh =
                |(i, x): (usize, &f64)| (x - mean) * factor * f64::from(weight[i]) + bias(i);
            x.iter().enumerate().map(weigh).collect()
        }
    }
}

/// Calls `f` with both kinds of norm of a width.
fn each_kind(random: &mut Random, width: usize, mut f: impl FnMut(&Norm<'_>)) {
    let (weight, bias) = (random.numbers(width), random.numbers(width));
    f(&Norm::Rms { weight: &weight, offset: 0.0, eps: 1e-5 });
    f(&Norm::Rms { weight: &weight, offset: 1.0, eps: 1e-6 });
    f(&Norm::Layer { weight: &weight, bias: Some(&bias), eps: 1e-5 });
    f(&Norm::Layer { weight: &weight, bias: None, eps: 1e-5 });
}

#[test]
fn norms_are_right_and_the_same_everywhere() {
    let mut random = Random(1);
    for width in [1, 15, 16, 63, 64, 200, 2048] {
        for rows in [1, 3, 30] {
            let x: Vec<f32> = random.numbers(rows * width).iter().map(|x| 3.0 * x + 0.5).collect();
            let delta = random.numbers(rows * width);
            each_kind(&mut random, width, |spec| {
                let expected: Vec<f64> =
                    x.chunks_exact(width).flat_map(|x| naive(spec, x)).collect();
                let plain = same_everywhere(|ctx| {
                    let mut out = vec![f32::NAN; x.len()];
                    norm(ctx, spec, &x, &mut out);
                    out
                });
                assert_close(&expected, &plain, 3e-6, 1e-6, &format!("{spec:?}"));

                let after = same_everywhere(|ctx| {
                    let mut residual = delta.clone();
                    norm_add(ctx, spec, &x, &mut residual);
                    residual
                });
                let sum: Vec<f32> = delta.iter().zip(&plain).map(|(d, n)| d + n).collect();
                assert_same_bits(&sum, &after, "residual += norm(x)");
            });
        }
    }
}

#[test]
fn heads_are_normalised_each_for_itself() {
    let mut random = Random(2);
    let (rows, stride, heads, dim) = (40, 150, 5, 24);
    let x = random.numbers(rows * stride);
    each_kind(&mut random, dim, |spec| {
        let got = same_everywhere(|ctx| {
            let mut y = x.clone();
            head_norm(ctx, spec, ViewMut::new(&mut y, stride, 7..7 + heads * dim));
            y
        });
        let mut expected = x.clone();
        for row in expected.chunks_exact_mut(stride) {
            for head in row[7..7 + heads * dim].chunks_exact_mut(dim) {
                let before = head.to_vec();
                norm(&alone(), spec, &before, head);
            }
        }
        assert_same_bits(&expected, &got, "heads");
    });
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let mut random = Random(3);
    let (rows, width) = (40, 777);
    let x = random.numbers(rows * width);
    each_kind(&mut random, width, |spec| {
        let together = same_everywhere(|ctx| {
            let mut out = vec![0.0; x.len()];
            norm(ctx, spec, &x, &mut out);
            out
        });
        let mut one_by_one = vec![0.0; x.len()];
        for (x, out) in x.chunks_exact(width).zip(one_by_one.chunks_exact_mut(width)) {
            norm(&alone(), spec, x, out);
        }
        assert_same_bits(&one_by_one, &together, "rows");
    });
}
