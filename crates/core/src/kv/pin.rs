//! Prefixes that are kept for as long as the memory lives, and serve everybody.
//!
//! What is pinned was chosen by whoever runs the engine, so it may be shared across salts: finding it tells nobody what others
//! asked. A claim first walks the pinned blocks, which are known by the chain of [`Salt::default`]; what comes after
//! them belongs to its own salt again, for the chain goes on from a root made of both.
//!
//! **Invariants.** A pinned block is ready, and a pin counts as one more table that holds it.

use super::hash::Chain;
use super::{BlockTable, KvMemory, Manager};
use crate::ids::{BlockId, Salt, Token};

impl Manager {
    /// What [`KvMemory::pin`] does.
    pub(super) fn pin_published(&mut self, table: BlockTable) {
        if let (Some(hasher), Some(mut chain)) = (self.hasher, table.root) {
            let published = &table.blocks[..table.published() as usize];
            for &block in published.iter().skip(chain.blocks as usize) {
                // The table may hold a duplicate of the block that can be found.
                chain = hasher.extend(chain, self.kin.tokens(block));
                let Some(findable) = self.ready(chain.hash) else { break };
                self.pool.pin(findable);
            }
        }
        self.free(table);
    }

    /// The pinned blocks at the start of `tokens`, and where the chain of what follows them begins; `None` when there is no
    /// prefix cache. In the default salt's chain pinned blocks are like any others.
    pub(super) fn root(&self, tokens: &[Token], salt: Salt) -> Option<(Vec<BlockId>, Chain)> {
        let hasher = self.hasher?;
        let own = hasher.root(salt);
        if salt == Salt::default() || self.pool.pinned() == 0 {
            return Some((Vec::new(), own));
        }
        let (mut blocks, mut last) = (Vec::new(), None);
        for chain in self.chains(hasher.root(Salt::default()), tokens) {
            let block = self.prefix.get(chain.hash);
            let Some(block) = block.filter(|&block| self.pool.is_pinned(block)) else { break };
            blocks.push(block);
            last = Some(hasher.branch(chain, salt));
        }
        Some((blocks, last.unwrap_or(own)))
    }
}
