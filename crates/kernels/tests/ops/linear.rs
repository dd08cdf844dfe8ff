//! Linear layers.

use folio_kernels::{
    Activation, Context, Dtype, Epilogue, PackedMatrix, Raw, WeightFormat, linear,
};

use crate::common::{
    DTYPES, Random, alone, assert_close, assert_same_bits, encode, floats, rounded, same_everywhere,
};
use crate::elementwise::activation64;

fn packed(
    ctx: &Context,
    dtype: Dtype,
    outputs: usize,
    inputs: usize,
    weights: &[f32],
) -> PackedMatrix {
    let mut builder = PackedMatrix::builder(&[floats(dtype, outputs)], inputs).unwrap();
    builder.fill(ctx, 0, Raw::new(dtype, &encode(dtype, weights)));
    builder.finish()
}

fn gated(ctx: &Context, dtype: Dtype, half: usize, inputs: usize, weights: &[f32]) -> PackedMatrix {
    let mut builder =
        PackedMatrix::gated_builder([WeightFormat::Float(dtype); 2], half, inputs).unwrap();
    // In two pieces, as from separate tensors.
    let bytes = encode(dtype, weights);
    let (gate, up) = bytes.split_at(bytes.len() / 2);
    builder.fill(ctx, half, Raw::new(dtype, up));
    builder.fill(ctx, 0, Raw::new(dtype, gate));
    builder.finish()
}

/// Weights in bf16 are multiplied with activations that are rounded to bf16, too; nothing else is rounded.
fn naive(
    dtype: Dtype,
    x: &[f32],
    weights: &[f32],
    inputs: usize,
    bias: Option<&[f32]>,
) -> Vec<f64> {
    let x = if dtype == Dtype::Bf16 { rounded(dtype, x) } else { x.to_vec() };
    let outputs = weights.len() / inputs;
    let mut y = Vec::new();
    for x in x.chunks_exact(inputs) {
        for o in 0..outputs {
            let row = &weights[o * inputs..(o + 1) * inputs];
            let sum: f64 = x.iter().zip(row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y.push(sum + bias.map_or(0.0, |b| f64::from(b[o])));
        }
    }
    y
}

/// Rows, outputs, inputs: tails of every kind, one tile and several, one task and several.
const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 17, 3),
    (2, 16, 8),
    (3, 33, 7),
    (4, 100, 65),
    (5, 40, 16),
    (7, 144, 31),
    (12, 48, 40),
    (13, 70, 33),
    (25, 272, 9),
    (40, 96, 64),
    (1, 300, 129),
    (14, 32, 1030),
    (259, 20, 5),
];

#[test]
fn products_are_right_and_the_same_everywhere() {
    let mut random = Random(1);
    for dtype in DTYPES {
        for (rows, outputs, inputs) in SHAPES {
            let x = random.numbers(rows * inputs);
            let weights = rounded(dtype, &random.numbers(outputs * inputs));
            let bias = random.numbers(outputs);
            for bias in [None, Some(bias.as_slice())] {
                let y = same_everywhere(|ctx| {
                    let w = packed(ctx, dtype, outputs, inputs, &weights);
                    let mut y = vec![f32::NAN; rows * outputs];
                    linear(ctx, &x, &w, bias, Epilogue::Store, &mut y);
                    y
                });
                // A chain of K roundings of numbers up to K / 3: far below K * K * 2^-24.
                let bound = 3e-7 * (2.0 + f64::from(u16::try_from(inputs).unwrap()));
                let what = format!("{dtype} {rows} x {outputs} x {inputs}");
                assert_close(&naive(dtype, &x, &weights, inputs, bias), &y, bound, 0.0, &what);
            }
        }
    }
}

