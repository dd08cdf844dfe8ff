//! Which blocks of the KV cache get their memory before they are written.
//!
//! Why: a system hands out zeroed pages when they are first written, which is in the middle of a step. That takes seconds per
//! GiB where the host of a virtual machine has to find them, too. So idle moments take some memory in advance: not all of the
//! cache, which may never be needed, but a stretch beyond the highest block in use. The pool hands out the lowest blocks first.

use std::ops::Range;

use crate::sizes::wide;

/// How far ahead of the highest block in use, in bytes of all layers.
const LEAD_BYTES: u64 = 512 << 20;
/// Taken at once, in bytes of one layer: a large page of most systems.
const PIECE_BYTES: u64 = 2 << 20;

/// How far the memory of a cache's blocks has been taken.
#[derive(Debug)]
pub(crate) struct Ahead {
    layers: usize,
    blocks: usize,
    lead: usize,
    piece: usize,
    /// Blocks below have been named by a plan, or one above them has.
    reach: usize,
    /// Blocks below have their memory, and those of the next piece in the layers below `layer`.
    done: usize,
    layer: usize,
}

impl Ahead {
    /// For a cache whose blocks take `block_bytes` in all layers together.
    pub(crate) fn new(layers: usize, blocks: usize, block_bytes: u64) -> Self {
        let bytes = block_bytes.max(1);
        let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        Self {
            layers,
            blocks,
            lead: count(LEAD_BYTES / bytes),
            piece: count(PIECE_BYTES.saturating_mul(wide(layers)) / bytes),
            reach: 0,
            done: 0,
            layer: 0,
        }
    }

    /// A step uses these blocks.
    pub(crate) fn used(&mut self, blocks: &[u32]) {
        let highest = blocks.iter().max().map_or(0, |block| *block as usize + 1);
        self.reach = self.reach.max(highest).min(self.blocks);
    }

    /// The layer and blocks whose memory is to be taken next, if any.
    pub(crate) fn next(&mut self) -> Option<(usize, Range<usize>)> {
        if self.layer == 0 {
            // Steps have taken these themselves.
            self.done = self.done.max(self.reach);
        }
        let goal = self.reach.saturating_add(self.lead).min(self.blocks);
        if self.done >= goal {
            return None;
        }
        let piece = self.done..self.done.saturating_add(self.piece).min(self.blocks);
        let next = (self.layer, piece.clone());
        self.layer += 1;
        if self.layer == self.layers {
            (self.layer, self.done) = (0, piece.end);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ahead(blocks: usize, block_bytes: u64) -> Ahead {
        Ahead::new(3, blocks, block_bytes)
    }

    /// All that is to be taken now; every layer of a block exactly once.
    fn take(ahead: &mut Ahead) -> BTreeSet<usize> {
        let mut taken = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        while let Some((layer, blocks)) = ahead.next() {
            for block in blocks {
                assert!(taken[layer].insert(block), "layer {layer} of block {block} twice");
            }
        }
        let [first, second, third] = taken;
        assert!(first == second && second == third, "some layers were forgotten");
        first
    }

    #[test]
    fn the_memory_ahead_of_the_highest_block_is_taken_once() {
        // A block of 1 MiB: 512 are the lead, and 6 a piece of 2 MiB in each of 3 layers.
        let mut ahead = ahead(10_000, 1 << 20);
        assert_eq!(take(&mut ahead), (0..516).collect());
        ahead.used(&[3, 1]);
        assert_eq!(take(&mut ahead), BTreeSet::new(), "four more blocks are there already");
        ahead.used(&[40, 7]);
        assert_eq!(take(&mut ahead), (516..558).collect());
        // Beyond all that was taken: steps have written what lies below.
        ahead.used(&[5000]);
        assert_eq!(take(&mut ahead), (5001..5517).collect());
        ahead.used(&[9999]);
        assert_eq!(take(&mut ahead), BTreeSet::new());
    }

    #[test]
    fn a_small_cache_is_taken_whole_and_large_blocks_one_at_a_time() {
        assert_eq!(take(&mut ahead(7, 1000)), (0..7).collect());
        let mut large = ahead(7, 100 << 20);
        assert_eq!(large.next(), Some((0, 0..1)));
        assert_eq!(take(&mut ahead(7, 100 << 20)), (0..5).collect());
    }
}
