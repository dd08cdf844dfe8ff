//! Paged attention against a naive softmax, and against itself: in other chunks, blocks, batches, on other threads.

use folio_kernels::{
    AttendSpec, Batch, BatchRow, Context, KvCache, KvDtype, KvShape, View, attend,
};

use crate::common::{
    Random, alone, assert_close, assert_same_bits, contexts, kept, same_everywhere,
};

/// One sequence: queries, keys and values of all its positions.
struct Sequence {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    dtype: KvDtype,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(
        random: &mut Random,
        positions: usize,
        (heads, kv_heads, dim): (usize, usize, usize),
        dtype: KvDtype,
    ) -> Self {
        // Values away from zero and queries of some size, so that mistakes show.
        let q = random.numbers(positions * heads * dim).iter().map(|x| x * 3.0).collect();
        let k = kept(dtype, dim, &random.numbers(positions * kv_heads * dim));
        let v: Vec<f32> =
            random.numbers(positions * kv_heads * dim).iter().map(|x| x + 0.5).collect();
        Self { heads, kv_heads, dim, dtype, q, k, v: kept(dtype, dim, &v) }
    }

    fn positions(&self) -> usize {
        self.k.len() / (self.kv_heads * self.dim)
    }

    fn spec(&self) -> AttendSpec {
        let dim = f32::from(u16::try_from(self.dim).unwrap());
        AttendSpec { heads: self.heads, scale: 1.0 / dim.sqrt(), window: None, softcap: None }
    }

