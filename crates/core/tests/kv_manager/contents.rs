//! What the blocks contain: an executor's memory, reduced to one number per slot.
//!
//! The KV of a position depends on its token and on all tokens before it. So does its mark, and a slot that holds the right
//! mark holds the right KV. Marks of different salts differ, so that a hit across salts is found out, too.

use std::hash::{DefaultHasher, Hash, Hasher};

use folio_core::ids::Token;
use folio_core::plan::CacheOp;

pub(crate) type Mark = u64;

/// The mark of `token` after a position with mark `before`; the salt stands before the first.
pub(crate) fn mark(before: Mark, token: Token) -> Mark {
    let mut hasher = DefaultHasher::new();
    (before, token).hash(&mut hasher);
    hasher.finish()
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contents {
    block_size: usize,
    slots: Vec<Option<Mark>>,
}

impl Contents {
    pub(crate) fn new(block_size: usize, capacity: u32) -> Self {
        Self { block_size, slots: vec![None; block_size * capacity as usize] }
    }

    fn slot(&self, blocks: &[u32], position: usize) -> usize {
        blocks[position / self.block_size] as usize * self.block_size + position % self.block_size
    }

    pub(crate) fn read(&self, blocks: &[u32], position: usize) -> Option<Mark> {
        self.slots[self.slot(blocks, position)]
    }

    pub(crate) fn write(&mut self, blocks: &[u32], position: usize, mark: Mark) {
        let slot = self.slot(blocks, position);
        self.slots[slot] = Some(mark);
    }

    fn copy(&mut self, op: CacheOp) {
        let CacheOp::Copy { source, destination } = op;
        let start = source.index() * self.block_size;
        let block = start..start + self.block_size;
        self.slots.copy_within(block, destination.index() * self.block_size);
    }

    pub(crate) fn execute(&mut self, ops: &[CacheOp]) {
        for &op in ops {
            self.copy(op);
        }
    }

    /// Runs neighbours together as far as the hazard rule of `plan` lets it, each such batch backwards.
    pub(crate) fn execute_in_batches(&mut self, ops: &[CacheOp]) {
        let touches = |op: CacheOp, block| {
            let CacheOp::Copy { source, destination } = op;
            source == block || destination == block
        };
        let mut batch: Vec<CacheOp> = Vec::new();
        for &op in ops {
            let CacheOp::Copy { source, destination } = op;
            let clashes = |&other: &CacheOp| {
                let CacheOp::Copy { destination: written, .. } = other;
                touches(other, destination) || written == source
            };
            if batch.iter().any(clashes) {
                batch.drain(..).rev().for_each(|op| self.copy(op));
            }
            batch.push(op);
        }
        batch.drain(..).rev().for_each(|op| self.copy(op));
    }
}
