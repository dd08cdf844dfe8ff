//! Activations, soft-caps, sums, rotary embedding.

use folio_kernels::{Activation, Rope, RopeStyle, ViewMut, add, rope, scale, softcap};

use crate::common::{
    Random, activate, alone, assert_close, assert_same_bits, same_everywhere, wide,
};

/// The error function, by its Taylor series or its continued fraction.
fn erf64(x: f64) -> f64 {
    let t = x.abs();
    if t > 6.0 {
        return x.signum();
    }
    let value = if t < 2.5 {
        let (mut term, mut sum, mut n) = (t, t, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -t * t / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=120).rev().fold(t, |f, k| t + f64::from(k) / 2.0 / f);
        1.0 - (-t * t).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

pub(crate) fn activation64(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x / 2.0 * (1.0 + erf64(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            x / 2.0 * (1.0 + u.tanh())
        }
        Activation::Relu => x.max(0.0),
    }
}

const ALL: [Activation; 4] =
    [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];

#[test]
fn activations_are_within_a_millionth() {
    // From -100 to 100, dense around zero; long enough to be shared among threads.
    let x: Vec<f32> = (-20_000i16..=20_000).map(|i| f32::from(i) / 2000.0).collect();
    let x: Vec<f32> = x.iter().flat_map(|x| [*x, x * x.abs()]).collect();
    for activation in ALL {
        let y = same_everywhere(|ctx| {
            let mut y = x.clone();
            activate(ctx, activation, &mut y);
            y
        });
        let expected: Vec<f64> = wide(&x).iter().map(|x| activation64(activation, *x)).collect();
        assert_close(&expected, &y, 1e-6, 2e-7, &format!("{activation:?}"));
    }
}

#[test]
fn activations_keep_nan_and_survive_extremes() {
    for activation in ALL {
        let y = same_everywhere(|ctx| {
            let mut y = vec![f32::MAX, f32::MIN, 1e10, -1e10, 0.0, -0.0];
            activate(ctx, activation, &mut y);
            y
        });
        assert_eq!(y[0], f32::MAX, "{activation:?}");
        assert_eq!(y[1..2], [0.0], "{activation:?}");
        assert_eq!(y[2..4], [1e10, 0.0], "{activation:?}");
        let mut nan = [f32::NAN; 3];
        activate(&alone(), activation, &mut nan);
        assert!(nan.iter().all(|x| x.is_nan()), "{activation:?}");
    }
}

#[test]
fn softcap_scale_and_add_do_what_they_say() {
    let mut random = Random(2);
    for length in [1, 15, 16, 50, 40_000] {
        let x: Vec<f32> = random.numbers(length).iter().map(|x| x * 300.0).collect();
        let delta = random.numbers(length);
        let capped = same_everywhere(|ctx| {
            let mut y = x.clone();
            softcap(ctx, 30.0, &mut y);
            y
        });
        let expected: Vec<f64> = wide(&x).iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
        assert_close(&expected, &capped, 0.0, 5e-7, "soft-cap");
        let moved = same_everywhere(|ctx| {
            let mut y = x.clone();
            scale(ctx, 0.37, &mut y);
            add(ctx, &delta, &mut y);
            y
        });
        let expected: Vec<f32> = x.iter().zip(&delta).map(|(x, d)| 0.37 * x + d).collect();
        assert_same_bits(&expected, &moved, "scaled and added");
    }
}

#[test]
fn rotations_are_right_in_both_styles_and_leave_the_rest_alone() {
    let mut random = Random(3);
    let (stride, heads, head_dim) = (100, 3, 24);
    for rows in [1, 5, 300] {
        for dims in [2, 8, 24] {
            let half = dims / 2;
            let angles: Vec<f64> =
                (0..64 * half).map(|_| f64::from(random.number()) * 3.0).collect();
            #[expect(clippy::cast_possible_truncation, reason = "tables are f32")]
            let table =
                |f: fn(f64) -> f64| angles.iter().map(|a| f(*a) as f32).collect::<Vec<f32>>();
            let (cos, sin) = (table(f64::cos), table(f64::sin));
            let positions: Vec<u32> =
                (0..rows).map(|_| u32::try_from(random.below(64)).unwrap()).collect();
            let x = random.numbers(rows * stride);
            for style in [RopeStyle::Half, RopeStyle::Interleaved] {
                let got = same_everywhere(|ctx| {
                    let mut y = x.clone();
                    let spec = Rope { style, head_dim, dims, cos: &cos, sin: &sin };
                    rope(
                        ctx,
                        &spec,
                        &positions,
                        ViewMut::new(&mut y, stride, 10..10 + heads * head_dim),
                    );
                    y
                });
                let mut expected = wide(&x);
                for row in 0..rows {
                    for head in 0..heads {
                        let at = row * stride + 10 + head * head_dim;
                        for i in 0..half {
                            let (a, b) = match style {
                                RopeStyle::Half => (at + i, at + i + half),
                                RopeStyle::Interleaved => (at + 2 * i, at + 2 * i + 1),
                            };
                            let (sin, cos) = angles[positions[row] as usize * half + i].sin_cos();
                            (expected[a], expected[b]) = (
                                expected[a] * cos - expected[b] * sin,
                                expected[b] * cos + expected[a] * sin,
                            );
                        }
                    }
                }
                assert_close(&expected, &got, 5e-7, 0.0, &format!("{style:?} {dims}"));
            }
        }
    }
}

#[test]
#[should_panic(expected = "beyond the 4 of the rotary tables")]
fn a_position_beyond_the_tables_is_refused() {
    let table = [0.0; 4];
    let spec = Rope { style: RopeStyle::Half, head_dim: 2, dims: 2, cos: &table, sin: &table };
    rope(&alone(), &spec, &[4], ViewMut::dense(&mut [0.0; 2], 2));
}
