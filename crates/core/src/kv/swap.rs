//! Blocks outside the device: the swap space, and the table of a sequence that has been swapped out.
//!
//! A group leaves and returns as a whole, and shares in the swap space what it shares on the device: a block that several of
//! its tables hold takes one slot and is moved once. What can still be found on the device by what it contains is not
//! moved back.
//!
//! A [`SwappedTable`] is another type than [`BlockTable`], so a swapped sequence cannot be planned by mistake, and it is
//! linear for the same reason.
//!
//! **Invariants.** A slot is free exactly while no swapped table holds it. A block that is being brought back is not
//! findable until it is published: its contents may turn out to be lost.

use std::mem;

use rustc_hash::{FxHashMap, FxHashSet};

use super::hash::{BlockHash, Chain};
use super::{BlockTable, Computed, KvMemory, Manager, Short};
use crate::count;
use crate::ids::{BlockId, SwapSlot};
use crate::plan::CacheOp;

/// Maps positions of a swapped sequence to slots.
#[derive(Debug)]
pub struct SwappedTable {
    pub(super) slots: Vec<SwapSlot>,
    /// For each slot the hash under which its block could be found.
    pub(super) hashes: Vec<Option<BlockHash>>,
    /// Positions whose KV the slots hold.
    pub(super) len: u32,
    /// What the table said when it left.
    pub(super) cached: u32,
    pub(super) root: Option<Chain>,
}

impl SwappedTable {
    /// The slots, in order of position.
    #[must_use]
    pub fn slots(&self) -> &[SwapSlot] {
        &self.slots
    }

    /// Number of positions that were computed when the sequence left.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing had been computed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn entries(&self) -> impl Iterator<Item = (SwapSlot, Option<BlockHash>)> {
        self.slots.iter().copied().zip(self.hashes.iter().copied())
    }
}

impl Drop for SwappedTable {
    fn drop(&mut self) {
        debug_assert!(
            self.slots.is_empty() || std::thread::panicking(),
            "a swapped table was dropped with {} slots; give it back with KvMemory::forget_swapped",
            self.slots.len()
        );
    }
}

/// Who holds which slot. All in flat `Vec`s, every operation O(1).
#[derive(Debug, Default)]
pub(super) struct SwapSpace {
    /// How many swapped tables hold each slot.
    refs: Vec<u32>,
    /// The next slot to be taken is the last.
    free: Vec<SwapSlot>,
}

impl SwapSpace {
    /// A space of free slots, to be taken in ascending order.
    pub(super) fn new(slots: u32) -> Self {
        Self { refs: vec![0; slots as usize], free: (0..slots).rev().map(SwapSlot).collect() }
    }

    pub(super) fn total(&self) -> u32 {
        count(&self.refs)
    }

    pub(super) fn free(&self) -> u32 {
        count(&self.free)
    }

    fn take(&mut self) -> SwapSlot {
        let slot = self.free.pop().expect("the free slots were counted");
        self.refs[slot.index()] = 1;
        slot
    }

    fn release(&mut self, slot: SwapSlot) {
        let refs = &mut self.refs[slot.index()];
        debug_assert!(*refs > 0, "slot {slot} is released but nobody holds it");
        *refs -= 1;
        if *refs == 0 {
            self.free.push(slot);
        }
    }
}

/// What [`KvMemory::swap_out`] does.
pub(super) fn swap_out(
    manager: &mut Manager,
    tables: Vec<Computed>,
    ops: &mut Vec<CacheOp>,
) -> Result<Vec<SwappedTable>, (Short, Vec<Computed>)> {
    let moved = |manager: &Manager, table: &Computed| {
        debug_assert!(table.computed <= table.table.len, "more was computed than there is");
        manager.blocks_for(table.computed.min(table.table.len)) as usize
    };
    let distinct: FxHashSet<BlockId> = tables
        .iter()
        .flat_map(|table| &table.table.blocks[..moved(manager, table)])
        .copied()
        .collect();
    let need = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
    let have = manager.swap.free();
    if need > have {
        return Err((Short { need, have }, tables));
    }

    let mut slots = FxHashMap::<BlockId, SwapSlot>::default();
    let mut leave = |table: &Computed| {
        let blocks = &table.table.blocks[..moved(manager, table)];
        let mut swapped = SwappedTable {
            slots: Vec::with_capacity(blocks.len()),
            hashes: blocks.iter().map(|&block| manager.pool.hash(block)).collect(),
            len: table.computed.min(table.table.len),
            cached: table.table.cached.min(table.computed),
            root: table.table.root,
        };
        for &source in blocks {
            let known = slots.get(&source).copied();
            swapped.slots.push(known.unwrap_or_else(|| manager.swap.take()));
            let Some(&slot) = swapped.slots.last() else { continue };
            if known.is_some() {
                manager.swap.refs[slot.index()] += 1;
            } else {
                slots.insert(source, slot);
                ops.push(CacheOp::SwapOut { source, slot });
                manager.swapped_out += 1;
            }
        }
        swapped
    };
    let swapped = tables.iter().map(&mut leave).collect();
    tables.into_iter().for_each(|table| manager.free(table.table));
    Ok(swapped)
}

