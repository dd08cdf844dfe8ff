//! What becomes findable in the prefix cache and what is lost, for those who want to know what is cached without asking.
//!
//! **Invariant.** The blocks that were told as stored and not since as removed are exactly those that are ready. Nothing is
//! remembered unless it was asked for.

use super::hash::{BlockHash, Chain};
use super::{BlockTable, Manager};
use crate::ids::Token;

/// Names a full block by what it and all before it contain. Equal contents have equal names as long as the memory lives, and
/// other names in the next process. Made by a hash that is not a cryptographic one: it must not leave the process as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockName(pub(super) BlockHash);

/// One change of the prefix cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A full block can be found.
    Stored {
        /// The block.
        block: BlockName,
        /// The one before it, `None` at the start of a sequence.
        parent: Option<BlockName>,
        /// Its tokens.
        tokens: Box<[Token]>,
    },
    /// A block has been handed out to be overwritten.
    Removed {
        /// The block.
        block: BlockName,
    },
}

impl Manager {
    /// The same memory, which remembers changes until [`take_changes`](super::KvMemory::take_changes).
    #[must_use]
    pub fn with_changes(mut self) -> Self {
        self.changes = Some(Vec::new());
        self
    }

    /// The block of `table` after `past` has become ready.
    pub(super) fn tell_stored(
        &mut self,
        table: &BlockTable,
        past: Chain,
        hash: BlockHash,
        tokens: &[Token],
    ) {
        let Some(changes) = &mut self.changes else { return };
        // Where a chain of its own goes on after pinned blocks, it begins with a hash that is no block's.
        let parent = if table.root.is_some_and(|root| root.blocks == past.blocks) {
            let before = (past.blocks as usize).checked_sub(1).and_then(|at| table.blocks.get(at));
            before.and_then(|&block| self.pool.hash(block))
        } else {
            Some(past.hash)
        };
        let (block, parent) = (BlockName(hash), parent.map(BlockName));
        changes.push(Change::Stored { block, parent, tokens: tokens.into() });
    }

    /// A ready block has been handed out.
    pub(super) fn tell_removed(&mut self, hash: BlockHash) {
        if let Some(changes) = &mut self.changes {
            changes.push(Change::Removed { block: BlockName(hash) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Salt;
    use crate::kv::{Claim, Config, KvMemory};

    /// What somebody knows who has only heard of the changes: each block's parent and tokens.
    type Heard = HashMap<BlockName, (Option<BlockName>, Box<[Token]>)>;

    fn hear(memory: &mut Manager, heard: &mut Heard) {
        let mut changes = Vec::new();
        memory.take_changes(&mut changes);
        for change in changes {
            match change {
                Change::Stored { block, parent, tokens } => {
                    assert_eq!(tokens.len(), 2);
                    assert_eq!(heard.insert(block, (parent, tokens)), None, "stored twice");
                }
                Change::Removed { block } => assert!(heard.remove(&block).is_some()),
            }
        }
        let ready = memory.prefix.iter().filter(|&(hash, _)| memory.ready(hash).is_some());
        let ready: Vec<BlockName> = ready.map(|(hash, _)| BlockName(hash)).collect();
        assert_eq!(ready.len(), heard.len());
        assert!(ready.iter().all(|name| heard.contains_key(name)));
    }

    /// All tokens up to and with a block, as far as its past is still known.
    fn spelled(heard: &Heard, block: BlockName) -> Vec<u32> {
        let mut at = Some(block);
        let mut tokens = Vec::new();
        while let Some((parent, own)) = at.and_then(|name| heard.get(&name)) {
            tokens.splice(0..0, own.iter().map(|token| token.0));
            at = *parent;
        }
        tokens
    }

    fn claim(tokens: &[Token], salt: u64) -> Claim<'_> {
        let longest = u32::try_from(tokens.len()).unwrap();
        Claim { tokens, salt: Salt(salt), use_prefix_cache: true, beside: 0, sequences: 1, longest }
    }

    fn memory(capacity: u32) -> Manager {
        let config = Config { block_size: 2, capacity, prefix_caching: true, secret: 3 };
        Manager::new(config).unwrap().with_changes()
    }

    proptest! {
        #[test]
        fn who_hears_every_change_knows_what_is_cached(
            prompts in proptest::collection::vec(
                (proptest::collection::vec(0..2_u32, 1..9), 0..2_u64, any::<bool>(), any::<bool>()),
                1..40,
            ),
        ) {
            let mut memory = memory(6);
            let mut heard = Heard::new();
            let mut held = Vec::new();
            for (prompt, salt, computed, keep) in prompts {
                let tokens: Vec<Token> = prompt.iter().copied().map(Token).collect();
                let mut ops = Vec::new();
                let admitted = memory.admit(&claim(&tokens, salt), &mut ops);
                hear(&mut memory, &mut heard);
                let Ok(mut table) = admitted else {
                    held.drain(..).for_each(|table| memory.free(table));
                    continue;
                };
                if computed && !memory.await_prefix(&mut table) {
                    memory.publish(&mut table, &tokens);
                }
                hear(&mut memory, &mut heard);
                if keep { held.push(table) } else { memory.free(table) }
                hear(&mut memory, &mut heard);
            }
            held.drain(..).for_each(|table| memory.free(table));
            hear(&mut memory, &mut heard);
        }
    }

    #[test]
    fn a_block_follows_its_parent_also_behind_what_is_pinned() {
        let mut memory = memory(16);
        let mut heard = Heard::new();
        let tokens: Vec<Token> = (1..8).map(Token).collect();
        let mut ops = Vec::new();
        let mut common = memory.admit(&claim(&tokens[..5], 0), &mut ops).unwrap();
        memory.publish(&mut common, &tokens[..5]);
        memory.pin(common);
        let mut own = memory.admit(&claim(&tokens, 9), &mut ops).unwrap();
        assert_eq!(own.cached(), 4);
        memory.publish(&mut own, &tokens);
        hear(&mut memory, &mut heard);
        let whole = heard.keys().map(|&name| spelled(&heard, name)).max_by_key(Vec::len);
        assert_eq!(whole, Some(vec![1, 2, 3, 4, 5, 6]));
        memory.free(own);
    }

    #[test]
    fn nothing_is_remembered_unless_it_was_asked_for() {
        let config = Config { block_size: 2, capacity: 4, prefix_caching: true, secret: 3 };
        let mut memory = Manager::new(config).unwrap();
        let tokens: Vec<Token> = (1..8).map(Token).collect();
        let mut table = memory.admit(&claim(&tokens, 0), &mut Vec::new()).unwrap();
        memory.publish(&mut table, &tokens);
        memory.free(table);
        let mut changes = Vec::new();
        memory.take_changes(&mut changes);
        assert_eq!(changes, []);
    }
}
