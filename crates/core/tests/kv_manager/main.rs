//! The block manager under random use, held against two oracles after every operation: a naive manager that decides the
//! same things by searching, and the contents of the blocks. Whatever is forked, copied, found, evicted and handed out
//! again in the middle of planning a step, each sequence must read through its table what it wrote.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use folio_core::ids::{BlockId, Salt, Token};
use folio_core::kv::{BlockTable, Claim, Config, KvMemory, Manager};
use folio_core::plan::CacheOp;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

mod contents;
mod naive;
mod scenarios;

use contents::{Contents, Mark, mark};
use naive::{Blocks, Naive};

/// Lengths are in 64ths of a block, so that one script suits every block size.
#[derive(Clone, Debug)]
enum Action {
    Admit {
        stream: u32,
        length: usize,
        last: u32,
        salt: u64,
        use_prefix_cache: bool,
    },
    Append {
        which: Index,
        length: usize,
        token: u32,
    },
    Fork {
        which: Index,
    },
    Free {
        which: Index,
    },
    /// Executes what was planned; a sequence computes `pace` quarters of what it has left to do.
    Step {
        pace: Vec<usize>,
    },
}

#[derive(Clone, Debug)]
struct Script {
    block_size: u32,
    capacity: u32,
    prefix_caching: bool,
    secret: u64,
    actions: Vec<Action>,
}

fn action() -> impl Strategy<Value = Action> {
    let which = any::<Index>;
    let admit = (0..3u32, 0..=256usize, 0..2u32, 0..2u64, prop::bool::weighted(0.85)).prop_map(
        |(stream, length, last, salt, use_prefix_cache)| Action::Admit {
            stream,
            length,
            last,
            salt,
            use_prefix_cache,
        },
    );
    let append = (which(), prop_oneof![3 => Just(0), 1 => 0..=128usize], 0..2u32)
        .prop_map(|(which, length, token)| Action::Append { which, length, token });
    let pace = prop_oneof![Just(vec![4]), prop::collection::vec(0..=4usize, 1..4)];
    prop_oneof![
        3 => admit,
        6 => append,
        2 => which().prop_map(|which| Action::Fork { which }),
        2 => which().prop_map(|which| Action::Free { which }),
        5 => pace.prop_map(|pace| Action::Step { pace }),
    ]
}

fn script(block_size: impl Strategy<Value = u32>) -> impl Strategy<Value = Script> {
    (
        block_size,
        1..=20u32,
        prop::bool::weighted(0.8),
        any::<u64>(),
        prop::collection::vec(action(), 1..80),
    )
        .prop_map(|(block_size, capacity, prefix_caching, secret, actions)| Script {
            block_size,
            capacity,
            prefix_caching,
            secret,
            actions,
        })
}

struct Sequence {
    table: BlockTable,
    naive: Blocks,
    salt: u64,
    tokens: Vec<Token>,
    /// What each position must contain once computed.
    marks: Vec<Mark>,
    /// Positions whose KV has been written.
    computed: usize,
    /// Blocks that have been published.
    published: usize,
}

impl Sequence {
    fn push(&mut self, token: Token) {
        let before = self.marks.last().copied().unwrap_or(self.salt);
        self.marks.push(mark(before, token));
        self.tokens.push(token);
    }
}

/// The manager, its oracles, and the step that is being planned.
struct World {
    block_size: usize,
    manager: Manager,
    naive: Naive,
    contents: Contents,
    ops: Vec<CacheOp>,
    sequences: Vec<Sequence>,
}

impl World {
    fn new(script: &Script) -> Self {
        let &Script { block_size, capacity, prefix_caching, secret, .. } = script;
        let config = Config { block_size, capacity, prefix_caching, secret };
        let block_size = block_size as usize;
        Self {
            block_size,
            manager: Manager::new(config).unwrap(),
            naive: Naive::new(block_size, capacity, prefix_caching),
            contents: Contents::new(block_size, capacity, 0),
            ops: Vec::new(),
            sequences: Vec::new(),
        }
    }

    fn positions(&self, length: usize) -> usize {
        1 + length * self.block_size / 64
    }

    fn act(&mut self, action: &Action) {
        match action {
            &Action::Admit { stream, length, last, salt, use_prefix_cache } => {
                self.admit(&self.prompt(stream, length, last), salt, use_prefix_cache);
            }
            Action::Append { which, length, token } => {
                if !self.sequences.is_empty() {
                    self.append(which.index(self.sequences.len()), *length, *token);
                }
            }
            Action::Fork { which } => {
                if !self.sequences.is_empty() {
                    self.fork(which.index(self.sequences.len()));
                }
            }
            Action::Free { which } => {
                if !self.sequences.is_empty() {
                    self.free(which.index(self.sequences.len()));
                }
            }
            Action::Step { pace } => self.step(pace),
        }
    }

    /// Prompts of one stream are the same up to their last token.
    fn prompt(&self, stream: u32, length: usize, last: u32) -> Vec<Token> {
        let length = u32::try_from(self.positions(length)).unwrap();
        let mut prompt: Vec<_> = (0..length).map(|i| Token((i * i * (stream + 1)) % 5)).collect();
        *prompt.last_mut().unwrap() = Token(last);
        prompt
    }

