//! The block manager under random use, held against two oracles after every operation: a naive manager that decides the
//! same things by searching, and the contents of the blocks. Whatever is forked, copied, found, evicted and handed out
//! again in the middle of planning a step, each sequence must read through its table what it wrote.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use folio_core::ids::{Salt, Token};
use folio_core::kv::{BlockTable, Claim, Computed, Config, KvMemory, Manager, SwappedTable};
use folio_core::plan::CacheOp;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

mod contents;
mod naive;
mod scenarios;
mod script;
mod sharing;

use contents::{Contents, Mark, mark};
use naive::Naive;
use script::{Action, Script, script};

/// What a sequence is, wherever its blocks are.
#[derive(Clone)]
struct Story {
    /// Which sequences are forks of each other.
    group: usize,
    salt: u64,
    /// How many positions at the start are pinned for every salt.
    pinned: usize,
    tokens: Vec<Token>,
    /// What each position must contain once computed.
    marks: Vec<Mark>,
    /// Positions whose KV has been written.
    computed: usize,
}

impl Story {
    fn push(&mut self, token: Token) {
        let before = match self.marks.last() {
            None if self.pinned > 0 => 0,
            None => self.salt,
            Some(&last) if self.marks.len() == self.pinned => {
                mark(last, Token(u32::MAX)) ^ self.salt
            }
            Some(&last) => last,
        };
        self.marks.push(mark(before, token));
        self.tokens.push(token);
    }
}

struct Sequence {
    table: BlockTable,
    naive: naive::Table,
    story: Story,
}

/// A whole group.
struct Swapped {
    tables: Vec<SwappedTable>,
    naive: Vec<naive::Swapped>,
    stories: Vec<Story>,
}

/// The manager, its oracles, and the step that is being planned.
struct World {
    block_size: usize,
    manager: Manager,
    naive: Naive,
    contents: Contents,
    ops: Vec<CacheOp>,
    sequences: Vec<Sequence>,
    swapped: Vec<Swapped>,
    groups: usize,
    pins: usize,
}

/// One of `items`, if there are any.
fn pick<T>(which: &Index, items: &[T]) -> Option<usize> {
    (!items.is_empty()).then(|| which.index(items.len()))
}

impl World {
    fn new(script: &Script) -> Self {
        let &Script { block_size, capacity, swap_slots, prefix_caching, secret, .. } = script;
        let config = Config { block_size, capacity, prefix_caching, secret };
        let block_size = block_size as usize;
        Self {
            block_size,
            manager: Manager::new(config).unwrap().with_swap_space(swap_slots),
            naive: Naive::new(block_size, capacity, prefix_caching, swap_slots),
            contents: Contents::new(block_size, capacity, swap_slots),
            ops: Vec::new(),
            sequences: Vec::new(),
            swapped: Vec::new(),
            groups: 0,
            pins: 0,
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            &Action::Admit { stream, ref lengths, last, salt, use_prefix_cache, beside } => {
                for &length in lengths {
                    let tokens = self.prompt(stream, length, last);
                    let (salt, sequences, longest) = (Salt(salt), 1, u32::MAX);
                    let tokens = &tokens;
                    self.admit(&Claim {
                        tokens,
                        salt,
                        use_prefix_cache,
                        beside,
                        sequences,
                        longest,
                    });
                    self.check();
                }
            }
            Action::Append { which, length, token } => {
                if let Some(which) = pick(which, &self.sequences) {
                    self.append(which, *length, *token);
                }
            }
            Action::Fork { which } => {
                if let Some(which) = pick(which, &self.sequences) {
                    self.fork(which);
                }
            }
            Action::Free { which } => {
                if let Some(which) = pick(which, &self.sequences) {
                    self.free(which);
                }
            }
            Action::Await { which } => {
                if let Some(which) = pick(which, &self.sequences) {
                    self.await_prefix(which);
                }
            }
            Action::SwapOut { which } => {
                if let Some(which) = pick(which, &self.sequences) {
                    self.swap_out(self.sequences[which].story.group);
                }
            }
            Action::SwapIn { which } => {
                if let Some(which) = pick(which, &self.swapped) {
                    self.swap_in(which);
                }
            }
            Action::Forget { which } => {
                if let Some(which) = pick(which, &self.swapped) {
                    self.forget(which);
                }
            }
            Action::Pin { which } => {
                if let Some(which) = pick(which, &self.sequences) {
                    self.pin(which);
                }
            }
            Action::Step { pace } => self.step(pace),
        }
    }

    fn positions(&self, length: usize) -> usize {
        1 + length * self.block_size / 64
    }