#[test]
fn epilogues_are_right_and_the_same_everywhere() {
    let mut random = Random(2);
    let activations = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];
    for (rows, outputs, inputs) in [(1, 40, 24), (3, 90, 17), (20, 50, 32)] {
        let x = random.numbers(rows * inputs);
        let weights = random.numbers(outputs * inputs);
        let bias = random.numbers(outputs);
        let before = random.numbers(rows * outputs);
        let y64 = naive(Dtype::F32, &x, &weights, inputs, Some(&bias));
        let run = |epilogue: Epilogue| {
            same_everywhere(|ctx| {
                let w = packed(ctx, Dtype::F32, outputs, inputs, &weights);
                let mut y = before.clone();
                linear(ctx, &x, &w, Some(&bias), epilogue, &mut y);
                y
            })
        };
        let sums: Vec<f64> = y64.iter().zip(&before).map(|(y, b)| y + f64::from(*b)).collect();
        assert_close(&sums, &run(Epilogue::Add), 1e-5, 0.0, "added to the residual");
        for activation in activations {
            let expected: Vec<f64> = y64.iter().map(|y| activation64(activation, *y)).collect();
            assert_close(&expected, &run(Epilogue::Activate(activation)), 1e-5, 0.0, "activated");
        }
    }
}

#[test]
fn gates_are_right_and_the_same_everywhere() {
    let mut random = Random(3);
    for dtype in DTYPES {
        for (rows, half, inputs) in [(1, 5, 8), (2, 48, 33), (9, 100, 16), (30, 33, 20)] {
            let x = random.numbers(rows * inputs);
            let weights = rounded(dtype, &random.numbers(2 * half * inputs));
            let bias = random.numbers(2 * half);
            for bias in [None, Some(bias.as_slice())] {
                let y = same_everywhere(|ctx| {
                    let w = gated(ctx, dtype, half, inputs, &weights);
                    let mut y = vec![f32::NAN; rows * half];
                    linear(ctx, &x, &w, bias, Epilogue::Gated(Activation::Silu), &mut y);
                    y
                });
                let both = naive(dtype, &x, &weights, inputs, bias);
                let expected: Vec<f64> = both
                    .chunks_exact(2 * half)
                    .flat_map(|row| {
                        (0..half).map(|i| activation64(Activation::Silu, row[i]) * row[half + i])
                    })
                    .collect();
                assert_close(
                    &expected,
                    &y,
                    1e-4,
                    0.0,
                    &format!("{dtype} {rows} x {half} x {inputs}"),
                );
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let ctx = alone();
    let mut random = Random(4);
    for (outputs, inputs) in [(50, 37), (70, 1100)] {
        let w = packed(&ctx, Dtype::Bf16, outputs, inputs, &random.numbers(outputs * inputs));
        let x = random.numbers(40 * inputs);
        let mut one_by_one = vec![0.0; 40 * outputs];
        for (x, y) in x.chunks_exact(inputs).zip(one_by_one.chunks_exact_mut(outputs)) {
            linear(&ctx, x, &w, None, Epilogue::Store, y);
        }
        for rows in 1..=40 {
            let first = random.below(41 - rows);
            let mut y = vec![0.0; rows * outputs];
            linear(
                &ctx,
                &x[first * inputs..(first + rows) * inputs],
                &w,
                None,
                Epilogue::Store,
                &mut y,
            );
            let alone = &one_by_one[first * outputs..(first + rows) * outputs];
            assert_same_bits(alone, &y, &format!("{rows} rows from {first}"));
        }
    }
}

#[test]
fn a_matrix_may_have_no_rows_to_multiply() {
    let ctx = alone();
    let w = packed(&ctx, Dtype::F32, 3, 2, &[1.0; 6]);
    linear(&ctx, &[], &w, None, Epilogue::Store, &mut []);
}

#[test]
#[should_panic(expected = "numbers are not rows of 2")]
fn a_wrong_width_is_refused() {
    let ctx = alone();
    let w = packed(&ctx, Dtype::F32, 3, 2, &[1.0; 6]);
    linear(&ctx, &[0.0; 3], &w, None, Epilogue::Store, &mut [0.0; 3]);
}

#[test]
#[should_panic(expected = "needs a gated matrix")]
fn a_gate_needs_a_gated_matrix() {
    let ctx = alone();
    let w = packed(&ctx, Dtype::F32, 4, 2, &[1.0; 8]);
    linear(&ctx, &[0.0; 2], &w, None, Epilogue::Gated(Activation::Silu), &mut [0.0; 2]);
}