    fn admit(&mut self, tokens: &[Token], salt: u64, use_prefix_cache: bool) {
        let matched = self.manager.match_prefix(tokens, Salt(salt)) as usize;
        assert_eq!(matched, self.naive.match_prefix(tokens, salt).len() * self.block_size);
        assert!(matched < tokens.len(), "nothing is left to compute");

        let before = format!("{:?}", self.manager);
        let longest = u32::MAX;
        let claim = Claim { tokens, salt: Salt(salt), use_prefix_cache, sequences: 1, longest };
        let expected = self.naive.admit(tokens, salt, use_prefix_cache);
        match (self.manager.admit(&claim, &mut Vec::new()), expected) {
            (Ok(table), Ok((naive, cached))) => {
                assert_eq!(table.cached() as usize, cached);
                let mut new = Sequence {
                    table,
                    naive,
                    salt,
                    tokens: Vec::new(),
                    marks: Vec::new(),
                    computed: cached,
                    published: cached / self.block_size,
                };
                tokens.iter().for_each(|&token| new.push(token));
                self.sequences.push(new);
            }
            (Err(short), Err(expected)) => {
                assert_eq!(short, expected);
                assert_eq!(format!("{:?}", self.manager), before, "Short, but something changed");
            }
            (got, expected) => panic!("admit: {got:?}, expected {expected:?}"),
        }
    }

    fn append(&mut self, which: usize, length: usize, token: u32) {
        let by = self.positions(length);
        let sequence = &mut self.sequences[which];
        let (len, upto) = (sequence.tokens.len(), sequence.tokens.len() + by);
        let before = format!("{:?} {:?} {:?}", self.manager, sequence.table, self.ops);
        let queued = self.ops.len();

        let expected = self.naive.append(&mut sequence.naive, len, upto);
        let upto = u32::try_from(upto).unwrap();
        match (self.manager.append(&mut sequence.table, upto, &mut self.ops), expected) {
            (Ok(()), Ok(copy)) => {
                let copy = copy.map(|(source, destination)| CacheOp::Copy {
                    source: BlockId(source),
                    destination: BlockId(destination),
                });
                assert_eq!(self.ops[queued..], Vec::from_iter(copy));
                (0..by).for_each(|_| sequence.push(Token(token)));
            }
            (Err(short), Err(expected)) => {
                assert_eq!(short, expected);
                let after = format!("{:?} {:?} {:?}", self.manager, sequence.table, self.ops);
                assert_eq!(after, before, "Short, but something changed");
            }
            (got, expected) => panic!("append: {got:?}, expected {expected:?}"),
        }
    }

    /// Only what is computed may be forked; see `KvMemory::fork`.
    fn fork(&mut self, which: usize) {
        let parent = &self.sequences[which];
        if parent.computed == parent.tokens.len() {
            let child = Sequence {
                table: self.manager.fork(&parent.table),
                naive: self.naive.fork(&parent.naive),
                salt: parent.salt,
                tokens: parent.tokens.clone(),
                marks: parent.marks.clone(),
                computed: parent.computed,
                published: parent.published,
            };
            self.sequences.push(child);
        }
    }

    fn free(&mut self, which: usize) {
        let sequence = self.sequences.swap_remove(which);
        self.naive.free(&sequence.naive);
        self.manager.free(sequence.table);
    }

    fn step(&mut self, pace: &[usize]) {
        let mut batched = self.contents.clone();
        batched.execute_in_batches(&self.ops);
        self.contents.execute(&self.ops);
        assert_eq!(batched, self.contents, "the hazard rule does not suffice for {:?}", self.ops);
        self.ops.clear();

        for (sequence, pace) in self.sequences.iter_mut().zip(pace.iter().cycle()) {
            let todo = (sequence.tokens.len() - sequence.computed) * pace / 4;
            for position in sequence.computed..sequence.computed + todo {
                let block = sequence.naive[position / self.block_size];
                assert_eq!(self.naive.holders(block), 1, "a row writes to a shared block");
                self.contents.write(&sequence.naive, position, sequence.marks[position]);
            }
            sequence.computed += todo;
        }
        for sequence in &mut self.sequences {
            let computed = &sequence.tokens[..sequence.computed];
            self.manager.publish(&mut sequence.table, computed);
            let Sequence { naive, salt, published, .. } = sequence;
            *published = self.naive.publish(naive, *published, computed, *salt);
        }
    }

    fn check(&self) {
        self.manager.check(&mut self.sequences.iter().map(|sequence| &sequence.table)).unwrap();
        assert_eq!(self.manager.stats(), self.naive.stats());
        assert_eq!(self.manager.free_blocks(), self.manager.stats().free);
        // What the coming forward pass would find.
        let mut contents = self.contents.clone();
        contents.execute(&self.ops);
        for sequence in &self.sequences {
            let blocks: Blocks = sequence.table.blocks().iter().map(|block| block.0).collect();
            assert_eq!(blocks, sequence.naive);
            assert_eq!(sequence.table.len() as usize, sequence.tokens.len());
            for (position, &mark) in sequence.marks[..sequence.computed].iter().enumerate() {
                assert_eq!(contents.read(&blocks, position), Some(mark), "position {position}");
            }
        }
    }
}

fn play(script: &Script) {
    let mut world = World::new(script);
    for action in &script.actions {
        world.act(action);
        world.check();
    }
    while !world.sequences.is_empty() {
        world.free(0);
        world.check();
    }
    assert_eq!(world.manager.free_blocks(), script.capacity);
}

fn config(cases: u32) -> ProptestConfig {
    let file = FileFailurePersistence::Direct("tests/kv_manager/regressions.txt");
    ProptestConfig { cases, failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn every_sequence_reads_what_it_wrote(script in script(1..=8u32)) {
        play(&script);
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn large_blocks_are_no_different(script in script(prop_oneof![9..=256u32, Just(256)])) {
        play(&script);
    }
}
