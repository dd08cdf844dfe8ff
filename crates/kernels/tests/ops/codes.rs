//! Quantised weights: every format against its definition, bit for bit everywhere.

use std::sync::Arc;

use folio_kernels::{
    Activation, Bits, CodeFormat, CodeRow, CodeSource, Context, Dtype, Epilogue, MappedError,
    MappedFile, PackedMatrix, Raw, SUPERBLOCK, Scaling, Segment, WeightFormat, embed_packed,
    linear,
};
use half::f16;

use crate::common::{Random, alone, assert_close, assert_same_bits, floats, same_everywhere};

const BITS: [(Bits, u8); 4] =
    [(Bits::Four, 15), (Bits::Five, 31), (Bits::Six, 63), (Bits::Eight, 255)];

/// Every number of bits with every scaling, and groups of many lengths.
fn formats() -> Vec<CodeFormat> {
    let flat = [Some(16), Some(32), Some(128), None, Some(20), Some(1)];
    let nested = [Some(16), Some(32), Some(256), Some(2)];
    let mut all = Vec::new();
    for (bits, _) in BITS {
        for scaling in [Scaling::Centred, Scaling::Zeros, Scaling::Minima] {
            all.extend(flat.map(|group| CodeFormat { bits, group, scaling }));
        }
        for scaling in [Scaling::NestedCentred, Scaling::NestedMinima] {
            all.extend(nested.map(|group| CodeFormat { bits, group, scaling }));
        }
    }
    all
}

fn largest(bits: Bits) -> u8 {
    BITS.iter().find(|(b, _)| *b == bits).unwrap().1
}

/// A stored matrix of random rows.
struct Stored {
    format: CodeFormat,
    inputs: usize,
    rows: Vec<CodeRow>,
}

impl CodeSource for Stored {
    fn format(&self) -> CodeFormat {
        self.format
    }
    fn outputs(&self) -> usize {
        self.rows.len()
    }
    fn inputs(&self) -> usize {
        self.inputs
    }
    fn read(&self, first: usize, rows: &mut [CodeRow]) {
        assert!(rows.len() <= 16, "at most sixteen rows at once");
        rows.clone_from_slice(&self.rows[first..first + rows.len()]);
    }
}

impl Stored {
    fn random(random: &mut Random, format: CodeFormat, outputs: usize, inputs: usize) -> Self {
        let groups = inputs.div_ceil(format.group.unwrap_or(inputs));
        let nested = matches!(format.scaling, Scaling::NestedCentred | Scaling::NestedMinima);
        let outer = if nested { inputs.div_ceil(SUPERBLOCK) } else { groups };
        let byte = |random: &mut Random| random.next().to_le_bytes()[7];
        let mut row = || CodeRow {
            codes: (0..inputs).map(|_| byte(random) & largest(format.bits)).collect(),
            scales: (0..outer).map(|_| f16::from_f32(random.number() * 0.1)).collect(),
            minima: match format.scaling {
                Scaling::Minima | Scaling::NestedMinima => {
                    (0..outer).map(|_| f16::from_f32(random.number() * 0.5)).collect()
                }
                _ => Vec::new(),
            },
            zeros: match format.scaling {
                Scaling::Zeros => (0..groups).map(|_| byte(random)).collect(),
                _ => Vec::new(),
            },
            group_scales: match format.scaling {
                Scaling::NestedCentred => (0..groups).map(|_| byte(random).cast_signed()).collect(),
                Scaling::NestedMinima => {
                    (0..groups).map(|_| (byte(random) & 127).cast_signed()).collect()
                }
                _ => Vec::new(),
            },
            group_minima: match format.scaling {
                Scaling::NestedMinima => (0..groups).map(|_| byte(random)).collect(),
                _ => Vec::new(),
            },
        };
        Self { format, inputs, rows: (0..outputs).map(|_| row()).collect() }
    }

