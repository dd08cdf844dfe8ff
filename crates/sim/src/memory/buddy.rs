//! The buddy allocator: runs of a power of two of consecutive blocks.
//!
//! What Orca and FasterTransformer need (a sequence's KV lies in one piece), and why they waste memory: sizes are rounded up,
//! and free blocks that are not neighbours are of no use together. A capacity that is no power of two is cut into powers of
//! two, largest first, so that a run of `2^k` blocks begins at a multiple of `2^k`.

use std::collections::BTreeSet;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Buddy {
    /// First blocks of the free runs of `2^order` blocks.
    free: Vec<BTreeSet<u32>>,
    free_blocks: u32,
}

impl Buddy {
    /// Everything is free.
    pub(super) fn new(capacity: u32) -> Self {
        let mut free = vec![BTreeSet::new(); 32];
        let mut first = 0;
        for order in (0..32).rev() {
            if capacity & (1 << order) != 0 {
                free[order].insert(first);
                first += 1 << order;
            }
        }
        Self { free, free_blocks: capacity }
    }

    pub(super) fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// The first block of a run of `2^order` blocks.
    pub(super) fn take(&mut self, order: u32) -> Option<u32> {
        let from = (order..32).find(|&order| !self.free[order as usize].is_empty())?;
        let first = self.free[from as usize].pop_first()?;
        for half in order..from {
            self.free[half as usize].insert(first + (1 << half));
        }
        self.free_blocks -= 1 << order;
        Some(first)
    }

    /// Takes a run back, and joins it with its neighbour as long as that is free, too.
    pub(super) fn give(&mut self, mut first: u32, mut order: u32) {
        self.free_blocks += 1 << order;
        while order < 31 && self.free[order as usize].remove(&(first ^ (1 << order))) {
            first &= !(1 << order);
            order += 1;
        }
        self.free[order as usize].insert(first);
    }

    /// The free runs: first block and number of blocks.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u32, u32)> {
        let orders = self.free.iter().zip(0..);
        orders.flat_map(|(runs, order)| runs.iter().map(move |&first| (first, 1 << order)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_that_comes_back_joins_its_neighbours() {
        let mut buddy = Buddy::new(13);
        let runs: Vec<u32> = (0..6).map(|_| buddy.take(1).unwrap()).collect();
        assert_eq!(runs, [8, 10, 0, 2, 4, 6]);
        assert_eq!((buddy.take(1), buddy.take(0), buddy.free_blocks()), (None, Some(12), 0));
        for first in runs {
            buddy.give(first, 1);
        }
        assert_eq!(buddy.take(3), Some(0));
        assert_eq!(buddy.free_blocks(), 4);
    }

    proptest! {
        /// An empty arena holds as many runs as fit by number; runs never overlap; everything joins again.
        #[test]
        fn runs_are_disjoint_and_all_come_back(
            capacity in 1u32..200,
            wishes in prop::collection::vec((0u32..6, any::<bool>()), 0..60),
        ) {
            let mut buddy = Buddy::new(capacity);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (order, give) in wishes {
                if give && !taken.is_empty() {
                    let (first, order) = taken.swap_remove(order as usize % taken.len());
                    buddy.give(first, order);
                } else if let Some(first) = buddy.take(order) {
                    taken.push((first, order));
                }
                let mut owner = vec![0; capacity as usize];
                let runs = taken.iter().map(|&(first, order)| (first, 1 << order));
                for (first, len) in runs.chain(buddy.runs()) {
                    prop_assert_eq!(first % len, 0);
                    owner[first as usize..(first + len) as usize].iter_mut().for_each(|o| *o += 1);
                }
                prop_assert!(owner.iter().all(|&owners| owners == 1));
                let held: u32 = taken.iter().map(|&(_, order)| 1 << order).sum();
                prop_assert_eq!(buddy.free_blocks() + held, capacity);
            }
            for (first, order) in taken {
                buddy.give(first, order);
            }
            for order in 0..6 {
                let mut whole = Buddy::new(capacity);
                let count = (0..).take_while(|_| whole.take(order).is_some()).count();
                let mut again = Buddy { free: buddy.free.clone(), ..Buddy::new(capacity) };
                prop_assert_eq!((0..).take_while(|_| again.take(order).is_some()).count(), count);
                prop_assert_eq!(count, (capacity >> order) as usize);
            }
        }
    }
}
