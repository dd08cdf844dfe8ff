//! The block manager as one would explain it: searched lists and maps of whole token sequences instead of linked lists,
//! hashes and counters. It decides the same things, down to which block is handed out next.

use std::collections::BTreeMap;
use std::ops::Range;

use folio_core::ids::{BlockId, SwapSlot, Token};
use folio_core::kv::{KvStats, Short};
use folio_core::plan::CacheOp;

/// A full block's contents: which cache it belongs to, and all tokens from the first of the sequence to its own last.
type Past = (u64, Vec<Token>);

/// What a block is findable by.
#[derive(Clone)]
struct Label {
    past: Past,
    /// Which table is going to compute it, while it has not.
    promised_by: Option<usize>,
}

/// A block table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Never the same for two tables.
    id: usize,
    /// Physical blocks in order of position.
    pub(crate) blocks: Vec<u32>,
    pub(crate) cached: usize,
    salt: u64,
    /// Each block is offered once: what was a duplicate then stays unknown, even when the original is lost.
    offered: usize,
    /// The claim, when others may compute some of it.
    claim: Vec<Token>,
    /// Up to which block others do.
    awaited: usize,
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
    labels: BTreeMap<u32, Label>,
    tables: usize,
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
            labels: BTreeMap::new(),
            tables: 0,
            free_slots: (0..swap_slots).rev().collect(),
            stats,
        }
    }

    /// The counters, and the gauges counted afresh.
    pub(crate) fn stats(&self) -> KvStats {
        KvStats {
            free: count(self.free.len()),
            cached_free: count(self.free.iter().filter(|b| self.labels.contains_key(b)).count()),
            used: count(self.holders.len()),
            shared: count(self.holders.values().filter(|&&tables| tables > 1).count()),
            held: self.holders.values().map(|&tables| u64::from(tables)).sum(),
            swap_used: self.stats.swap_total - count(self.free_slots.len()),
            ..self.stats
        }
    }

    /// The blocks of which all but the last token of `tokens` is made, and how many of them are ready.
    pub(crate) fn match_prefix(&self, tokens: &[Token], salt: u64) -> (Vec<u32>, usize) {
        // One token is always left to compute.
        let full = tokens.len().saturating_sub(1) / self.block_size;
        let find = |index| self.find(&self.past(salt, tokens, index));
        let blocks: Vec<u32> = (0..full).map_while(find).collect();
        let ready = blocks.iter().take_while(|&&block| self.is_ready(block)).count();
        (blocks, ready)
    }

    /// The contents of the block at `index`.
    fn past(&self, salt: u64, tokens: &[Token], index: usize) -> Past {
        (salt, tokens[..(index + 1) * self.block_size].to_vec())
    }

    fn find(&self, past: &Past) -> Option<u32> {
        self.labels.iter().find_map(|(&block, label)| (label.past == *past).then_some(block))
    }

    fn is_ready(&self, block: u32) -> bool {
        self.labels.get(&block).is_some_and(|label| label.promised_by.is_none())
    }

    fn new_table(&mut self, salt: u64) -> Table {
        self.tables += 1;
        let (id, blocks, claim) = (self.tables, Vec::new(), Vec::new());
        Table { id, blocks, cached: 0, salt, offered: 0, claim, awaited: 0 }
    }

    pub(crate) fn admit(
        &mut self,
        tokens: &[Token],
        salt: u64,
        use_cache: bool,
    ) -> Result<Table, Short> {
        let use_cache = use_cache && self.caching;
        let (found, ready) =
            if use_cache { self.match_prefix(tokens, salt) } else { (Vec::new(), 0) };
        let total = tokens.len().div_ceil(self.block_size);
        let held = found.iter().filter(|block| self.holders.contains_key(block)).count();
        self.room_for(total - held)?;
        found.iter().for_each(|&block| self.hold(block));
        let mut table = self.new_table(salt);
        table.awaited = found.len();
        table.offered = ready;
        table.cached = ready * self.block_size;
        table.blocks = found;
        table.blocks.extend((table.awaited..total).map(|_| self.take()));
        if use_cache {
            table.claim = tokens.to_vec();
            self.promise(&table, table.awaited..tokens.len() / self.block_size);
            self.stats.prefix_queries += tokens.len() as u64;
            self.stats.prefix_hits += (table.awaited * self.block_size) as u64;
        }
        Ok(table)
    }

    /// Promises blocks of the table whose like nobody has.
    fn promise(&mut self, table: &Table, blocks: Range<usize>) {
        for index in blocks {
            let past = self.past(table.salt, &table.claim, index);
            if self.find(&past).is_none() {
                let label = Label { past, promised_by: Some(table.id) };
                self.labels.insert(table.blocks[index], label);
            }
        }
    }

    pub(crate) fn await_prefix(&mut self, table: &mut Table) -> bool {
        while table.offered < table.awaited {
            let index = table.offered;
            let block = table.blocks[index];
            let past = self.past(table.salt, &table.claim, index);
            if self.is_ready(block) {
                table.offered += 1;
                table.cached = table.offered * self.block_size;
            } else if self.labels.contains_key(&block) {
                return true;
            } else if let Some(other) = self.find(&past) {
                self.hold(other);
                self.release(block);
                table.blocks[index] = other;
            } else {
                self.take_over(table);
                return false;
            }
        }
        false
    }

    fn take_over(&mut self, table: &mut Table) {
        let start = table.offered;
        let hindered = |&index: &usize| {
            let past = self.past(table.salt, &table.claim, index);
            self.labels.contains_key(&table.blocks[index]) || self.find(&past).is_some()
        };
        let hindrance = (start..table.awaited).find(hindered);
        self.promise(table, start..hindrance.unwrap_or(table.awaited));
        table.awaited = start;
        if let Some(keep) = hindrance {
            let lost = table.blocks.split_off(keep);
            for &block in lost.iter().rev() {
                self.labels.retain(|&other, label| {
                    !lost.contains(&other) || label.promised_by != Some(table.id)
                });
                self.release(block);
            }
        }
    }

    /// Whether a row of the table may write to this block.
    pub(crate) fn may_write(&self, table: &Table, block: u32) -> bool {
        let promised = self.labels.get(&block).and_then(|label| label.promised_by);
        match promised {
            Some(id) => id == table.id,
            None => self.holders[&block] == 1 && !self.labels.contains_key(&block),
        }
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
        let mut fork = table.clone();
        fork.id = self.new_table(table.salt).id;
        fork
    }

    /// Offers the full blocks of `table` that hold `computed`.
    pub(crate) fn publish(&mut self, table: &mut Table, computed: &[Token]) {
        let full = computed.len() / self.block_size;
        for index in table.offered..full {
            let (block, past) = (table.blocks[index], self.past(table.salt, computed, index));
            let label = self.labels.get(&block);
            let own = label.is_some_and(|label| label.promised_by == Some(table.id));
            if self.caching && (own || self.find(&past).is_none()) {
                self.labels.insert(block, Label { past, promised_by: None });
            }
        }
        table.offered = full;
    }

    pub(crate) fn free(&mut self, table: &Table) {
        self.labels.retain(|_, label| label.promised_by != Some(table.id));
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
            let label = self.labels.get(block).filter(|label| label.promised_by.is_none());
            (slots[at], label.map(|label| label.past.clone()))
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
            let found = past.as_ref().and_then(|past| self.find(past));
            blocks.insert(*slot, found.filter(|&block| self.is_ready(block)));
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
            let mut table = Table { cached: *cached, offered, ..self.new_table(*salt) };
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
            let place = if self.labels.contains_key(&block) { self.free.len() } else { 0 };
            self.free.insert(place, block);
        }
    }

    fn take(&mut self) -> u32 {
        let block = self.free.remove(0);
        self.holders.insert(block, 1);
        self.stats.evictions += u64::from(self.labels.remove(&block).is_some());
        block
    }
}
