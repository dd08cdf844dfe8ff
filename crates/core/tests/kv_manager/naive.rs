//! The block manager as one would explain it: searched lists and maps of whole token sequences instead of linked lists,
//! hashes and counters. It decides the same things, down to which block is handed out next.

use std::collections::BTreeMap;

use folio_core::ids::{BlockId, SwapSlot, Token};
use folio_core::kv::{KvStats, Short};
use folio_core::plan::CacheOp;

/// A full block's contents: which cache it belongs to, and all tokens from the first of the sequence to its own last.
type Past = (u64, Vec<Token>);

/// A block table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Physical blocks in order of position.
    pub(crate) blocks: Vec<u32>,
    pub(crate) cached: usize,
    salt: u64,
    /// Each block is offered once: what was a duplicate then stays unknown, even when the original is lost.
    offered: usize,
}

/// A table in the swap space.
pub(crate) struct Swapped {
    /// The slots, and what was findable of them.
    pub(crate) slots: Vec<(u32, Option<Past>)>,
    cached: usize,
    salt: u64,
}

pub(crate) struct Naive {
    block_size: usize,
    caching: bool,
    /// In the order in which they will be taken.
    free: Vec<u32>,
    /// In how many tables each block is that is in any.
    holders: BTreeMap<u32, u32>,
    cached: BTreeMap<u32, Past>,
    /// The one to be taken next is the last.
    free_slots: Vec<u32>,
    pub(crate) stats: KvStats,
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

impl Naive {
    pub(crate) fn new(block_size: usize, capacity: u32, caching: bool, swap_slots: u32) -> Self {
        let stats = KvStats { total: capacity, swap_total: swap_slots, ..KvStats::default() };
        Self {
            block_size,
            caching,
            free: (0..capacity).collect(),
            holders: BTreeMap::new(),
            cached: BTreeMap::new(),
            free_slots: (0..swap_slots).rev().collect(),
            stats,
        }
    }

    /// The counters, and the gauges counted afresh.
    pub(crate) fn stats(&self) -> KvStats {
        KvStats {
            free: count(self.free.len()),
            cached_free: count(self.free.iter().filter(|b| self.cached.contains_key(b)).count()),
            used: count(self.holders.len()),
            shared: count(self.holders.values().filter(|&&tables| tables > 1).count()),
            held: self.holders.values().map(|&tables| u64::from(tables)).sum(),
            swap_used: self.stats.swap_total - count(self.free_slots.len()),
            ..self.stats
        }
    }

    pub(crate) fn match_prefix(&self, tokens: &[Token], salt: u64) -> Vec<u32> {
        let mut found = Vec::new();
        loop {
            let end = (found.len() + 1) * self.block_size;
            // One token is always left to compute.
            let Some(past) = tokens.get(..end).filter(|_| end < tokens.len()) else { return found };
            let Some(block) = self.find(&(salt, past.to_vec())) else { return found };
            found.push(block);
        }
    }

    fn find(&self, past: &Past) -> Option<u32> {
        self.cached.iter().find_map(|(&block, cached)| (cached == past).then_some(block))
    }

    pub(crate) fn admit(
        &mut self,
        tokens: &[Token],
        salt: u64,
        use_cache: bool,
    ) -> Result<Table, Short> {
        let mut blocks = if use_cache { self.match_prefix(tokens, salt) } else { Vec::new() };
        let found = blocks.len();
        let total = tokens.len().div_ceil(self.block_size);
        let held = blocks.iter().filter(|block| self.holders.contains_key(block)).count();
        self.room_for(total - held)?;
        blocks.iter().for_each(|&block| self.hold(block));
        blocks.extend((found..total).map(|_| self.take()));
        let cached = found * self.block_size;
        if self.caching && use_cache {
            self.stats.prefix_queries += tokens.len() as u64;
            self.stats.prefix_hits += cached as u64;
        }
        Ok(Table { blocks, cached, salt, offered: found })
    }

    /// The copy to make.
    pub(crate) fn append(
        &mut self,
        table: &mut Table,
        len: usize,
        upto: usize,
    ) -> Result<Option<CacheOp>, Short> {
        let blocks = &mut table.blocks;
        let total = upto.div_ceil(self.block_size);
        let room_in_tail = blocks.len() * self.block_size > len;
        let tail = blocks.last().copied().filter(|_| room_in_tail);
        let shared = tail.filter(|block| self.holders[block] > 1);
        self.room_for(total - blocks.len() + usize::from(shared.is_some()))?;
        let copy = shared.map(|source| {
            let destination = self.take();
            blocks.pop();
            blocks.push(destination);
            *self.holders.get_mut(&source).unwrap() -= 1;
            self.stats.copies += 1;
            CacheOp::Copy { source: BlockId(source), destination: BlockId(destination) }
        });
        blocks.extend((blocks.len()..total).map(|_| self.take()));
        Ok(copy)
    }

    pub(crate) fn fork(&mut self, table: &Table) -> Table {
        table.blocks.iter().for_each(|&block| self.hold(block));
        table.clone()
    }

    /// Offers the full blocks of `table` that hold `computed`.
    pub(crate) fn publish(&mut self, table: &mut Table, computed: &[Token]) {
        let full = computed.len() / self.block_size;
        for index in table.offered..full {
            let past = (table.salt, computed[..(index + 1) * self.block_size].to_vec());
            if self.caching && self.find(&past).is_none() {
                self.cached.insert(table.blocks[index], past);
            }
        }
        table.offered = full;
    }