    /// Scale, zero and minimum of a group, as f32 holds them exactly.
    fn terms(&self, row: &CodeRow, group: usize) -> (f32, i64, f32) {
        let outer = group * self.format.group.unwrap_or(self.inputs) / SUPERBLOCK;
        let centre = i64::from(largest(self.format.bits) / 2) + 1;
        match self.format.scaling {
            Scaling::Centred => (row.scales[group].to_f32(), centre, 0.0),
            Scaling::Zeros => (row.scales[group].to_f32(), i64::from(row.zeros[group]), 0.0),
            Scaling::Minima => (row.scales[group].to_f32(), 0, row.minima[group].to_f32()),
            Scaling::NestedCentred => {
                (row.scales[outer].to_f32() * f32::from(row.group_scales[group]), centre, 0.0)
            }
            Scaling::NestedMinima => (
                row.scales[outer].to_f32() * f32::from(row.group_scales[group]),
                0,
                -(row.minima[outer].to_f32() * f32::from(row.group_minima[group])),
            ),
        }
    }

    /// What the weights of an output are.
    fn weights(&self, row: &CodeRow) -> Vec<f64> {
        let group = self.format.group.unwrap_or(self.inputs);
        let weight = |(k, code): (usize, &u8)| {
            let (scale, zero, minimum) = self.terms(row, k / group);
            let whole = i32::try_from(i64::from(*code) - zero).unwrap();
            f64::from(scale) * f64::from(whole) + f64::from(minimum)
        };
        row.codes.iter().enumerate().map(weight).collect()
    }

    /// `x Wᵀ` as its rule says, the plain way.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "whole numbers, and the rounding of integers to f32 that the rule has"
    )]
    fn product(&self, x: &[f32]) -> Vec<f32> {
        let size = self.format.group.unwrap_or(self.inputs);
        let steps: Vec<(Vec<i64>, f32)> = x
            .chunks(size)
            .map(|x| {
                let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                let step = |x: &f32| (x * inverse).round_ties_even() as i64;
                (x.iter().map(step).collect(), largest / 127.0)
            })
            .collect();
        let output = |row: &CodeRow| {
            let mut y = 0.0f32;
            for (group, (steps, scale)) in steps.iter().enumerate() {
                let (weight_scale, zero, minimum) = self.terms(row, group);
                let codes = &row.codes[group * size..];
                let sum: i64 =
                    steps.iter().zip(codes).map(|(x, c)| x * (i64::from(*c) - zero)).sum();
                y = (sum as f32 * scale).mul_add(weight_scale, y);
                if minimum != 0.0 {
                    let total = steps.iter().sum::<i64>() as f32 * scale;
                    y = total.mul_add(minimum, y);
                }
            }
            y
        };
        self.rows.iter().map(output).collect()
    }

    fn packed(&self, ctx: &Context) -> PackedMatrix {
        let segment =
            Segment { format: WeightFormat::Codes(self.format), outputs: self.rows.len() };
        let mut builder = PackedMatrix::builder(&[segment], self.inputs).unwrap();
        // In two pieces that share a panel.
        let half = self.rows.len() / 2;
        builder.fill_codes(ctx, half, self, half..self.rows.len());
        builder.fill_codes(ctx, 0, self, 0..half);
        builder.finish()
    }
}

#[test]
fn every_format_is_multiplied_as_its_rule_says_and_the_same_everywhere() {
    let mut random = Random(11);
    for (i, format) in formats().into_iter().enumerate() {
        let shapes = [(1, 21, 300), (5, 70, 45), (3, 16, 512), (14, 33, 1030)];
        let (rows, outputs, inputs) = shapes[i % shapes.len()];
        let stored = Stored::random(&mut random, format, outputs, inputs);
        let x = random.numbers(rows * inputs);
        let y = same_everywhere(|ctx| {
            let w = stored.packed(ctx);
            let mut y = vec![f32::NAN; rows * outputs];
            linear(ctx, &x, &w, None, Epilogue::Store, &mut y);
            y
        });
        let expected: Vec<f32> = x.chunks(inputs).flat_map(|x| stored.product(x)).collect();
        // Against another zero sign: none of the sums is zero by chance.
        assert_same_bits(&expected, &y, &format!("{format:?}, {rows} x {outputs} x {inputs}"));
        // And the rule is close to what is meant: steps are off by half of a 127th of the largest activation.
        let exact: Vec<Vec<f64>> = stored.rows.iter().map(|row| stored.weights(row)).collect();
        for (x, y) in x.chunks(inputs).zip(y.chunks(outputs)) {
            for (w, y) in exact.iter().zip(y) {
                let sum: f64 = w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
                let weights: f64 = w.iter().map(|w| w.abs()).sum();
                let bound = weights / 254.0 + 1e-3 * weights;
                assert_close(&[sum], &[*y], bound, 0.0, &format!("{format:?}"));
            }
        }
    }
}