    /// Prompts of one stream are the same up to their last token.
    fn prompt(&self, stream: u32, length: usize, last: u32) -> Vec<Token> {
        let length = u32::try_from(self.positions(length)).unwrap();
        let mut prompt: Vec<_> = (0..length).map(|i| Token((i * i * (stream + 1)) % 5)).collect();
        *prompt.last_mut().unwrap() = Token(last);
        prompt
    }

    fn admit(&mut self, claim: &Claim<'_>) {
        let &Claim { tokens, salt: Salt(salt), .. } = claim;
        let matched = self.manager.match_prefix(tokens, Salt(salt)) as usize;
        assert_eq!(matched, self.naive.match_prefix(tokens, salt).1 * self.block_size);
        assert!(matched < tokens.len(), "nothing is left to compute");

        let before = format!("{:?} {:?}", self.manager, self.ops);
        let queued = self.ops.len();
        let expected = self.naive.admit(claim);
        match (self.manager.admit(claim, &mut self.ops), expected) {
            (Ok(table), Ok((naive, copy))) => {
                assert_eq!(self.ops[queued..], Vec::from_iter(copy));
                assert_eq!(table.cached() as usize, naive.cached);
                self.groups += 1;
                let mut story = Story {
                    group: self.groups,
                    salt,
                    pinned: naive.cache.1 * self.block_size,
                    tokens: Vec::new(),
                    marks: Vec::new(),
                    computed: naive.cached,
                };
                tokens.iter().for_each(|&token| story.push(token));
                self.sequences.push(Sequence { table, naive, story });
            }
            (Err(short), Err(expected)) => {
                assert_eq!(short, expected);
                let after = format!("{:?} {:?}", self.manager, self.ops);
                assert_eq!(after, before, "Short, but something changed");
            }
            (got, expected) => panic!("admit: {got:?}, expected {expected:?}"),
        }
    }

