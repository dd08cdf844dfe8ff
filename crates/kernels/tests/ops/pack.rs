//! Packed matrices: filled from pieces, transposed, converted, and read back.

use folio_kernels::{
    Context, Dtype, Epilogue, PackedMatrix, Raw, WeightFormat, embed_packed, linear,
};

use crate::common::{
    DTYPES, Random, alone, assert_same_bits, contexts, encode, floats, rounded, same_everywhere,
};

/// All rows, widened.
fn rows(ctx: &Context, w: &PackedMatrix) -> Vec<f32> {
    let ids: Vec<u32> = (0..u32::try_from(w.outputs()).unwrap()).collect();
    let mut out = vec![f32::NAN; w.outputs() * w.inputs()];
    embed_packed(ctx, w, &ids, &mut out);
    out
}

#[test]
fn what_is_packed_is_read_back() {
    let mut random = Random(1);
    for ctx in contexts() {
        for to in DTYPES {
            for from in DTYPES {
                for (outputs, inputs) in [(1, 1), (16, 32), (33, 70), (48, 129)] {
                    let numbers = rounded(from, &random.numbers(outputs * inputs));
                    // One byte too far, so that no element is aligned.
                    let mut bytes = vec![0];
                    bytes.extend(encode(from, &numbers));
                    let mut builder =
                        PackedMatrix::builder(&[floats(to, outputs)], inputs).unwrap();
                    builder.fill(&ctx, 0, Raw::new(from, &bytes[1..]));
                    let w = builder.finish();
                    let bytes = WeightFormat::Float(to).packed_bytes(outputs, inputs);
                    assert_eq!(Some(w.bytes().len()), bytes);
                    assert_same_bits(
                        &rounded(to, &numbers),
                        &rows(&ctx, &w),
                        &format!("{from} as {to}"),
                    );
                }
            }
        }
    }
}

#[test]
fn pieces_and_transposed_pieces_make_the_same_matrix() {
    let ctx = alone();
    let mut random = Random(2);
    let (outputs, inputs) = (75, 50);
    let numbers = random.numbers(outputs * inputs);
    for dtype in DTYPES {
        let numbers = rounded(dtype, &numbers);
        let bytes = encode(dtype, &numbers);
        let source = Raw::new(dtype, &bytes);
        let mut pieces = PackedMatrix::builder(&[floats(dtype, outputs)], inputs).unwrap();
        for (first, end) in [(40, 75), (0, 17), (17, 40)] {
            pieces.fill(&ctx, first, source.slice(first * inputs..end * inputs));
        }
        let turned: Vec<f32> = (0..inputs)
            .flat_map(|k| (0..outputs).map(move |o| o * inputs + k))
            .map(|i| numbers[i])
            .collect();
        let turned = encode(dtype, &turned);
        let mut transposed = PackedMatrix::builder(&[floats(dtype, outputs)], inputs).unwrap();
        for columns in [30..75, 0..30] {
            transposed.fill_transposed(
                &ctx,
                columns.start,
                Raw::new(dtype, &turned),
                outputs,
                columns,
            );
        }
        assert_same_bits(&numbers, &rows(&ctx, &pieces.finish()), "pieces");
        assert_same_bits(&numbers, &rows(&ctx, &transposed.finish()), "transposed");
    }
}

#[test]
fn an_embedding_is_read_from_the_packed_table() {
    let mut random = Random(3);
    let (vocabulary, width) = (70, 40);
    let ids: Vec<u32> =
        (0..900).map(|_| u32::try_from(random.below(vocabulary)).unwrap()).collect();
    for dtype in DTYPES {
        let table = rounded(dtype, &random.numbers(vocabulary * width));
        let bytes = encode(dtype, &table);
        let expected: Vec<f32> =
            ids.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect();
        let found = same_everywhere(|ctx| {
            let mut builder = PackedMatrix::builder(&[floats(dtype, vocabulary)], width).unwrap();
            builder.fill(ctx, 0, Raw::new(dtype, &bytes));
            let mut out = vec![f32::NAN; ids.len() * width];
            embed_packed(ctx, &builder.finish(), &ids, &mut out);
            out
        });
        assert_same_bits(&expected, &found, "from the packed table");
    }
}

#[test]
fn infinities_in_the_padding_do_not_matter() {
    // The missing odd step of a panel is zero; an infinite activation beside it must not become NaN.
    let ctx = alone();
    let mut builder = PackedMatrix::builder(&[floats(Dtype::Bf16, 1)], 3).unwrap();
    builder.fill(&ctx, 0, Raw::from_f32(&[1.0, 1.0, 1.0]));
    let mut y = [0.0; 2];
    let x = [1.0, 2.0, 3.0, f32::INFINITY, 0.0, 0.0];
    linear(&ctx, &x, &builder.finish(), None, Epilogue::Store, &mut y);
    assert_eq!(y, [6.0, f32::INFINITY]);
}

#[test]
#[should_panic(expected = "never filled")]
fn a_gap_is_noticed() {
    let ctx = alone();
    let mut builder = PackedMatrix::builder(&[floats(Dtype::F32, 3)], 2).unwrap();
    builder.fill(&ctx, 1, Raw::from_f32(&[1.0; 4]));
    let _ = builder.finish();
}

#[test]
#[should_panic(expected = "filled twice")]
fn an_overlap_is_noticed() {
    let ctx = alone();
    let mut builder = PackedMatrix::builder(&[floats(Dtype::F32, 3)], 2).unwrap();
    builder.fill(&ctx, 0, Raw::from_f32(&[1.0; 4]));
    builder.fill(&ctx, 1, Raw::from_f32(&[1.0; 4]));
}

#[test]
fn what_cannot_be_allocated_is_an_error() {
    assert!(PackedMatrix::builder(&[floats(Dtype::F32, usize::MAX / 16)], 1 << 20).is_err());
    assert!(
        PackedMatrix::gated_builder([WeightFormat::Float(Dtype::F32); 2], usize::MAX, 1).is_err()
    );
    assert_eq!(WeightFormat::Float(Dtype::F32).packed_bytes(usize::MAX, 16), None);
}
