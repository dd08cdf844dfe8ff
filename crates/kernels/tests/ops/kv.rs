//! The KV cache: what is stored is read back, and copying a block copies all of it and nothing else.

use folio_kernels::{Batch, BatchRow, KvCache, KvDtype, KvShape, View};

use crate::common::{Random, alone, assert_same_bits, contexts, kept};

/// Key and value of one slot.
fn read(
    cache: &KvCache,
    layer: usize,
    block: u32,
    slot: usize,
    head: usize,
) -> (Vec<f32>, Vec<f32>) {
    let dim = cache.shape().head_dim;
    let (mut k, mut v) = (vec![f32::NAN; dim], vec![f32::NAN; dim]);
    cache.read(layer, block, slot, head, &mut k, &mut v);
    (k, v)
}

#[test]
fn tokens_land_in_their_slots_and_nowhere_else() {
    let mut random = Random(1);
    for dtype in KvDtype::ALL {
        for ctx in contexts() {
            let shape =
                KvShape { layers: 2, blocks: 9, block_size: 5, kv_heads: 3, head_dim: 24, dtype };
            let mut cache = KvCache::new(shape).unwrap();
            assert_eq!(
                shape.bytes(),
                Some(2 * 9 * 5 * 3 * 2 * (32 * dtype.bytes() + dtype.scale_bytes()))
            );
            // Two sequences: positions 3..12 of the first, 0..2 of the second.
            let blocks = [7, 2, 4, 0];
            let rows = [
                BatchRow { start: 3, tokens: 0..9, blocks: 0..3 },
                BatchRow { start: 0, tokens: 9..11, blocks: 3..4 },
            ];
            let batch = Batch { rows: &rows, blocks: &blocks };
            let width = 3 * 24;
            // Keys and values as columns of a wider matrix, as they come from a fused projection.
            let qkv: Vec<f32> = random.numbers(11 * (2 * width + 10));
            let k = View::new(&qkv, 2 * width + 10, 10..10 + width);
            let v = View::new(&qkv, 2 * width + 10, 10 + width..10 + 2 * width);
            cache.store(&ctx, 1, &batch, k, v);
            let mut written = 0;
            for block in 0..9 {
                for slot in 0..5 {
                    let token = match (block, slot) {
                        (7, 3..) => Some(slot - 3),
                        (2, _) => Some(slot + 2),
                        (4, 0..2) => Some(slot + 7),
                        (0, 0..2) => Some(slot + 9),
                        _ => None,
                    };
                    for head in 0..3 {
                        let (expected_k, expected_v) = match token {
                            Some(token) => {
                                written += 1;
                                let range = head * 24..(head + 1) * 24;
                                (
                                    kept(dtype, 24, &k.row(token)[range.clone()]),
                                    kept(dtype, 24, &v.row(token)[range]),
                                )
                            }
                            None => (vec![0.0; 24], vec![0.0; 24]),
                        };
                        let (k, v) = read(&cache, 1, block, slot, head);
                        assert_same_bits(&expected_k, &k, "key");
                        assert_same_bits(&expected_v, &v, "value");
                        assert_eq!(
                            read(&cache, 0, block, slot, head).0,
                            [0.0; 24],
                            "another layer"
                        );
                    }
                }
            }
            assert_eq!(written, 11 * 3);
        }
    }
}

#[test]
fn a_block_is_copied_in_all_layers() {
    let ctx = alone();
    let mut random = Random(2);
    for dtype in KvDtype::ALL {
        let shape =
            KvShape { layers: 3, blocks: 4, block_size: 2, kv_heads: 2, head_dim: 8, dtype };
        let mut cache = KvCache::new(shape).unwrap();
        let rows = [BatchRow { start: 0, tokens: 0..6, blocks: 0..3 }];
        let batch = Batch { rows: &rows, blocks: &[0, 1, 2] };
        for layer in 0..3 {
            let (k, v) = (random.numbers(6 * 16), random.numbers(6 * 16));
            cache.store(&ctx, layer, &batch, View::dense(&k, 16), View::dense(&v, 16));
        }
        let all = |cache: &KvCache, block| {
            let slots =
                (0..3).flat_map(|l| (0..2).flat_map(move |s| (0..2).map(move |h| (l, s, h))));
            slots.map(|(l, s, h)| read(cache, l, block, s, h)).collect::<Vec<_>>()
        };
        let before: Vec<_> = (0..4).map(|block| all(&cache, block)).collect();
        cache.copy_block(1, 3);
        let after: Vec<_> = (0..4).map(|block| all(&cache, block)).collect();
        assert_eq!(after[..3], before[..3]);
        assert_eq!(after[3], before[1]);
        assert_ne!(before[1], before[3]);
        // The same through bytes outside the cache, which outlive the block they came from.
        let mut bytes = vec![0; shape.block_bytes().unwrap()];
        cache.read_block(2, &mut bytes);
        cache.copy_block(1, 2);
        cache.write_block(0, &bytes);
        let moved: Vec<_> = (0..4).map(|block| all(&cache, block)).collect();
        assert_eq!(moved, [&before[2], &before[1], &before[1], &before[1]].map(Clone::clone));
    }
}