    /// Attention of positions `from ..`, in f64.
    fn naive(&self, spec: &AttendSpec, from: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for position in from..self.positions() {
            let first = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
            for head in 0..self.heads {
                let group = head / (self.heads / self.kv_heads);
                let at = |p: usize| {
                    (p * self.kv_heads + group) * self.dim
                        ..(p * self.kv_heads + group + 1) * self.dim
                };
                let q = &self.q[(position * self.heads + head) * self.dim..][..self.dim];
                let scores: Vec<f64> = (first..=position)
                    .map(|p| {
                        let dot: f64 = q
                            .iter()
                            .zip(&self.k[at(p)])
                            .map(|(q, k)| f64::from(*q) * f64::from(*k))
                            .sum();
                        let mut score = dot * f64::from(spec.scale);
                        if let Some(cap) = spec.softcap {
                            score = f64::from(cap) * (score / f64::from(cap)).tanh();
                        }
                        score
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..self.dim {
                    let sum: f64 = (first..=position)
                        .zip(&weights)
                        .map(|(p, w)| w * f64::from(self.v[at(p)][i]))
                        .sum();
                    out.push(sum / total);
                }
            }
        }
        out
    }

    /// A cache with all positions stored, and the sequence's table: blocks in a scattered order, others filled with NaN.
    fn cache(&self, ctx: &Context, block_size: usize) -> (KvCache, Vec<u32>) {
        let need = self.positions().div_ceil(block_size);
        let (kv_heads, head_dim, dtype) = (self.kv_heads, self.dim, self.dtype);
        let shape =
            KvShape { layers: 2, blocks: 2 * need + 1, block_size, kv_heads, head_dim, dtype };
        let mut cache = KvCache::new(shape).unwrap();
        let width = kv_heads * head_dim;
        let all: Vec<u32> = (0..u32::try_from(shape.blocks).unwrap()).collect();
        let nan = vec![f32::NAN; shape.blocks * block_size * width];
        let everything =
            [BatchRow { start: 0, tokens: 0..shape.blocks * block_size, blocks: 0..shape.blocks }];
        let nan = View::dense(&nan, width);
        cache.store(ctx, 1, &Batch { rows: &everything, blocks: &all }, nan, nan);
        let table: Vec<u32> = (0..need).rev().map(|i| u32::try_from(2 * i + 1).unwrap()).collect();
        let rows = [BatchRow { start: 0, tokens: 0..self.positions(), blocks: 0..need }];
        let batch = Batch { rows: &rows, blocks: &table };
        cache.store(ctx, 1, &batch, View::dense(&self.k, width), View::dense(&self.v, width));
        (cache, table)
    }

    /// Attention of positions `from .. from + count` as one chunk.
    fn chunk(
        &self,
        ctx: &Context,
        spec: &AttendSpec,
        block_size: usize,
        from: usize,
        count: usize,
    ) -> Vec<f32> {
        let (cache, table) = self.cache(ctx, block_size);
        self.chunk_in(ctx, spec, &cache, &table, from, count)
    }

    fn chunk_in(
        &self,
        ctx: &Context,
        spec: &AttendSpec,
        cache: &KvCache,
        table: &[u32],
        from: usize,
        count: usize,
    ) -> Vec<f32> {
        let width = self.heads * self.dim;
        let rows = [BatchRow { start: from, tokens: 0..count, blocks: 0..table.len() }];
        let mut out = vec![f32::NAN; count * width];
        let q = View::dense(&self.q[from * width..(from + count) * width], width);
        attend(ctx, spec, cache, 1, &Batch { rows: &rows, blocks: table }, q, &mut out);
        out
    }
}

/// What may be asked of one head shape.
fn variants(sequence: &Sequence) -> Vec<AttendSpec> {
    let plain = sequence.spec();
    vec![
        AttendSpec { window: Some(7), ..plain },
        AttendSpec { window: Some(270), softcap: Some(2.0), ..plain },
        AttendSpec { softcap: Some(50.0), ..plain },
        plain,
    ]
}

#[test]
fn attention_is_right_and_the_same_everywhere() {
    let mut random = Random(1);
    // Query heads, kv heads, head_dim.
    let shapes = [
        (1, 1, 8),
        (4, 2, 16),
        (6, 2, 24),
        (8, 1, 64),
        (3, 3, 80),
        (14, 1, 32),
        (2, 1, 96),
        (2, 2, 256),
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        let dtype = KvDtype::ALL[i % 4];
        let sequence = Sequence::new(&mut random, 45, shape, dtype);
        for spec in variants(&sequence) {
            for (from, count) in [(0, 45), (44, 1), (17, 20)] {
                let got = same_everywhere(|ctx| sequence.chunk(ctx, &spec, 16, from, count));
                let width = sequence.heads * sequence.dim;
                let expected = &sequence.naive(&spec, 0)[from * width..(from + count) * width];
                assert_close(
                    expected,
                    &got,
                    4e-6,
                    0.0,
                    &format!("{shape:?} {dtype} {spec:?} {from}+{count}"),
                );
            }
        }
    }
}

#[test]
fn long_contexts_are_right_and_may_be_split() {
    let mut random = Random(2);
    for dtype in KvDtype::ALL {
        let sequence = Sequence::new(&mut random, 1100, (4, 2, 32), dtype);
        for spec in variants(&sequence) {
            let from = 1090;
            let expected = sequence.naive(&spec, from);
            // One token on its own is split over threads, eight are not; both give the same.
            let got = same_everywhere(|ctx| {
                let (cache, table) = sequence.cache(ctx, 32);
                let mut all = sequence.chunk_in(ctx, &spec, &cache, &table, from, 9);
                all.extend(sequence.chunk_in(ctx, &spec, &cache, &table, 1099, 1));
                all
            });
            assert_close(&expected, &got, 1e-5, 0.0, &format!("{dtype} {spec:?}"));
        }
    }
}

#[test]
fn neither_block_size_nor_chunk_changes_a_bit() {
    let mut random = Random(3);
    let positions = 530;
    let sequence = Sequence::new(&mut random, positions, (4, 2, 24), KvDtype::F16);
    let ctx = alone();
    let width = sequence.heads * sequence.dim;
    for spec in variants(&sequence) {
        let expected = sequence.chunk(&ctx, &spec, 16, 0, positions);
        for block_size in [1, 3, 5, 8, 32, 100, 256] {
            let (cache, table) = sequence.cache(&ctx, block_size);
            let mut from = 0;
            while from < positions {
                let count = [1, 2, 7, 30, 100][random.below(5)].min(positions - from);
                let got = sequence.chunk_in(&ctx, &spec, &cache, &table, from, count);
                let what = format!("{spec:?} blocks of {block_size}, {from}+{count}");
                assert_same_bits(&expected[from * width..(from + count) * width], &got, &what);
                from += count;
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    let mut random = Random(4);
    let shape = KvShape {
        layers: 1,
        blocks: 200,
        block_size: 4,
        kv_heads: 2,
        head_dim: 16,
        dtype: KvDtype::Bf16,
    };
    let (heads, width, kv_width) = (6, 96, 32);
    let spec = AttendSpec { heads, scale: 0.25, window: None, softcap: None };
    for ctx in contexts() {
        let mut cache = KvCache::new(shape).unwrap();
        // Rows of mixed lengths in one batch; every second one continues something already there.
        let (mut rows, mut blocks, mut token) = (Vec::new(), Vec::new(), 3);
        for i in 0..12 {
            let start = if i % 2 == 0 { 0 } else { random.below(40) };
            let count = 1 + random.below(20);
            let first = blocks.len();
            blocks.extend(
                (0..(start + count).div_ceil(4))
                    .map(|b| u32::try_from((first + b) * 7 % 200).unwrap()),
            );
            rows.push(BatchRow {
                start,
                tokens: token..token + count,
                blocks: first..blocks.len(),
            });
            // Rows of q that belong to nobody.
            token += count + i % 3;
        }
        assert!(blocks.len() <= 200);
        let everything = [BatchRow { start: 0, tokens: 0..800, blocks: 0..200 }];
        let all: Vec<u32> = (0..200).collect();
        let (k, v) = (random.numbers(800 * kv_width), random.numbers(800 * kv_width));
        let batch = Batch { rows: &everything, blocks: &all };
        cache.store(&ctx, 0, &batch, View::dense(&k, kv_width), View::dense(&v, kv_width));

        // q as columns of a wider matrix.
        let q = random.numbers(token * (width + 5));
        let q = View::new(&q, width + 5, 2..2 + width);
        let mut together = vec![7.0; token * width];
        attend(&ctx, &spec, &cache, 0, &Batch { rows: &rows, blocks: &blocks }, q, &mut together);
        let mut one_by_one = vec![7.0; token * width];
        for row in &rows {
            let batch = Batch { rows: std::slice::from_ref(row), blocks: &blocks };
            attend(&alone(), &spec, &cache, 0, &batch, q, &mut one_by_one);
        }
        assert_same_bits(&one_by_one, &together, "together");
        assert_eq!(together[..3 * width], vec![7.0; 3 * width], "rows of nobody are left alone");
    }
}

#[test]
fn what_comes_later_in_the_chunk_cannot_reach_back() {
    // An infinity in the last token's value (an overflow of f16, say) must not touch the tokens before it.
    let mut random = Random(5);
    let mut sequence = Sequence::new(&mut random, 40, (4, 2, 16), KvDtype::F32);
    let spec = sequence.spec();
    let expected = sequence.chunk(&alone(), &spec, 16, 0, 39);
    for v in &mut sequence.v[39 * 32..] {
        *v = f32::INFINITY;
    }
    let got = sequence.chunk(&alone(), &spec, 16, 0, 40);
    assert_same_bits(&expected, &got[..39 * 64], "earlier tokens");
    assert!(got[39 * 64..].iter().all(|x| *x == f32::INFINITY));
}

#[test]
fn a_number_that_is_none_is_not_hidden() {
    let mut random = Random(6);
    let mut sequence = Sequence::new(&mut random, 300, (2, 2, 16), KvDtype::F32);
    sequence.k[32 + 3] = f32::NAN;
    let got = sequence.chunk(&alone(), &sequence.spec(), 16, 0, 300);
    let reached =
        |token: usize, head: usize| got[token * 32 + head * 16..][..16].iter().all(|x| x.is_nan());
    assert!((1..300).all(|token| reached(token, 0)), "every token that sees it");
    assert!((0..300).all(|token| !reached(token, 1)), "no other head");
    assert!(!reached(0, 0));
}

#[test]
#[should_panic(expected = "not a multiple of 2 kv heads")]
fn heads_that_cannot_be_grouped_are_refused() {
    let mut random = Random(7);
    let sequence = Sequence::new(&mut random, 2, (4, 2, 8), KvDtype::F32);
    let spec = AttendSpec { heads: 3, ..sequence.spec() };
    sequence.chunk(&alone(), &spec, 4, 0, 2);
}

#[test]
fn int8_is_off_by_less_than_a_hundredth() {
    // Heads of 64 numbers that are normally distributed, or nearly: sums of four.
    let mut random = Random(8);
    let mut normal = |count: usize| -> Vec<f32> {
        (0..count).map(|_| (0..4).map(|_| random.number()).sum()).collect()
    };
    let (positions, dim) = (600, 64);
    let (q, k, v) = (normal(positions * dim), normal(positions * dim), normal(positions * dim));
    let (heads, kv_heads, dtype) = (1, 1, KvDtype::Int8);
    let exact = Sequence { heads, kv_heads, dim, dtype, q, k, v };
    let spec = exact.spec();
    let from = positions - 20;
    let got = exact.chunk(&alone(), &spec, 16, from, 20);
    let expected = exact.naive(&spec, from);
    let square = |x: f64| x * x;
    let error: f64 = expected.iter().zip(&got).map(|(a, b)| square(a - f64::from(*b))).sum();
    let size: f64 = expected.iter().map(|a| square(*a)).sum();
    let relative = (error / size).sqrt();
    println!("keys and values in int8: relative root mean square error {relative:.1e}");
    assert!(relative > 1e-3 && relative < 1e-2, "{relative:.1e}");
}
