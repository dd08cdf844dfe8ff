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

/// Where a block's contents lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Device(usize),
    Swap(usize),
}

/// From where to where an operation moves a block.
fn ends(op: CacheOp) -> (Place, Place) {
    match op {
        CacheOp::Copy { source, destination } => {
            (Place::Device(source.index()), Place::Device(destination.index()))
        }
        CacheOp::SwapOut { source, slot } => {
            (Place::Device(source.index()), Place::Swap(slot.index()))
        }
        CacheOp::SwapIn { slot, destination } => {
            (Place::Swap(slot.index()), Place::Device(destination.index()))
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contents {
    block_size: usize,
    /// The device's blocks, and after them the swap space.
    slots: Vec<Option<Mark>>,
    capacity: usize,
}

impl Contents {
    pub(crate) fn new(block_size: usize, capacity: u32, swap_slots: u32) -> Self {
        let slots = vec![None; block_size * (capacity + swap_slots) as usize];
        Self { block_size, slots, capacity: capacity as usize }
    }

    fn slot(&self, blocks: &[u32], position: usize) -> usize {
        blocks[position / self.block_size] as usize * self.block_size + position % self.block_size
    }

    pub(crate) fn read(&self, blocks: &[u32], position: usize) -> Option<Mark> {
        self.slots[self.slot(blocks, position)]
    }

    /// What lies in the swap space at `position` of a table of slots.
    pub(crate) fn read_swapped(&self, slots: &[u32], position: usize) -> Option<Mark> {
        self.slots[self.capacity * self.block_size + self.slot(slots, position)]
    }

    pub(crate) fn write(&mut self, blocks: &[u32], position: usize, mark: Mark) {
        let slot = self.slot(blocks, position);
        self.slots[slot] = Some(mark);
    }

    fn start(&self, place: Place) -> usize {
        match place {
            Place::Device(index) => index * self.block_size,
            Place::Swap(index) => (self.capacity + index) * self.block_size,
        }
    }

    fn perform(&mut self, op: CacheOp) {
        let (source, destination) = ends(op);
        let (from, to) = (self.start(source), self.start(destination));
        self.slots.copy_within(from..from + self.block_size, to);
    }

    pub(crate) fn execute(&mut self, ops: &[CacheOp]) {
        for &op in ops {
            self.perform(op);
        }
    }

    /// Runs neighbours together as far as the hazard rule of `plan` lets it, each such batch backwards.
    pub(crate) fn execute_in_batches(&mut self, ops: &[CacheOp]) {
        let mut batch: Vec<CacheOp> = Vec::new();
        for &op in ops {
            let (source, destination) = ends(op);
            let clashes = |&other: &CacheOp| {
                let (read, written) = ends(other);
                written == source || written == destination || read == destination
            };
            if batch.iter().any(clashes) {
                batch.drain(..).rev().for_each(|op| self.perform(op));
            }
            batch.push(op);
        }
        batch.drain(..).rev().for_each(|op| self.perform(op));
    }
}