fn small() -> KvCache {
    let shape = KvShape {
        layers: 1,
        blocks: 2,
        block_size: 4,
        kv_heads: 1,
        head_dim: 8,
        dtype: KvDtype::F32,
    };
    KvCache::new(shape).unwrap()
}

fn store(rows: &[BatchRow], blocks: &[u32], tokens: usize) {
    let numbers = vec![0.0; tokens * 8];
    let view = View::dense(&numbers, 8);
    small().store(&alone(), 0, &Batch { rows, blocks }, view, view);
}

#[test]
#[should_panic(expected = "not one of the cache's 2")]
fn a_block_beyond_the_cache_is_refused() {
    store(&[BatchRow { start: 0, tokens: 0..1, blocks: 0..1 }], &[2], 1);
}

#[test]
#[should_panic(expected = "1 blocks of 2 for its positions")]
fn a_table_that_is_too_short_is_refused() {
    store(&[BatchRow { start: 3, tokens: 0..2, blocks: 0..1 }], &[0], 2);
}

#[test]
#[should_panic(expected = "do not ascend")]
fn rows_that_share_tokens_are_refused() {
    let row = |tokens| BatchRow { start: 0, tokens, blocks: 0..1 };
    store(&[row(0..2), row(1..3)], &[0], 3);
}

#[test]
#[should_panic(expected = "copy of block 0 to 2")]
fn copying_beyond_the_cache_is_refused() {
    small().copy_block(0, 2);
}

#[test]
#[should_panic(expected = "room for one block")]
fn bytes_of_another_length_are_refused() {
    small().write_block(1, &[0; 3]);
}

#[test]
fn int8_keeps_127ths_of_the_largest_and_hides_no_number_that_is_none() {
    let shape = KvShape { dtype: KvDtype::Int8, ..*small().shape() };
    let mut cache = KvCache::new(shape).unwrap();
    let store = |cache: &mut KvCache, k: [f32; 8], v: [f32; 8]| {
        let rows = [BatchRow { start: 2, tokens: 0..1, blocks: 0..1 }];
        let batch = Batch { rows: &rows, blocks: &[1] };
        cache.store(&alone(), 0, &batch, View::dense(&k, 8), View::dense(&v, 8));
        read(cache, 0, 1, 2, 0)
    };
    let halves = [127.0, -127.0, 0.5, 1.5, -2.5, 63.4, 0.0, -0.6];
    let (k, v) = store(&mut cache, halves, [0.0; 8]);
    assert_eq!(k, [127.0, -127.0, 0.0, 2.0, -2.0, 63.0, 0.0, -1.0]);
    assert_eq!(v, [0.0; 8]);
    let mut wrong = halves;
    wrong[3] = f32::NAN;
    let (k, _) = store(&mut cache, wrong, halves);
    assert!(k.iter().all(|x| x.is_nan()));
    wrong[3] = f32::INFINITY;
    let (_, v) = store(&mut cache, [1e-38; 8], wrong);
    assert!(v.iter().all(|x| x.is_nan()));
    assert_eq!(read(&cache, 0, 1, 2, 0).0, [0.0; 8], "too small for a scale");
    let large = [1e38, 0.0, -1e38, 1.0, 0.0, 0.0, 0.0, 0.0];
    let (k, _) = store(&mut cache, large, large);
    assert!((k[0] / 1e38 - 1.0).abs() < 1e-6 && k[2] == -k[0] && k[3] == 0.0);
}
