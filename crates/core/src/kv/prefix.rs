//! Finds the block that already holds the KV of some tokens.
//!
//! **Invariants.** An entry `hash → block` exists exactly while the pool's block carries that hash, whether the block is
//! held or free, ready or only promised. Of two blocks with equal contents the first stays indexed; the other is an ordinary block that nobody finds.

use rustc_hash::FxHashMap;

use super::hash::BlockHash;
use crate::ids::BlockId;

/// The index from hash to block. The keys are uniform and made with a secret, so a fast hash of them is safe.
#[derive(Debug, Default)]
pub(super) struct PrefixIndex {
    blocks: FxHashMap<BlockHash, BlockId>,
}

impl PrefixIndex {
    pub(super) fn get(&self, hash: BlockHash) -> Option<BlockId> {
        self.blocks.get(&hash).copied()
    }

    pub(super) fn insert(&mut self, hash: BlockHash, block: BlockId) {
        let before = self.blocks.insert(hash, block);
        debug_assert!(before.is_none(), "block {block} takes the place of {before:?} in the index");
    }

    /// Forgets a block that was handed out to be overwritten.
    pub(super) fn forget(&mut self, hash: BlockHash) {
        let before = self.blocks.remove(&hash);
        debug_assert!(before.is_some(), "an evicted block was not in the index");
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockHash, BlockId)> {
        self.blocks.iter().map(|(&hash, &block)| (hash, block))
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::BlockHasher;
    use super::*;
    use crate::ids::Salt;

    #[test]
    fn finds_what_it_was_told_until_it_forgets() {
        let hasher = BlockHasher::new(1);
        let [one, two] = [1, 2].map(|salt| hasher.root(Salt(salt)).hash);
        let mut index = PrefixIndex::default();
        index.insert(one, BlockId(4));
        index.insert(two, BlockId(5));
        assert_eq!((index.get(one), index.get(two)), (Some(BlockId(4)), Some(BlockId(5))));
        index.forget(one);
        assert_eq!((index.get(one), index.get(two)), (None, Some(BlockId(5))));
        assert_eq!(index.iter().collect::<Vec<_>>(), [(two, BlockId(5))]);
    }
}