    pub(crate) fn free(&mut self, table: &Table) {
        table.blocks.iter().rev().for_each(|&block| self.release(block));
    }

    /// All tables of a group, with how many positions are computed; and the moves to make.
    pub(crate) fn swap_out(
        &mut self,
        tables: &[(&Table, usize)],
    ) -> Result<(Vec<Swapped>, Vec<CacheOp>), Short> {
        let moved =
            tables.iter().map(|(table, len)| &table.blocks[..len.div_ceil(self.block_size)]);
        let mut distinct: Vec<u32> = Vec::new();
        for &block in moved.clone().flatten() {
            if !distinct.contains(&block) {
                distinct.push(block);
            }
        }
        let [need, have] = [&distinct, &self.free_slots].map(|list| count(list.len()));
        if need > have {
            return Err(Short { need, have });
        }
        let slots: Vec<u32> = distinct.iter().map(|_| self.free_slots.pop().unwrap()).collect();
        self.stats.swapped_out += slots.len() as u64;
        let slot = |block: &u32| {
            let at = distinct.iter().position(|distinct| distinct == block).unwrap();
            (slots[at], self.cached.get(block).cloned())
        };
        let swapped = moved.zip(tables).map(|(blocks, (table, len))| Swapped {
            slots: blocks.iter().map(slot).collect(),
            cached: table.cached.min(*len),
            salt: table.salt,
        });
        let swapped = swapped.collect();
        let op =
            |(&source, &slot)| CacheOp::SwapOut { source: BlockId(source), slot: SwapSlot(slot) };
        let ops = distinct.iter().zip(&slots).map(op).collect();
        tables.iter().for_each(|(table, _)| self.free(table));
        Ok((swapped, ops))
    }

    pub(crate) fn swap_in(
        &mut self,
        tables: &[Swapped],
    ) -> Result<(Vec<Table>, Vec<CacheOp>), Short> {
        let mut blocks: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        for (slot, past) in tables.iter().flat_map(|table| &table.slots) {
            blocks.insert(*slot, past.as_ref().and_then(|past| self.find(past)));
        }
        let found: Vec<u32> = blocks.values().copied().flatten().collect();
        let held = found.iter().filter(|block| self.holders.contains_key(block)).count();
        self.room_for(blocks.len() - held)?;
        found.iter().for_each(|&block| self.hold(block));
        self.stats.swap_reused += found.len() as u64;

        let (mut back, mut ops, mut released) = (Vec::new(), Vec::new(), Vec::new());
        for Swapped { slots, cached, salt } in tables {
            let reused = |(slot, _): &&(u32, Option<Past>)| {
                blocks[slot].is_some_and(|block| found.contains(&block))
            };
            let offered = slots.iter().take_while(reused).count();
            let mut table = Table { blocks: vec![], cached: *cached, salt: *salt, offered };
            for (slot, _) in slots {
                let block = blocks[slot].unwrap_or_else(|| {
                    let block = self.take();
                    ops.push(CacheOp::SwapIn {
                        slot: SwapSlot(*slot),
                        destination: BlockId(block),
                    });
                    self.stats.swapped_in += 1;
                    blocks.insert(*slot, Some(block));
                    block
                });
                self.hold(block);
                table.blocks.push(block);
                released.push(*slot);
            }
            back.push(table);
        }
        blocks.values().flatten().for_each(|&block| self.release(block));
        self.release_slots(&released);
        Ok((back, ops))
    }

    /// `tables` are all tables that hold any of their slots.
    pub(crate) fn forget(&mut self, tables: &[Swapped]) {
        let slots = tables.iter().flat_map(|table| &table.slots).map(|(slot, _)| *slot);
        self.release_slots(&slots.collect::<Vec<u32>>());
    }

    /// One entry for every table that held the slot; it is free after the last.
    fn release_slots(&mut self, slots: &[u32]) {
        for (at, slot) in slots.iter().enumerate() {
            if !slots[at + 1..].contains(slot) {
                self.free_slots.push(*slot);
            }
        }
    }

    pub(crate) fn holders(&self, block: u32) -> u32 {
        self.holders.get(&block).copied().unwrap_or(0)
    }

    fn room_for(&self, need: usize) -> Result<(), Short> {
        let [need, have] = [need, self.free.len()].map(count);
        if need > have { Err(Short { need, have }) } else { Ok(()) }
    }

    fn hold(&mut self, block: u32) {
        self.free.retain(|&free| free != block);
        *self.holders.entry(block).or_default() += 1;
    }

    fn release(&mut self, block: u32) {
        let tables = self.holders.get_mut(&block).unwrap();
        *tables -= 1;
        if *tables == 0 {
            self.holders.remove(&block);
            // What caches nothing is taken first, what was given back last is taken last.
            let place = if self.cached.contains_key(&block) { self.free.len() } else { 0 };
            self.free.insert(place, block);
        }
    }

    fn take(&mut self) -> u32 {
        let block = self.free.remove(0);
        self.holders.insert(block, 1);
        self.stats.evictions += u64::from(self.cached.remove(&block).is_some());
        block
    }
}