    fn append(&mut self, which: usize, length: usize, token: u32) {
        let by = self.positions(length);
        let sequence = &mut self.sequences[which];
        let len = sequence.story.tokens.len();
        let upto = len + by;
        let before = format!("{:?} {:?} {:?}", self.manager, sequence.table, self.ops);
        let queued = self.ops.len();

        let expected = self.naive.append(&mut sequence.naive, len, upto);
        let upto = u32::try_from(upto).unwrap();
        match (self.manager.append(&mut sequence.table, upto, &mut self.ops), expected) {
            (Ok(()), Ok(copy)) => {
                assert_eq!(self.ops[queued..], Vec::from_iter(copy));
                (0..by).for_each(|_| sequence.story.push(Token(token)));
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
        let Sequence { table, naive, story } = &self.sequences[which];
        if story.computed == story.tokens.len() {
            self.sequences.push(Sequence {
                table: self.manager.fork(table),
                naive: self.naive.fork(naive),
                story: story.clone(),
            });
        }
    }

    fn free(&mut self, which: usize) {
        let sequence = self.sequences.swap_remove(which);
        self.naive.free(&sequence.naive);
        self.manager.free(sequence.table);
    }

    fn pin(&mut self, which: usize) {
        if self.pins < 2 && self.sequences[which].story.salt == 0 {
            self.pins += 1;
            let sequence = self.sequences.swap_remove(which);
            self.naive.pin(&sequence.naive);
            self.manager.pin(sequence.table);
        }
    }

    /// Whether the sequence must wait. One that goes on may have lost positions that it had not computed.
    fn await_prefix(&mut self, which: usize) -> bool {
        let Sequence { table, naive, story } = &mut self.sequences[which];
        let waits = self.manager.await_prefix(table);
        assert_eq!(waits, self.naive.await_prefix(naive));
        story.computed = story.computed.max(table.cached() as usize);
        story.tokens.truncate(table.len() as usize);
        story.marks.truncate(table.len() as usize);
        waits
    }

    fn swap_out(&mut self, group: usize) {
        let before = format!("{:?} {:?}", self.manager, self.ops);
        let queued = self.ops.len();
        let (leave, stay): (Vec<_>, Vec<_>) =
            self.sequences.drain(..).partition(|sequence| sequence.story.group == group);
        self.sequences = stay;
        let (mut tables, mut naive, mut stories) = (Vec::new(), Vec::new(), Vec::new());
        for Sequence { table, naive: own, story } in leave {
            let computed = u32::try_from(story.computed).unwrap();
            tables.push(Computed { table, computed });
            naive.push((own, story.computed));
            stories.push(story);
        }
        let oracle: Vec<_> = naive.iter().map(|(table, computed)| (table, *computed)).collect();
        let expected = self.naive.swap_out(&oracle);
        match (self.manager.swap_out(tables, &mut self.ops), expected) {
            (Ok(tables), Ok((naive, ops))) => {
                assert_eq!(self.ops[queued..], ops);
                for story in &mut stories {
                    story.tokens.truncate(story.computed);
                    story.marks.truncate(story.computed);
                }
                self.swapped.push(Swapped { tables, naive, stories });
            }
            (Err((short, tables)), Err(expected)) => {
                assert_eq!(short, expected);
                assert_eq!(format!("{:?} {:?}", self.manager, self.ops), before);
                let parts = tables.into_iter().zip(naive).zip(stories);
                self.sequences.extend(parts.map(|((table, (naive, _)), story)| Sequence {
                    table: table.table,
                    naive,
                    story,
                }));
            }
            (got, _) => panic!("swap_out: {got:?}"),
        }
    }

    fn swap_in(&mut self, which: usize) {
        let before = format!("{:?} {:?}", self.manager, self.ops);
        let queued = self.ops.len();
        let Swapped { tables, naive, stories } = self.swapped.swap_remove(which);
        match (self.manager.swap_in(tables, &mut self.ops), self.naive.swap_in(&naive)) {
            (Ok(tables), Ok((naive, ops))) => {
                assert_eq!(self.ops[queued..], ops);
                let parts = tables.into_iter().zip(naive).zip(stories);
                let back = |((table, naive), story)| Sequence { table, naive, story };
                self.sequences.extend(parts.map(back));
            }
            (Err((short, tables)), Err(expected)) => {
                assert_eq!(short, expected);
                assert_eq!(format!("{:?} {:?}", self.manager, self.ops), before);
                self.swapped.push(Swapped { tables, naive, stories });
            }
            (got, _) => panic!("swap_in: {got:?}"),
        }
    }

    fn forget(&mut self, which: usize) {
        let Swapped { tables, naive, .. } = self.swapped.swap_remove(which);
        self.naive.forget(&naive);
        tables.into_iter().for_each(|table| self.manager.forget_swapped(table));
    }

    fn step(&mut self, pace: &[usize]) {
        let wait: Vec<bool> =
            (0..self.sequences.len()).map(|which| self.await_prefix(which)).collect();
        let mut batched = self.contents.clone();
        batched.execute_in_batches(&self.ops);
        self.contents.execute(&self.ops);
        assert_eq!(batched, self.contents, "the hazard rule does not suffice for {:?}", self.ops);
        self.ops.clear();

        let rows = self.sequences.iter_mut().zip(pace.iter().cycle()).zip(wait);
        for ((sequence, pace), _) in rows.filter(|(_, waits)| !waits) {
            let Sequence { naive, story, .. } = sequence;
            let todo = (story.tokens.len() - story.computed) * pace / 4;
            for position in story.computed..story.computed + todo {
                let block = naive.blocks[position / self.block_size];
                assert!(self.naive.may_write(naive, block), "a row writes to a block of others");
                self.contents.write(&naive.blocks, position, story.marks[position]);
            }
            story.computed += todo;
        }
        for Sequence { table, naive, story } in &mut self.sequences {
            let computed = &story.tokens[..story.computed];
            self.manager.publish(table, computed);
            self.naive.publish(naive, computed);
        }
    }

    fn check(&self) {
        self.manager.check(&mut self.sequences.iter().map(|sequence| &sequence.table)).unwrap();
        let swapped = self.swapped.iter().flat_map(|group| &group.tables);
        self.manager.check_swapped(&mut swapped.clone()).unwrap();
        assert_eq!(self.manager.stats(), self.naive.stats());
        assert_eq!(self.manager.free_blocks(), self.manager.stats().free);
        // What the coming forward pass would find.
        let mut contents = self.contents.clone();
        contents.execute(&self.ops);
        for Sequence { table, naive, story } in &self.sequences {
            let blocks: Vec<u32> = table.blocks().iter().map(|block| block.0).collect();
            assert_eq!(blocks, naive.blocks);
            assert_eq!(table.len() as usize, story.tokens.len());
            assert_eq!(table.cached() as usize, naive.cached);
            for (position, &mark) in story.marks[..story.computed].iter().enumerate() {
                assert_eq!(contents.read(&blocks, position), Some(mark), "position {position}");
            }
        }
        let stories = self.swapped.iter().flat_map(|group| &group.stories);
        for (table, story) in swapped.zip(stories) {
            let slots: Vec<u32> = table.slots().iter().map(|slot| slot.0).collect();
            assert_eq!(table.len() as usize, story.computed);
            for (position, &mark) in story.marks.iter().enumerate() {
                assert_eq!(contents.read_swapped(&slots, position), Some(mark), "swapped");
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
    while !world.swapped.is_empty() {
        world.forget(0);
        world.check();
    }
    while !world.sequences.is_empty() {
        world.free(0);
        world.check();
    }
    assert_eq!(world.manager.free_blocks(), script.capacity - world.manager.stats().pinned);
    assert_eq!(world.manager.stats().swap_used, 0);
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
