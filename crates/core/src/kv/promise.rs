//! Requests that arrive together with a common prefix: one computes it, the others wait for its blocks.
//!
//! When a table is made, the full blocks it is going to compute are *promised*: findable by their hash, but not ready. A later
//! table whose tokens lead there shares those very blocks and waits. Publishing fulfils a promise; giving the table
//! back withdraws what is left of it, and the first of those who wait then takes it over.
//!
//! Of the blocks of a table, the first are published or were found ready, up to the chain; the next are `awaited` from
//! others; what remains is its own to write, and promised as far as nobody else had the same. A table that takes a promise over
//! stops waiting: from there on all blocks are its own to write.
//!
//! **Invariants.** A promised block is held, and exactly one of the tables that hold it has promised it; all others await it.
//! So nobody writes to a promised block but who promised it. A table awaits a block of one that has come no further than
//! itself, and whoever comes to a block first waits for nobody: those who wait never wait in a circle.

use super::hash::{BlockHash, Chain};
use super::pool::Label;
use super::{BlockTable, Manager};
use crate::ids::BlockId;

impl Manager {
    /// Promises the table's own blocks from the `from`th on, as far as their contents are known and nobody has the same.
    pub(super) fn promise_own(&mut self, table: &BlockTable, from: u32) {
        let own = table.expected(from).collect::<Vec<_>>();
        for (block, hash) in own {
            if self.prefix.get(hash).is_none() {
                self.promise(block, hash);
            }
        }
    }

    fn promise(&mut self, block: BlockId, hash: BlockHash) {
        self.pool.set(block, Label::Promised(hash));
        self.prefix.insert(hash, block);
    }

    /// Whether the table has promised what it has not published.
    pub(super) fn owes(&self, table: &BlockTable) -> bool {
        let promised = |block| matches!(self.pool.label(block), Label::Promised(_));
        table.expected(table.awaited).any(|(block, _)| promised(block))
    }

    /// Takes back what the table has promised and not published. Those who wait for it keep the blocks.
    pub(super) fn withdraw(&mut self, table: &BlockTable) {
        for (block, _) in table.expected(table.awaited) {
            if let Label::Promised(hash) = self.pool.label(block) {
                self.pool.set(block, Label::Blank);
                self.prefix.forget(hash);
            }
        }
    }

    /// What [`super::KvMemory::await_prefix`] does.
    pub(super) fn await_promises(&mut self, table: &mut BlockTable) -> bool {
        while let Some((block, hash)) = table.next_awaited() {
            match (self.pool.label(block), self.prefix.get(hash)) {
                (Label::Ready(_), _) => self.arrive(table, hash),
                (Label::Promised(_), _) => return true,
                // The promise was withdrawn, and somebody has made it anew or fulfilled it with another block.
                (Label::Blank | Label::Partial(_), Some(other)) => {
                    self.pool.hold(other);
                    self.pool.release(table.replace(table.published() as usize, other));
                }
                (Label::Blank | Label::Partial(_), None) => {
                    self.take_over(table);
                    return false;
                }
            }
        }
        false
    }

    /// The next awaited block of the table has become ready.
    fn arrive(&self, table: &mut BlockTable, hash: BlockHash) {
        let blocks = table.published() + 1;
        table.chain = Some(Chain { blocks, hash });
        table.ahead.pop_front();
        table.cached = blocks * self.block_size;
        table.noted = table.cached;
    }

    /// Promises all that was awaited. Where that is not possible, because a block further on is ready already or promised by
    /// another that waits, the table ends: it could neither wait there nor write.
    fn take_over(&mut self, table: &mut BlockTable) {
        let start = table.published();
        let awaited = (start..table.awaited).zip(table.expected(start)).collect::<Vec<_>>();
        for (index, (block, hash)) in awaited {
            if self.prefix.get(hash).is_some() {
                self.cut(table, index);
                break;
            }
            self.promise(block, hash);
        }
        table.awaited = start;
    }

    /// Shortens the table to its first `keep` blocks.
    fn cut(&mut self, table: &mut BlockTable, keep: u32) {
        self.withdraw(table);
        table.ahead.truncate((keep - table.published()) as usize);
        table.len = keep * self.block_size;
        for block in table.blocks.drain(keep as usize..).rev() {
            self.pool.release(block);
        }
    }
}

impl BlockTable {
    /// Blocks at the start whose contents can be found, or could when they were offered.
    pub(super) fn published(&self) -> u32 {
        self.chain.map_or(0, |chain| chain.blocks)
    }

    /// The blocks from the `from`th on whose hash is known though they are not published.
    pub(super) fn expected(&self, from: u32) -> impl Iterator<Item = (BlockId, BlockHash)> {
        let published = self.published() as usize;
        let blocks = self.blocks.iter().skip(published).copied();
        let from = (from as usize).saturating_sub(published);
        blocks.zip(self.ahead.iter().copied()).skip(from)
    }

    fn next_awaited(&self) -> Option<(BlockId, BlockHash)> {
        (self.published() < self.awaited).then(|| self.expected(0).next()).flatten()
    }
}