/// What [`KvMemory::swap_in`] does.
pub(super) fn swap_in(
    manager: &mut Manager,
    tables: Vec<SwappedTable>,
    ops: &mut Vec<CacheOp>,
) -> Result<Vec<BlockTable>, (Short, Vec<SwappedTable>)> {
    let mut blocks = FxHashMap::<SwapSlot, Option<BlockId>>::default();
    for (slot, hash) in tables.iter().flat_map(SwappedTable::entries) {
        blocks.entry(slot).or_insert_with(|| hash.and_then(|hash| manager.ready(hash)));
    }
    let held = |block: &Option<BlockId>| block.is_some_and(|block| manager.pool.refs(block) > 0);
    let need = blocks.values().filter(|block| !held(block)).count();
    if let Err(short) = manager.room_for(u32::try_from(need).unwrap_or(u32::MAX)) {
        return Err((short, tables));
    }

    // Every block is held once on behalf of the whole group while its tables are made: first those that are found on the
    // device, so that none of them is evicted to make room for the others.
    for block in blocks.values().flatten() {
        manager.pool.hold(*block);
        manager.swap_reused += 1;
    }
    let mut back = Vec::with_capacity(tables.len());
    for mut table in tables {
        let slots = mem::take(&mut table.slots);
        let take = |slot: SwapSlot| {
            let entry = blocks.entry(slot).or_default();
            let block = *entry.get_or_insert_with(|| {
                let destination = manager.take();
                ops.push(CacheOp::SwapIn { slot, destination });
                manager.swapped_in += 1;
                destination
            });
            manager.pool.hold(block);
            manager.swap.release(slot);
            block
        };
        let held = slots.into_iter().map(take).collect();
        back.push(rebuild(manager, &table, held));
    }
    for block in blocks.into_values().flatten() {
        manager.pool.release(block);
    }
    Ok(back)
}

/// The table counts as published as far as it was found on the device without a gap: what comes after is published anew.
fn rebuild(manager: &Manager, table: &SwappedTable, blocks: Vec<BlockId>) -> BlockTable {
    let findable = |(block, hash): &(&BlockId, &Option<BlockHash>)| {
        hash.is_some() && manager.pool.hash(**block) == **hash
    };
    let found = blocks.iter().zip(&table.hashes).take_while(findable);
    let chain = table.root.map(|root| {
        let on = (1..).zip(found).filter(|&(blocks, _)| blocks > root.blocks);
        on.filter_map(|(blocks, (_, &hash))| Some(Chain { blocks, hash: hash? }))
            .last()
            .unwrap_or(root)
    });
    let &SwappedTable { len, cached, root, .. } = table;
    let mut back = BlockTable::from_parts(blocks, len, cached);
    (back.chain, back.root) = (chain, root);
    back.noted = back.published() * manager.block_size;
    back
}

/// What [`KvMemory::forget_swapped`] does.
pub(super) fn forget(manager: &mut Manager, mut table: SwappedTable) {
    for slot in mem::take(&mut table.slots) {
        manager.swap.release(slot);
    }
}

/// # Errors
/// A sentence on the first invariant of the swap space that does not hold.
pub(super) fn check(
    manager: &Manager,
    tables: &mut dyn Iterator<Item = &SwappedTable>,
) -> Result<(), String> {
    let space = &manager.swap;
    let mut seen = vec![(0, 0); space.refs.len()];
    for table in tables {
        let &SwappedTable { ref slots, ref hashes, len, cached, .. } = table;
        let count = slots.len();
        if count != manager.blocks_for(len) as usize || count != hashes.len() || cached > len {
            return Err(format!("a swapped table of {len} positions has {count} slots"));
        }
        for (index, &slot) in slots.iter().enumerate() {
            let Some(seen) = seen.get_mut(slot.index()) else {
                return Err(format!("slot {slot} is in a table but does not exist"));
            };
            if seen.0 > 0 && seen.1 != index {
                return Err(format!("slot {slot} is in tables at {} and at {index}", seen.1));
            }
            *seen = (seen.0 + 1, index);
        }
    }
    for (slot, (&refs, (tables, _))) in space.refs.iter().zip(&seen).enumerate() {
        if refs != *tables {
            return Err(format!("slot {slot} has {refs} refs and is in {tables} tables"));
        }
    }
    let free: FxHashSet<SwapSlot> = space.free.iter().copied().collect();
    let unheld = seen.iter().filter(|(tables, _)| *tables == 0).count();
    let held = |slot: &SwapSlot| space.refs.get(slot.index()) != Some(&0);
    if free.len() != unheld || space.free.len() != unheld || free.iter().any(held) {
        return Err(format!("{unheld} slots are free but {:?} are on the list", space.free));
    }
    Ok(())
}
