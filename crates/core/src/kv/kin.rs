//! Which findable blocks continue the same past, and with what tokens: to find one that *begins* as a claim goes on.
//!
//! A hash finds a full block or nothing. Of a block that a claim shares only the start of, or that was never full, the
//! tokens themselves must be compared, so they are kept. The blocks that follow one parent form a list, the one that became
//! findable last at its head; only the first few are ever looked at.
//!
//! **Invariants.** A block is in the list of its parent exactly while it is labelled ready or partial. All metadata lies in
//! flat `Vec`s with the lists threaded through; every operation is O(1) or O(tokens).

use rustc_hash::FxHashMap;

use super::hash::BlockHash;
use crate::ids::{BlockId, Token};

/// How many blocks that follow the same parent are compared.
const COMPARED: usize = 8;

/// Ends a list.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    parent: Option<BlockHash>,
    newer: u32,
    older: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Kin {
    block_size: usize,
    /// The tokens of each block, as far as they have been noted.
    tokens: Vec<Token>,
    links: Vec<Link>,
    /// The block that became findable last, by parent.
    newest: FxHashMap<BlockHash, u32>,
}

impl Kin {
    pub(super) fn new(block_size: u32, capacity: u32) -> Self {
        let (block_size, capacity) = (block_size as usize, capacity as usize);
        Self {
            block_size,
            tokens: vec![Token(0); block_size * capacity],
            links: vec![Link { parent: None, newer: NONE, older: NONE }; capacity],
            newest: FxHashMap::default(),
        }
    }

    /// Remembers what `block` contains from position `at` on.
    pub(super) fn note(&mut self, block: BlockId, at: usize, tokens: &[Token]) {
        let start = block.index() * self.block_size + at;
        self.tokens[start..start + tokens.len()].copy_from_slice(tokens);
    }

    pub(super) fn tokens(&self, block: BlockId) -> &[Token] {
        let start = block.index() * self.block_size;
        &self.tokens[start..start + self.block_size]
    }

    /// The block has become findable, after `parent`.
    pub(super) fn adopt(&mut self, parent: BlockHash, block: BlockId) {
        let older = self.newest.insert(parent, block.0).unwrap_or(NONE);
        debug_assert!(self.parent(block).is_none(), "block {block} has a parent already");
        self.links[block.index()] = Link { parent: Some(parent), newer: NONE, older };
        if let Some(older) = self.links.get_mut(older as usize) {
            older.newer = block.0;
        }
    }

    /// The block is findable no more.
    pub(super) fn disown(&mut self, block: BlockId) {
        let Link { parent, newer, older } = self.links[block.index()];
        let Some(parent) = parent else { return };
        if let Some(link) = self.links.get_mut(older as usize) {
            link.newer = newer;
        }
        if let Some(link) = self.links.get_mut(newer as usize) {
            link.older = older;
        } else if older == NONE {
            self.newest.remove(&parent);
        } else {
            self.newest.insert(parent, older);
        }
        self.links[block.index()].parent = None;
    }

    pub(super) fn parent(&self, block: BlockId) -> Option<BlockHash> {
        self.links[block.index()].parent
    }

    /// The blocks that follow `parent`, the newest first.
    pub(super) fn children(&self, parent: BlockHash) -> impl Iterator<Item = BlockId> {
        let exists = |index: u32| (index != NONE).then_some(index);
        let first = self.newest.get(&parent).copied();
        std::iter::successors(first, move |&index| exists(self.links.get(index as usize)?.older))
            .take(self.links.len())
            .map(BlockId)
    }

    /// Of the newest blocks that follow `parent` the one that begins most like `tokens`, and for how many tokens it
    /// does. `filled` tells how many of a block's tokens count.
    pub(super) fn most_alike(
        &self,
        parent: BlockHash,
        tokens: &[Token],
        filled: impl Fn(BlockId) -> usize,
    ) -> Option<(BlockId, usize)> {
        let alike = |block| {
            let own = &self.tokens(block)[..filled(block)];
            (block, own.iter().zip(tokens).take_while(|(own, token)| own == token).count())
        };
        // Of equals the newest, which is the last to be evicted.
        let compared = self.children(parent).take(COMPARED).map(alike);
        compared.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// The number of blocks in all lists, where each list is what it should be.
    ///
    /// # Errors
    /// A sentence on the first invariant that does not hold.
    pub(super) fn check(&self) -> Result<usize, String> {
        let mut listed = 0;
        for &parent in self.newest.keys() {
            let mut newer = NONE;
            for block in self.children(parent) {
                let link = self.links[block.index()];
                if link.parent != Some(parent) || link.newer != newer {
                    return Err(format!("block {block} is in a list of kin that is not its own"));
                }
                newer = block.0;
                listed += 1;
            }
        }
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::BlockHasher;
    use super::*;
    use crate::ids::Salt;

    #[test]
    fn lists_keep_their_order_while_blocks_come_and_go() {
        let hasher = BlockHasher::new(1);
        let [one, two] = [1, 2].map(|salt| hasher.root(Salt(salt)).hash);
        let mut kin = Kin::new(2, 6);
        for block in 0..5 {
            kin.adopt(one, BlockId(block));
        }
        kin.adopt(two, BlockId(5));
        for (gone, left) in
            [(2, vec![4, 3, 1, 0]), (4, vec![3, 1, 0]), (0, vec![3, 1]), (3, vec![1]), (1, vec![])]
        {
            kin.disown(BlockId(gone));
            assert_eq!(kin.children(one).map(|block| block.0).collect::<Vec<_>>(), left);
            assert_eq!(kin.check(), Ok(left.len() + 1));
        }
        kin.adopt(one, BlockId(2));
        assert_eq!(kin.children(one).collect::<Vec<_>>(), [BlockId(2)]);
    }

    #[test]
    fn the_longest_common_start_wins_and_among_equals_the_newest() {
        let parent = BlockHasher::new(1).root(Salt(1)).hash;
        let mut kin = Kin::new(4, 12);
        let alike = |kin: &Kin, tokens: [u32; 3], filled: usize| {
            kin.most_alike(parent, &tokens.map(Token), |_| filled)
        };
        assert_eq!(alike(&kin, [1, 2, 3], 4), None);
        for (block, tokens) in [(0, [1, 2, 3, 4]), (1, [1, 2, 9, 9]), (2, [1, 2, 8, 8])] {
            kin.note(BlockId(block), 0, &tokens.map(Token));
            kin.adopt(parent, BlockId(block));
        }
        assert_eq!(alike(&kin, [1, 2, 3], 4), Some((BlockId(0), 3)));
        assert_eq!(alike(&kin, [1, 2, 7], 4), Some((BlockId(2), 2)));
        assert_eq!(alike(&kin, [1, 2, 3], 1), Some((BlockId(2), 1)));
        // A crowd of newer ones hides the best.
        (3..11).for_each(|block| kin.adopt(parent, BlockId(block)));
        assert_eq!(alike(&kin, [1, 2, 3], 4), Some((BlockId(10), 0)));
    }
}
