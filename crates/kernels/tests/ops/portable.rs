//! The same bits on every machine: results of fixed inputs are pinned by a checksum that holds on every architecture.

use folio_kernels::{
    Activation, AttendSpec, Batch, BatchRow, Context, Dtype, Epilogue, KvCache, KvDtype, KvShape,
    Norm, PackedMatrix, Raw, View, attend, exp_in_place, linear, norm, softcap,
};

use crate::common::{Random, activate, contexts, floats};

/// FNV-1a over the bits.
fn checksum(numbers: &[f32]) -> u64 {
    let bytes = numbers.iter().flat_map(|x| x.to_bits().to_le_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

/// A little of everything that a forward pass does.
fn forward(ctx: &Context) -> Vec<f32> {
    let mut random = Random(99);
    let (tokens, width, heads, kv_heads, dim) = (37, 100, 4, 2, 24);
    let x: Vec<f32> = random.numbers(tokens * width).iter().map(|x| x * 4.0).collect();
    let weight = random.numbers(width);
    let mut y = vec![0.0; x.len()];
    norm(ctx, &Norm::Layer { weight: &weight, bias: Some(&weight), eps: 1e-5 }, &x, &mut y);

    let outputs = (heads + 2 * kv_heads) * dim;
    let mut builder = PackedMatrix::builder(&[floats(Dtype::Bf16, outputs)], width).unwrap();
    builder.fill(ctx, 0, Raw::from_f32(&random.numbers(outputs * width)));
    let mut qkv = vec![0.0; tokens * outputs];
    linear(ctx, &y, &builder.finish(), None, Epilogue::Store, &mut qkv);

    let shape = KvShape {
        layers: 1,
        blocks: 13,
        block_size: 3,
        kv_heads,
        head_dim: dim,
        dtype: KvDtype::F16,
    };
    let mut cache = KvCache::new(shape).unwrap();
    let blocks: Vec<u32> = (0..13).map(|i| i * 5 % 13).collect();
    let rows = [BatchRow { start: 0, tokens: 0..tokens, blocks: 0..13 }];
    let batch = Batch { rows: &rows, blocks: &blocks };
    let columns =
        |first: usize, count: usize| View::new(&qkv, outputs, first * dim..(first + count) * dim);
    cache.store(ctx, 0, &batch, columns(heads, kv_heads), columns(heads + kv_heads, kv_heads));
    let spec = AttendSpec { heads, scale: 0.2, window: Some(30), softcap: Some(20.0) };
    let mut out = vec![0.0; tokens * heads * dim];
    attend(ctx, &spec, &cache, 0, &batch, columns(0, heads), &mut out);

    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        activate(ctx, activation, &mut out);
    }
    let sum = exp_in_place(ctx.isa(), 0.5, &mut out);
    softcap(ctx, 3.0, &mut out);
    out.push(sum);
    out
}

#[test]
fn a_forward_pass_gives_the_pinned_bits() {
    for ctx in contexts() {
        let numbers = forward(&ctx);
        assert!(numbers.iter().all(|x| x.is_finite()));
        assert_eq!(checksum(&numbers), 0x5AF6_889B_B5B3_9DA6, "{ctx:?}");
    }
}
