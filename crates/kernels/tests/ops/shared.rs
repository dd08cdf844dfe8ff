//! Rows whose block tables begin alike: what they share is read once, and nobody's bits change.

use folio_kernels::{
    AttendSpec, Batch, BatchRow, Context, KvCache, KvDtype, KvShape, View, attend,
};

use crate::common::{Random, alone, assert_same_bits, contexts};

/// A cache full of numbers, and single tokens whose tables share random beginnings.
struct Crowd {
    cache: KvCache,
    rows: Vec<BatchRow>,
    blocks: Vec<u32>,
    q: Vec<f32>,
    spec: AttendSpec,
}

const BLOCKS: usize = 400;

impl Crowd {
    fn new(
        random: &mut Random,
        block_size: usize,
        dtype: KvDtype,
        group: usize,
        rows: usize,
    ) -> Self {
        let (kv_heads, head_dim) = (2, 24);
        let shape = KvShape { layers: 1, blocks: BLOCKS, block_size, kv_heads, head_dim, dtype };
        let mut cache = KvCache::new(shape).unwrap();
        let (positions, width) = (BLOCKS * block_size, kv_heads * head_dim);
        let everything = [BatchRow { start: 0, tokens: 0..positions, blocks: 0..BLOCKS }];
        let all: Vec<u32> = (0..).take(BLOCKS).collect();
        let (k, v) = (random.numbers(positions * width), random.numbers(positions * width));
        let batch = Batch { rows: &everything, blocks: &all };
        cache.store(&alone(), 0, &batch, View::dense(&k, width), View::dense(&v, width));

        let mut crowd = Self {
            cache,
            rows: Vec::new(),
            blocks: Vec::new(),
            q: Vec::new(),
            spec: AttendSpec { heads: kv_heads * group, scale: 0.3, window: None, softcap: None },
        };
        let mut tables: Vec<Vec<u32>> = Vec::new();
        for i in 0..rows {
            let start = random.below(1300);
            let need = (start + 1).div_ceil(block_size);
            // The beginning of somebody else's table, then blocks of its own (which may be anybody's: they are only read).
            let mut table = match tables.len() {
                0 => Vec::new(),
                others => tables[random.below(others)].clone(),
            };
            let cuts = [0, 1, 256 / block_size, 512 / block_size + 1, need, usize::MAX];
            table.truncate(cuts[random.below(cuts.len())]);
            while table.len() < need {
                table.push(u32::try_from(random.below(BLOCKS)).unwrap());
            }
            crowd.rows.push(BatchRow {
                start,
                tokens: i..i + 1,
                blocks: crowd.blocks.len()..crowd.blocks.len() + table.len(),
            });
            crowd.blocks.extend(&table);
            tables.push(table);
        }
        crowd.q = random.numbers(rows * crowd.width()).iter().map(|x| x * 3.0).collect();
        crowd
    }

    fn width(&self) -> usize {
        self.spec.heads * self.cache.shape().head_dim
    }

    fn attend(&self, ctx: &Context, rows: &[BatchRow], out: &mut [f32]) {
        let batch = Batch { rows, blocks: &self.blocks };
        attend(ctx, &self.spec, &self.cache, 0, &batch, View::dense(&self.q, self.width()), out);
    }

    fn check(&self, ctx: &Context, what: &str) {
        let mut apart = vec![7.0; self.q.len()];
        for row in &self.rows {
            self.attend(ctx, std::slice::from_ref(row), &mut apart);
        }
        assert!(apart.iter().all(|x| x.is_finite()));
        let mut together = vec![7.0; self.q.len()];
        self.attend(ctx, &self.rows, &mut together);
        assert_same_bits(&apart, &together, what);
    }
}

#[test]
fn what_rows_share_changes_no_bit() {
    let mut random = Random(21);
    let contexts = contexts();
    for (i, block_size) in [16, 5, 32, 64, 16, 100].into_iter().enumerate() {
        // Few and many query heads on each kv head, few and many rows.
        for (group, rows) in [(1, 7), (4, 2), (3, 20), (16, 6)] {
            let dtype = KvDtype::ALL[(i + group) % 4];
            let mut crowd = Crowd::new(&mut random, block_size, dtype, group, rows);
            let ctx = &contexts[(i + rows) % contexts.len()];
            let what = format!("{ctx:?}, {dtype}, blocks of {block_size}, {rows} rows of {group}");
            crowd.check(ctx, &what);
            crowd.spec.window = Some(600);
            crowd.spec.softcap = Some(20.0);
            crowd.check(ctx, &format!("{what}, window"));
        }
    }
}

#[test]
fn sharing_is_the_same_everywhere() {
    let mut random = Random(22);
    for (dtype, group) in [(KvDtype::Int8, 4), (KvDtype::Bf16, 1), (KvDtype::F32, 8)] {
        let crowd = Crowd::new(&mut random, 16, dtype, group, 9);
        let mut expected = vec![0.0; crowd.q.len()];
        crowd.attend(&alone(), &crowd.rows, &mut expected);
        for ctx in contexts() {
            let mut got = vec![0.0; crowd.q.len()];
            crowd.attend(&ctx, &crowd.rows, &mut got);
            assert_same_bits(&expected, &got, &format!("{ctx:?} {dtype}"));
        }
    }
}
