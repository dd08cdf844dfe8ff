//! Nanoseconds per verb of the block manager: `cargo bench -p folio-core --bench kv`.
//!
//! Sequences of 512 tokens in 32 blocks of 16, in a memory of 16384 blocks. A verb is timed over 64 tables at once, so that
//! the clock does not count; what puts the memory back as it was is not timed.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use folio_core::ids::{Salt, Token};
use folio_core::kv::{BlockTable, Claim, Computed, Config, KvMemory, Manager};

const BLOCK_SIZE: u32 = 16;
const PROMPT: u32 = 512;
const TABLES: usize = 64;

struct Bench {
    memory: Manager,
    prompt: Vec<Token>,
    tables: Vec<BlockTable>,
    /// Makes prompts differ from all before.
    fresh: u32,
}

impl Bench {
    fn new(prefix_caching: bool) -> Self {
        let capacity = 16384;
        let config = Config { block_size: BLOCK_SIZE, capacity, prefix_caching, secret: 1 };
        let memory = Manager::new(config).unwrap().with_swap_space(capacity);
        let prompt = (0..2 * PROMPT).map(Token).collect();
        Self { memory, prompt, tables: Vec::new(), fresh: 0 }
    }

    fn admit(&mut self, fresh: bool) {
        self.fresh += u32::from(fresh);
        self.prompt[0] = Token(self.fresh);
        let claim = Claim {
            tokens: &self.prompt[..PROMPT as usize],
            salt: Salt(0),
            use_prefix_cache: true,
            beside: 0,
            sequences: 1,
            longest: 2 * PROMPT,
        };
        self.tables.push(self.memory.admit(&claim, &mut Vec::new()).unwrap());
    }

    /// A table of a prompt of its own, all of it published.
    fn serve(&mut self) {
        self.admit(true);
        let table = self.tables.last_mut().unwrap();
        self.memory.publish(table, &self.prompt[..PROMPT as usize]);
    }

    fn free_all(&mut self) {
        self.tables.drain(..).for_each(|table| self.memory.free(table));
    }
}

/// Times `verb`, called [`TABLES`] times in a row between `before` and `after`.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut bench: Bench,
    before: impl Fn(&mut Bench),
    verb: impl Fn(&mut Bench, usize),
    after: impl Fn(&mut Bench),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let (mut elapsed, mut done) = (Duration::ZERO, 0);
            while done < iterations {
                before(&mut bench);
                let start = Instant::now();
                (0..TABLES).for_each(|at| verb(&mut bench, at));
                elapsed += start.elapsed();
                after(&mut bench);
                done += TABLES as u64;
            }
            elapsed.mul_f64(iterations as f64 / done as f64)
        });
    });
}

fn serve_all(bench: &mut Bench) {
    (0..TABLES).for_each(|_| bench.serve());
}

fn append_one(bench: &mut Bench, at: usize) {
    let upto = bench.tables[at].len() + 1;
    bench.memory.append(&mut bench.tables[at], upto, &mut Vec::new()).unwrap();
}

fn verbs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv");
    let nothing = |_: &mut Bench| {};
    measure(
        &mut group,
        "admit, new prompt",
        Bench::new(true),
        nothing,
        |b, _| b.admit(true),
        Bench::free_all,
    );
    let cached = |bench: &mut Bench| {
        bench.serve();
        bench.free_all();
    };
    measure(
        &mut group,
        "admit, cached prompt",
        Bench::new(true),
        cached,
        |b, _| b.admit(false),
        Bench::free_all,
    );
    measure(
        &mut group,
        "append, a new block",
        Bench::new(true),
        serve_all,
        append_one,
        Bench::free_all,
    );
    let roomy = |bench: &mut Bench| {
        serve_all(bench);
        (0..TABLES).for_each(|at| append_one(bench, at));
    };
    measure(
        &mut group,
        "append, room in the last block",
        Bench::new(true),
        roomy,
        append_one,
        Bench::free_all,
    );
    let publish = |bench: &mut Bench, at: usize| {
        bench.memory.publish(&mut bench.tables[at], &bench.prompt[..=PROMPT as usize]);
    };
    measure(&mut group, "publish, one token", Bench::new(true), roomy, publish, Bench::free_all);
    let admit_all = |bench: &mut Bench| (0..TABLES).for_each(|_| bench.admit(true));
    let publish_all = |bench: &mut Bench, at: usize| {
        bench.prompt[0] = Token(bench.fresh - u32::try_from(TABLES - 1 - at).unwrap());
        bench.memory.publish(&mut bench.tables[at], &bench.prompt[..PROMPT as usize]);
    };
    measure(
        &mut group,
        "publish, 32 blocks",
        Bench::new(true),
        admit_all,
        publish_all,
        Bench::free_all,
    );
    group.finish();
}

fn group_verbs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv");
    let fork = |bench: &mut Bench, at: usize| {
        let fork = bench.memory.fork(&bench.tables[at]);
        bench.tables.push(fork);
    };
    measure(&mut group, "fork", Bench::new(true), serve_all, fork, Bench::free_all);
    let nothing = |_: &mut Bench| {};
    let free = |bench: &mut Bench, _: usize| {
        let table = bench.tables.pop().unwrap();
        bench.memory.free(table);
    };
    measure(&mut group, "free", Bench::new(true), serve_all, free, nothing);
    let swap = |bench: &mut Bench, at: usize| {
        let table = bench.tables.swap_remove(at);
        let group = vec![Computed { table, computed: PROMPT }];
        let swapped = bench.memory.swap_out(group, &mut Vec::new()).unwrap();
        bench.tables.extend(bench.memory.swap_in(swapped, &mut Vec::new()).unwrap());
    };
    // Without a prefix cache every block is moved; with one, none needs to come back.
    for (name, prefix_caching) in [("32 blocks", false), ("32 cached blocks", true)] {
        let name = format!("swap out and in, {name}");
        measure(&mut group, &name, Bench::new(prefix_caching), serve_all, swap, Bench::free_all);
    }
    group.finish();
}

criterion_group!(benches, verbs, group_verbs);
criterion_main!(benches);