#[test]
fn products_of_the_largest_codes_and_steps_are_exact() {
    let mut random = Random(12);
    for (bits, largest) in BITS {
        let format = CodeFormat { bits, group: Some(32), scaling: Scaling::Zeros };
        for rows in [1, 7, 13] {
            let mut stored = Stored::random(&mut random, format, 16, 64);
            for (i, row) in stored.rows.iter_mut().enumerate() {
                row.codes = (0..64).map(|k| if k % 16 < i { 0 } else { largest }).collect();
            }
            for x in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                let x: Vec<f32> = x.into_iter().cycle().take(rows * 64).collect();
                let y = same_everywhere(|ctx| {
                    let mut y = vec![f32::NAN; rows * 16];
                    linear(ctx, &x, &stored.packed(ctx), None, Epilogue::Store, &mut y);
                    y
                });
                let expected: Vec<f32> = x.chunks(64).flat_map(|x| stored.product(x)).collect();
                assert_same_bits(&expected, &y, &format!("{format:?}, {rows} rows"));
            }
        }
    }
}

#[test]
fn every_format_is_read_back_as_an_embedding() {
    let mut random = Random(12);
    for format in formats() {
        let (outputs, inputs) = (20, 290);
        let stored = Stored::random(&mut random, format, outputs, inputs);
        let ids = [3, 19, 0, 3];
        let found = same_everywhere(|ctx| {
            let mut out = vec![f32::NAN; ids.len() * inputs];
            embed_packed(ctx, &stored.packed(ctx), &ids, &mut out);
            out
        });
        #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
        let expected: Vec<f32> = ids
            .iter()
            .flat_map(|id| stored.weights(&stored.rows[*id as usize]))
            .map(|w| w as f32)
            .collect();
        assert_same_bits(&expected, &found, &format!("{format:?}"));
    }
}

/// A format of each width.
const KINDS: [CodeFormat; 4] = [
    CodeFormat { bits: Bits::Four, group: Some(32), scaling: Scaling::NestedMinima },
    CodeFormat { bits: Bits::Six, group: Some(16), scaling: Scaling::NestedCentred },
    CodeFormat { bits: Bits::Eight, group: None, scaling: Scaling::Centred },
    CodeFormat { bits: Bits::Five, group: Some(64), scaling: Scaling::Zeros },
];

#[test]
fn segments_of_different_formats_are_one_matrix() {
    let mut random = Random(13);
    let inputs = 530;
    let parts: Vec<Stored> = KINDS
        .iter()
        .zip([100, 7, 40, 33])
        .map(|(format, outputs)| Stored::random(&mut random, *format, outputs, inputs))
        .collect();
    let weights = random.numbers(20 * inputs);
    let bias = random.numbers(200);
    for rows in [1, 9] {
        let x = random.numbers(rows * inputs);
        let y = same_everywhere(|ctx| {
            let mut segments: Vec<Segment> = parts
                .iter()
                .map(|part| Segment {
                    format: WeightFormat::Codes(part.format),
                    outputs: part.rows.len(),
                })
                .collect();
            segments.push(floats(Dtype::F32, 20));
            let mut builder = PackedMatrix::builder(&segments, inputs).unwrap();
            let mut first = 0;
            for part in &parts {
                builder.fill_codes(ctx, first, part, 0..part.rows.len());
                first += part.rows.len();
            }
            builder.fill(ctx, first, Raw::from_f32(&weights));
            let mut y = vec![1.0; rows * 200];
            linear(ctx, &x, &builder.finish(), Some(&bias), Epilogue::Add, &mut y);
            y
        });
        let mut expected = Vec::new();
        for x in x.chunks(inputs) {
            let mut row: Vec<f32> = parts.iter().flat_map(|part| part.product(x)).collect();
            for w in weights.chunks(inputs) {
                row.push(w.iter().zip(x).fold(0.0, |y, (w, x)| w.mul_add(*x, y)));
            }
            expected.extend(row.iter().zip(&bias).map(|(y, b)| 1.0 + (y + b)));
        }
        assert_same_bits(&expected, &y, "segments");
    }
}

