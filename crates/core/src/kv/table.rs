//! The block table of one sequence: which physical blocks hold its positions, in order.
//!
//! A table is *linear*: not `Clone`, not `Default`, and dropping one that still holds blocks is a bug that debug builds
//! report. Only an implementation of [`super::KvMemory`] makes, forks and consumes tables, so a leak or a double free is a
//! type error or a loud test.
//!
//! **Invariants.** `cached ≤ len`; the blocks cover at least `len` positions (under [`super::Manager`] exactly as many
//! blocks as that takes, for a policy that reserves memory there may be more).

use std::collections::VecDeque;
use std::mem;

use super::hash::{BlockHash, Chain};
use crate::ids::BlockId;

/// Maps positions of a sequence to blocks. See the module's documentation.
#[derive(Debug)]
pub struct BlockTable {
    pub(super) blocks: Vec<BlockId>,
    /// Positions `0..len` may be written or have been.
    pub(super) len: u32,
    /// Positions `0..cached` were computed by others.
    pub(super) cached: u32,
    /// How far the table has been published; `None` where there is no prefix cache.
    pub(super) chain: Option<Chain>,
    /// Where the chain began.
    pub(super) root: Option<Chain>,
    /// The hashes of the full blocks after the chain, as far as they are known before they are computed.
    pub(super) ahead: VecDeque<BlockHash>,
    /// The blocks between the chain and this one are computed by other tables; see [`super::promise`].
    pub(super) awaited: u32,
    /// The tokens of positions `0..noted` are remembered with their blocks; see [`super::kin`].
    pub(super) noted: u32,
}

impl BlockTable {
    /// The blocks, in order of position.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Number of positions the sequence may use.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the sequence has no positions yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of positions that were computed by others: when the table was made, and since, if it waited for more.
    #[must_use]
    pub fn cached(&self) -> u32 {
        self.cached
    }
}

/// For implementations of [`super::KvMemory`] only: everybody else gets tables from one and gives them back to it.
impl BlockTable {
    /// A table of `len` positions in `blocks`, the first `cached` of which need no computation.
    #[must_use]
    pub fn from_parts(blocks: Vec<BlockId>, len: u32, cached: u32) -> Self {
        debug_assert!(cached <= len, "{cached} positions are cached of {len}");
        Self {
            blocks,
            len,
            cached,
            chain: None,
            root: None,
            ahead: VecDeque::new(),
            awaited: 0,
            noted: 0,
        }
    }

    /// Adds blocks at the end and makes `len` positions usable; `len` never shrinks.
    pub fn extend(&mut self, blocks: impl IntoIterator<Item = BlockId>, len: u32) {
        debug_assert!(len >= self.len, "a table of {} positions is cut to {len}", self.len);
        self.blocks.extend(blocks);
        self.len = len;
    }

    /// Puts `block` in the place of the table's block at `index` and returns the old one.
    ///
    /// # Panics
    /// If the table has no block at `index`.
    pub fn replace(&mut self, index: usize, block: BlockId) -> BlockId {
        mem::replace(&mut self.blocks[index], block)
    }

    /// Ends the table; its blocks, in order of position, are the caller's to release.
    #[must_use]
    pub fn into_blocks(mut self) -> Vec<BlockId> {
        mem::take(&mut self.blocks)
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        // While a panic unwinds, the tables of everything on its way are dropped: a second panic would abort the process
        // and hide the first. Release builds only leak the blocks of the one request.
        debug_assert!(
            self.blocks.is_empty() || std::thread::panicking(),
            "a block table was dropped with {} blocks; give it back with KvMemory::free",
            self.blocks.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_built_grown_and_taken_apart() {
        let mut table = BlockTable::from_parts(vec![BlockId(4), BlockId(2)], 5, 4);
        assert_eq!((table.len(), table.cached(), table.is_empty()), (5, 4, false));
        table.extend([BlockId(9)], 9);
        assert_eq!(table.replace(1, BlockId(7)), BlockId(2));
        assert_eq!(table.blocks(), [BlockId(4), BlockId(7), BlockId(9)]);
        assert_eq!((table.len(), table.cached()), (9, 4));
        assert_eq!(table.into_blocks(), [BlockId(4), BlockId(7), BlockId(9)]);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a block table was dropped with 2 blocks")]
    fn dropping_a_table_with_blocks_is_reported() {
        drop(BlockTable::from_parts(vec![BlockId(0), BlockId(1)], 2, 0));
    }

    #[test]
    #[should_panic(expected = "the first panic")]
    fn a_table_dropped_by_a_panic_does_not_hide_it() {
        let _table = BlockTable::from_parts(vec![BlockId(0)], 1, 0);
        panic!("the first panic");
    }
}
