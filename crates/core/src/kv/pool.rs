//! Who holds which physical block, and which free block is handed out next.
//!
//! All metadata lies in one flat `Vec`, and the free list is threaded through it, so every operation is O(1) and none
//! allocates. *A free block keeps its label*: free memory is the prefix cache, and nothing is set aside for it.
//!
//! **Invariants.** `refs == 0` ⇔ the block is on the free list. On the list, blank blocks come first, for losing one costs
//! nothing; labelled ones follow, the least recently released first; all of them contain what the label says. A block that
//! is handed out is blank: its old label is returned to the caller, who must forget it.

use super::hash::BlockHash;
use crate::ids::BlockId;

/// What is known of a block's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Nothing: nobody can find the block.
    Blank,
    /// It is going to contain what the hash says; somebody who holds it is computing that.
    Promised(BlockHash),
    /// It contains what the hash says.
    Ready(BlockHash),
    /// Nobody holds it, and so many of its first positions contain something findable; see [`super::kin`].
    Partial(u8),
}

/// A [`Label`] without its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Blank,
    Promised,
    Ready,
    Partial(u8),
}

/// 32 bytes per block.
#[derive(Clone, Copy, Debug)]
struct Meta {
    /// Set when the block is ready or promised; see [`super::prefix`].
    hash: Option<BlockHash>,
    state: State,
    /// Whether one of the refs is for good.
    pinned: bool,
    /// How many tables hold the block.
    refs: u32,
    /// Neighbours on the free list; meaningless while the block is held.
    prev: u32,
    next: u32,
}

/// A block that was taken from the free list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a taken block that is not put into a table is lost, and its old label must be forgotten"]
pub(super) struct Taken {
    pub(super) block: BlockId,
    /// What the block cached until now.
    pub(super) evicted: Label,
}

/// The blocks' metadata and the free list.
#[derive(Debug)]
pub(super) struct Pool {
    /// One entry per block, and one more that closes the free list to a ring: its `next` is the block to be taken next,
    /// its `prev` the one to be taken last.
    meta: Vec<Meta>,
    anchor: u32,
    free: u32,
    cached_free: u32,
    shared: u32,
    /// Sum of all refs.
    held: u64,
    pinned: u32,
}

impl Pool {
    /// A pool of `capacity` free blocks, to be taken in ascending order.
    pub(super) fn new(capacity: u32) -> Self {
        let meta = |index: u32| Meta {
            hash: None,
            state: State::Blank,
            pinned: false,
            refs: 0,
            prev: index.checked_sub(1).unwrap_or(capacity),
            next: if index == capacity { 0 } else { index + 1 },
        };
        Self {
            meta: (0..=capacity).map(meta).collect(),
            anchor: capacity,
            free: capacity,
            cached_free: 0,
            shared: 0,
            held: 0,
            pinned: 0,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.anchor
    }

    /// Blocks held by no table.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// Free blocks that still carry a hash.
    pub(super) fn cached_free(&self) -> u32 {
        self.cached_free
    }

    /// Blocks held by more than one table.
    pub(super) fn shared(&self) -> u32 {
        self.shared
    }

    /// Blocks in all tables, each counted for every table that holds it.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Blocks that are held for good.
    pub(super) fn pinned(&self) -> u32 {
        self.pinned
    }

    pub(super) fn is_pinned(&self, block: BlockId) -> bool {
        self.meta[block.index()].pinned
    }

    pub(super) fn refs(&self, block: BlockId) -> u32 {
        self.meta[block.index()].refs
    }

    pub(super) fn label(&self, block: BlockId) -> Label {
        let Meta { hash, state, .. } = self.meta[block.index()];
        match (state, hash) {
            (State::Promised, Some(hash)) => Label::Promised(hash),
            (State::Ready, Some(hash)) => Label::Ready(hash),
            (State::Partial(filled), _) => Label::Partial(filled),
            _ => Label::Blank,
        }
    }

    /// The hash of what the block contains, if that is findable.
    pub(super) fn hash(&self, block: BlockId) -> Option<BlockHash> {
        let Meta { hash, state, .. } = self.meta[block.index()];
        hash.filter(|_| state == State::Ready)
    }

    /// Hands out the free block whose loss costs least, held once.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let block = BlockId(self.meta[self.anchor as usize].next);
        if block.0 == self.anchor {
            return None;
        }
        self.hold(block);
        let evicted = self.label(block);
        let meta = &mut self.meta[block.index()];
        (meta.hash, meta.state) = (None, State::Blank);
        Some(Taken { block, evicted })
    }