#[test]
fn a_gate_and_its_up_may_have_different_formats() {
    let mut random = Random(14);
    let (half, inputs) = (90, 260);
    for (rows, formats) in [(1, [KINDS[0], KINDS[1]]), (17, [KINDS[2], KINDS[3]])] {
        let [gate, up] = formats.map(|format| Stored::random(&mut random, format, half, inputs));
        let x: Vec<f32> = random.numbers(rows * inputs).iter().map(|x| x * 0.1).collect();
        let y = same_everywhere(|ctx| {
            let formats = formats.map(WeightFormat::Codes);
            let mut builder = PackedMatrix::gated_builder(formats, half, inputs).unwrap();
            builder.fill_codes(ctx, half, &up, 0..half);
            builder.fill_codes(ctx, 0, &gate, 0..half);
            let mut y = vec![f32::NAN; rows * half];
            let epilogue = Epilogue::Gated(Activation::Relu);
            linear(ctx, &x, &builder.finish(), None, epilogue, &mut y);
            y
        });
        let product = |x| {
            let (gates, ups) = (gate.product(x), up.product(x));
            gates.into_iter().zip(ups).map(|(g, u)| g.max(0.0) * u).collect::<Vec<f32>>()
        };
        let expected: Vec<f32> = x.chunks(inputs).flat_map(product).collect();
        assert!(expected.iter().zip(&y).all(|(a, b)| a == b), "{rows} rows");
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let ctx = alone();
    let mut random = Random(15);
    let (outputs, inputs) = (40, 700);
    for format in KINDS {
        let w = Stored::random(&mut random, format, outputs, inputs).packed(&ctx);
        let mut x = random.numbers(30 * inputs);
        // One row of another magnitude, and one that is not a number everywhere.
        x[3 * inputs..4 * inputs].iter_mut().for_each(|x| *x *= 1e6);
        x[5 * inputs + 600] = f32::NAN;
        let mut one_by_one = vec![0.0; 30 * outputs];
        for (x, y) in x.chunks(inputs).zip(one_by_one.chunks_mut(outputs)) {
            linear(&ctx, x, &w, None, Epilogue::Store, y);
        }
        let broken = &one_by_one[5 * outputs..6 * outputs];
        assert!(broken.iter().all(|y| y.is_nan()), "what is no number shows");
        one_by_one[5 * outputs..6 * outputs].fill(0.0);
        for rows in 1..=30 {
            let first = random.below(31 - rows);
            let mut y = vec![0.0; rows * outputs];
            let x = &x[first * inputs..(first + rows) * inputs];
            linear(&ctx, x, &w, None, Epilogue::Store, &mut y);
            y.iter_mut().filter(|y| y.is_nan()).for_each(|y| *y = 0.0);
            let alone = &one_by_one[first * outputs..(first + rows) * outputs];
            assert_same_bits(alone, &y, &format!("{format:?}: {rows} rows from {first}"));
        }
    }
}

#[test]
fn floats_are_quantised_to_the_nearest_codes() {
    let ctx = alone();
    let mut random = Random(16);
    let (outputs, inputs) = (18, 70);
    let numbers = random.numbers(outputs * inputs);
    let turned: Vec<f32> = (0..inputs)
        .flat_map(|k| (0..outputs).map(move |o| o * inputs + k))
        .map(|i| numbers[i])
        .collect();
    for (bits, largest) in BITS {
        for scaling in [Scaling::Centred, Scaling::Zeros, Scaling::Minima] {
            let format = WeightFormat::Codes(CodeFormat { bits, group: Some(32), scaling });
            let segment = Segment { format, outputs };
            let mut builder = PackedMatrix::builder(&[segment], inputs).unwrap();
            builder.fill(&ctx, 0, Raw::from_f32(&numbers));
            let w = builder.finish();
            assert_eq!(Some(w.bytes().len()), format.packed_bytes(outputs, inputs));
            let mut back = vec![0.0; outputs * inputs];
            let ids: Vec<u32> = (0..18).collect();
            embed_packed(&ctx, &w, &ids, &mut back);
            // Half a step of the range, and what rounding the scale or the minimum to f16 moves its ends by.
            let bound = 2.0 / f32::from(largest - 1) * 0.5 + 2e-3;
            for (number, back) in numbers.iter().zip(&back) {
                assert!((number - back).abs() <= bound, "{format:?}: {number} became {back}");
            }
            let mut builder = PackedMatrix::builder(&[segment], inputs).unwrap();
            builder.fill_transposed(&ctx, 0, Raw::from_f32(&turned), outputs, 0..outputs);
            assert_eq!(builder.finish().bytes(), w.bytes(), "transposed");
        }
    }
    let format = CodeFormat { bits: Bits::Four, group: Some(2), scaling: Scaling::Centred };
    let segment = Segment { format: WeightFormat::Codes(format), outputs: 1 };
    let mut builder = PackedMatrix::builder(&[segment], 6).unwrap();
    builder.fill(&ctx, 0, Raw::from_f32(&[0.0, 0.0, 7.0, -3.0, 1.0, f32::INFINITY]));
    let mut back = [1.0; 6];
    embed_packed(&ctx, &builder.finish(), &[0], &mut back);
    assert_eq!(back[..4], [0.0, 0.0, 7.0, -3.0]);
    assert!(back[4..].iter().all(|x| x.is_nan()), "what is no number shows");
}

#[test]
fn a_matrix_in_a_file_is_the_same_matrix() {
    let ctx = alone();
    let mut random = Random(17);
    let (outputs, inputs) = (40, 300);
    let folder = std::env::temp_dir().join(format!("folio-packed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("packed");
    for (i, format) in KINDS.into_iter().enumerate() {
        let w = Stored::random(&mut random, format, outputs, inputs).packed(&ctx);
        let mut bytes = vec![0; 128];
        bytes.extend_from_slice(w.bytes());
        // A file of its own each: one that is mapped must not change.
        let path = path.with_extension(i.to_string());
        std::fs::write(&path, &bytes).unwrap();
        let file = Arc::new(MappedFile::open(&path).unwrap());
        let segments: Vec<Segment> = w.segments().collect();
        let mapped = PackedMatrix::from_mapped(&file, 128, &segments, inputs, false).unwrap();
        let x = random.numbers(3 * inputs);
        let mut y = [vec![0.0; 3 * outputs], vec![0.0; 3 * outputs]];
        for (w, y) in [&w, &mapped].into_iter().zip(&mut y) {
            linear(&ctx, &x, w, None, Epilogue::Store, y);
        }
        assert_same_bits(&y[0], &y[1], &format!("{format:?}"));
        let error = |start, inputs| {
            PackedMatrix::from_mapped(&file, start, &segments, inputs, false).unwrap_err()
        };
        assert_eq!(error(120, inputs), MappedError::Unaligned(120));
        assert!(matches!(error(192, inputs), MappedError::Short { .. }));
        assert!(matches!(error(0, 1 << 16), MappedError::Short { .. }));
        assert!(matches!(error(usize::MAX - 63, inputs), MappedError::Short { .. }));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn any_bytes_are_some_matrix() {
    let mut random = Random(18);
    let (outputs, inputs, rows) = (20, 300, 2);
    let path = std::env::temp_dir().join(format!("folio-garbage-{}", std::process::id()));
    let garbage: Vec<u8> = (0..1 << 18).map(|_| random.next().to_le_bytes()[0]).collect();
    std::fs::write(&path, &garbage).unwrap();
    let file = Arc::new(MappedFile::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let ctx = alone();
    let x = random.numbers(rows * inputs);
    for format in formats() {
        let segment = Segment { format: WeightFormat::Codes(format), outputs };
        let w = PackedMatrix::from_mapped(&file, 64, &[segment], inputs, false).unwrap();
        linear(&ctx, &x, &w, None, Epilogue::Store, &mut vec![0.0; rows * outputs]);
        embed_packed(&ctx, &w, &[7], &mut vec![0.0; inputs]);
    }
}

#[test]
#[should_panic(expected = "the format of the source")]
fn codes_of_another_format_are_refused() {
    let ctx = alone();
    let stored = Stored::random(&mut Random(19), KINDS[0], 2, 32);
    let segment = Segment { format: WeightFormat::Codes(KINDS[1]), outputs: 2 };
    PackedMatrix::builder(&[segment], 32).unwrap().fill_codes(&ctx, 0, &stored, 0..2);
}
