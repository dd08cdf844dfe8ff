//! The block table of one sequence: which physical blocks hold its positions, in order.
//!
//! A table is *linear*: not `Clone`, not `Default`, and dropping one that still holds blocks is a bug that debug builds
//! report. Only an implementation of [`super::KvMemory`] makes, forks and consumes tables, so a leak or a double free is a
//! type error or a loud test.

use crate::ids::BlockId;

/// Maps positions of a sequence to blocks. See the module's documentation.
#[derive(Debug)]
pub struct BlockTable {
    pub(super) blocks: Vec<BlockId>,
    /// Positions `0..len` may be written or have been.
    pub(super) len: u32,
    /// Positions `0..cached` came from the prefix cache.
    pub(super) cached: u32,
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

    /// Number of positions that were already computed when the table was made.
    #[must_use]
    pub fn cached(&self) -> u32 {
        self.cached
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        // `core` knows nothing of threads, so a table dropped while a panic unwinds reports itself, too: rather loud
        // twice than silent once. Release builds only leak the blocks of the one request.
        debug_assert!(
            self.blocks.is_empty(),
            "a block table was dropped with {} blocks; give it back with KvMemory::free",
            self.blocks.len()
        );
    }
}