    /// One more table holds the block; a free block leaves the free list and keeps its hash.
    pub(super) fn hold(&mut self, block: BlockId) {
        let meta = &mut self.meta[block.index()];
        meta.refs += 1;
        self.held += 1;
        match meta.refs {
            1 => self.unlink(block),
            2 => self.shared += 1,
            _ => {}
        }
    }

    /// Holds a block for good, once.
    pub(super) fn pin(&mut self, block: BlockId) {
        if !self.is_pinned(block) {
            self.hold(block);
            self.meta[block.index()].pinned = true;
            self.pinned += 1;
        }
    }

    /// One table less holds the block; the last one puts it on the free list.
    pub(super) fn release(&mut self, block: BlockId) {
        let meta = &mut self.meta[block.index()];
        debug_assert!(meta.refs > 0, "block {block} is released but nobody holds it");
        meta.refs -= 1;
        self.held -= 1;
        match meta.refs {
            0 => self.link(block),
            1 => self.shared -= 1,
            _ => {}
        }
    }

    /// Labels a held block.
    pub(super) fn set(&mut self, block: BlockId, label: Label) {
        let meta = &mut self.meta[block.index()];
        debug_assert!(
            meta.refs > 0 && !matches!(meta.state, State::Ready | State::Partial(_)),
            "block {block}: {meta:?} becomes {label:?}"
        );
        (meta.hash, meta.state) = match label {
            Label::Blank => (None, State::Blank),
            Label::Promised(hash) => (Some(hash), State::Promised),
            Label::Ready(hash) => (Some(hash), State::Ready),
            Label::Partial(filled) => (None, State::Partial(filled)),
        };
    }

    fn unlink(&mut self, block: BlockId) {
        let Meta { state, prev, next, .. } = self.meta[block.index()];
        self.meta[prev as usize].next = next;
        self.meta[next as usize].prev = prev;
        self.free -= 1;
        self.cached_free -= u32::from(state != State::Blank);
    }

    fn link(&mut self, block: BlockId) {
        let cached = self.meta[block.index()].state != State::Blank;
        let anchor = self.meta[self.anchor as usize];
        let (prev, next) =
            if cached { (anchor.prev, self.anchor) } else { (self.anchor, anchor.next) };
        self.meta[block.index()].prev = prev;
        self.meta[block.index()].next = next;
        self.meta[prev as usize].next = block.0;
        self.meta[next as usize].prev = block.0;
        self.free += 1;
        self.cached_free += u32::from(cached);
    }

    /// The free blocks, in the order in which they would be taken. Ends early if the list is broken.
    pub(super) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        let next = |index: u32| self.meta.get(index as usize).map(|meta| meta.next);
        std::iter::successors(next(self.anchor), move |&index| next(index))
            .take_while(|&index| index < self.anchor)
            .take(self.meta.len())
            .map(BlockId)
    }

    /// Checks the free list and the counters against the metadata.
    ///
    /// # Errors
    /// A sentence on the first invariant that does not hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let (mut on_list, mut before, mut seen_cached) = (0, self.anchor, false);
        for block in self.free_list() {
            let meta = &self.meta[block.index()];
            if meta.refs != 0 {
                return Err(format!(
                    "block {block} is on the free list and has {} refs",
                    meta.refs
                ));
            }
            if meta.prev != before {
                return Err(format!("block {block} follows {before} but points to {}", meta.prev));
            }
            if meta.state == State::Promised {
                return Err(format!("block {block} is on the free list and was promised"));
            }
            if seen_cached && meta.state == State::Blank {
                return Err(format!("block {block} is worth nothing but will be taken late"));
            }
            seen_cached |= meta.state != State::Blank;
            before = block.0;
            on_list += 1;
        }
        let end = self.meta[self.anchor as usize].prev;
        if end != before {
            return Err(format!("the free list ends with {before} but the anchor says {end}"));
        }
        let blocks = &self.meta[..self.anchor as usize];
        let count = |of: fn(&Meta) -> bool| blocks.iter().filter(|meta| of(meta)).count();
        let free = count(|meta| meta.refs == 0);
        if on_list != free {
            return Err(format!("{free} blocks are free but {on_list} are on the free list"));
        }
        for (name, counter, counted) in [
            ("free", self.free, free),
            (
                "cached",
                self.cached_free,
                count(|meta| meta.refs == 0 && meta.state != State::Blank),
            ),
            ("shared", self.shared, count(|meta| meta.refs > 1)),
            ("pinned", self.pinned, count(|meta| meta.pinned)),
        ] {
            if counter as usize != counted {
                return Err(format!("{counter} {name} blocks were counted, there are {counted}"));
            }
        }
        let held: u64 = blocks.iter().map(|meta| u64::from(meta.refs)).sum();
        if self.held != held {
            return Err(format!("{} refs were counted, there are {held}", self.held));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::BlockHasher;
    use super::*;
    use crate::ids::Salt;

    fn hash(of: u64) -> BlockHash {
        BlockHasher::new(0).root(Salt(of)).hash
    }

    fn free_list(pool: &Pool) -> Vec<u32> {
        pool.check().unwrap();
        pool.free_list().map(|block| block.0).collect()
    }

    /// A pool whose blocks are all held, those in `cached` with a hash.
    fn held(capacity: u32, cached: &[u32]) -> Pool {
        let mut pool = Pool::new(capacity);
        for index in 0..capacity {
            assert_eq!(pool.take(), Some(Taken { block: BlockId(index), evicted: Label::Blank }));
        }
        for &index in cached {
            pool.set(BlockId(index), Label::Ready(hash(index.into())));
        }
        assert_eq!(pool.take(), None);
        assert_eq!(free_list(&pool), []);
        pool
    }

    #[test]
    fn cached_blocks_are_taken_last_and_the_longest_free_of_them_first() {
        let mut pool = held(6, &[1, 2, 4]);
        for index in [4, 0, 1, 5, 2] {
            pool.release(BlockId(index));
        }
        assert_eq!(free_list(&pool), [5, 0, 4, 1, 2]);
        assert_eq!((pool.free(), pool.cached_free()), (5, 3));
        let taken: Vec<_> = std::iter::from_fn(|| pool.take())
            .map(|Taken { block, evicted }| (block.0, evicted))
            .collect();
        let evicted = |index: u32| (index, Label::Ready(hash(index.into())));
        assert_eq!(
            taken,
            [(5, Label::Blank), (0, Label::Blank), evicted(4), evicted(1), evicted(2)]
        );
        assert_eq!(pool.hash(BlockId(4)), None);
    }

    #[test]
    fn a_free_block_that_is_held_again_keeps_its_hash_and_becomes_the_last_to_be_taken() {
        let mut pool = held(3, &[0, 1, 2]);
        for index in [0, 1, 2] {
            pool.release(BlockId(index));
        }
        pool.hold(BlockId(1));
        assert_eq!(free_list(&pool), [0, 2]);
        assert_eq!((pool.refs(BlockId(1)), pool.hash(BlockId(1))), (1, Some(hash(1))));
        pool.hold(BlockId(0));
        pool.release(BlockId(0));
        pool.release(BlockId(1));
        assert_eq!(free_list(&pool), [2, 0, 1]);
    }

    #[test]
    fn a_block_is_free_when_its_last_holder_lets_go() {
        let mut pool = held(2, &[]);
        for _ in 0..3 {
            pool.hold(BlockId(0));
        }
        for shared in [1, 1, 0] {
            pool.release(BlockId(0));
            assert_eq!((pool.shared(), pool.free()), (shared, 0));
        }
        pool.release(BlockId(0));
        assert_eq!((pool.shared(), pool.free()), (0, 1));
        assert_eq!(free_list(&pool), [0]);
    }

    #[test]
    fn metadata_stays_small() {
        assert_eq!(size_of::<Meta>(), 32);
    }

    #[test]
    fn a_damaged_pool_is_reported() {
        type Damage = fn(&mut Pool);
        let damages: [(Damage, &str); 11] = [
            (|pool| pool.meta[1].refs = 1, "block 1 is on the free list and has 1 refs"),
            (|pool| pool.meta[0].refs = 0, "5 blocks are free but 4 are on the free list"),
            (|pool| pool.meta[2].prev = 4, "block 2 follows 1 but points to 4"),
            (|pool| pool.meta[4].next = 1, "block 1 follows 4 but points to 5"),
            (|pool| pool.meta[5].prev = 1, "the free list ends with 4 but the anchor says 1"),
            (
                |pool| pool.meta[4].state = State::Promised,
                "block 4 is on the free list and was promised",
            ),
            (|pool| pool.meta[1].state = State::Partial(1), "block 2 is worth nothing but"),
            (|pool| pool.cached_free = 2, "2 cached blocks were counted, there are 1"),
            (|pool| pool.shared = 1, "1 shared blocks were counted, there are 0"),
            (|pool| pool.pinned = 1, "1 pinned blocks were counted, there are 0"),
            (|pool| pool.held = 2, "2 refs were counted, there are 1"),
        ];
        for (damage, report) in damages {
            let mut pool = held(5, &[4]);
            for index in [4, 3, 2, 1] {
                pool.release(BlockId(index));
            }
            assert_eq!(free_list(&pool), [1, 2, 3, 4]);
            damage(&mut pool);
            let error = pool.check().unwrap_err();
            assert!(error.contains(report), "{error:?} does not say {report:?}");
        }
    }
}
