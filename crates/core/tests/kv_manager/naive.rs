//! The block manager as one would explain it: searched lists and maps of whole token sequences instead of linked lists,
//! hashes and counters. It decides the same things, down to which block is handed out next.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use folio_core::ids::{BlockId, Salt, Token};
use folio_core::kv::{Claim, KvStats, Short};
use folio_core::plan::CacheOp;

mod swap;

/// A salt, and how many pinned blocks of everybody's stand before what is its own.
type Cache = (u64, usize);

/// A block's contents: which cache it belongs to, and all tokens from the first of the sequence to its own last.
type Past = (Cache, Vec<Token>);

/// What a block is findable by.
#[derive(Clone)]
struct Label {
    past: Past,
    /// Which table is going to compute it, while it has not.
    promised_by: Option<usize>,
    /// Greater for what became findable later.
    since: usize,
}

/// A block table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Never the same for two tables.
    id: usize,
    /// Physical blocks in order of position.
    pub(crate) blocks: Vec<u32>,
    pub(crate) cached: usize,
    pub(crate) cache: Cache,
    /// Each block is offered once: what was a duplicate then stays unknown, even when the original is lost.
    offered: usize,
    /// The claim, when others may compute some of it.
    claim: Vec<Token>,
    /// Up to which block others do.
    awaited: usize,
    /// What it has computed, as far as it counts if the table is given back.
    known: Vec<Token>,
}

/// A table in the swap space.
pub(crate) struct Swapped {
    /// The slots, and what was findable of them.
    pub(crate) slots: Vec<(u32, Option<Past>)>,
    cached: usize,
    cache: Cache,
    known: Vec<Token>,
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
    labelled: usize,
    pinned: Vec<u32>,
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
            labelled: 0,
            pinned: Vec::new(),
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
            pinned: count(self.pinned.len()),
            swap_used: self.stats.swap_total - count(self.free_slots.len()),
            ..self.stats
        }
    }

    /// The cache in which a claim looks.
    fn cache(&self, tokens: &[Token], salt: u64) -> Cache {
        let most = tokens.len().saturating_sub(1) / self.block_size;
        let is_pinned = |index: &usize| {
            let block = self.find(&self.past((0, 0), tokens, *index));
            block.is_some_and(|block| self.pinned.contains(&block))
        };
        (salt, if salt == 0 { 0 } else { (0..most).take_while(is_pinned).count() })
    }

    /// The blocks of which all but the last token of `tokens` is made, and how many of them are ready.
    pub(crate) fn match_prefix(&self, tokens: &[Token], salt: u64) -> (Vec<u32>, usize) {
        // One token is always left to compute.
        let full = tokens.len().saturating_sub(1) / self.block_size;
        let cache = self.cache(tokens, salt);
        let find = |index| self.find(&self.past(cache, tokens, index));
        let blocks: Vec<u32> = (0..full).map_while(find).collect();
        let ready = blocks.iter().take_while(|&&block| self.is_ready(block)).count();
        (blocks, ready)
    }

    /// The contents of the block at `index`.
    fn past(&self, cache: Cache, tokens: &[Token], index: usize) -> Past {
        let cache = if index < cache.1 { (0, 0) } else { cache };
        (cache, tokens[..(index + 1) * self.block_size].to_vec())
    }

    fn find(&self, past: &Past) -> Option<u32> {
        self.labels.iter().find_map(|(&block, label)| (label.past == *past).then_some(block))
    }

    fn is_ready(&self, block: u32) -> bool {
        self.labels.get(&block).is_some_and(|label| label.promised_by.is_none())
    }

    fn new_table(&mut self, cache: Cache) -> Table {
        self.tables += 1;
        let id = self.tables;
        let (blocks, claim, known) = (Vec::new(), Vec::new(), Vec::new());
        Table { id, blocks, cached: 0, cache, offered: 0, claim, awaited: 0, known }
    }

    /// The block after `past` that begins most like `next`, and for how many tokens.
    fn most_alike(&self, past: &Past, next: &[Token]) -> Option<(u32, usize)> {
        let own = past.1.len()..past.1.len() + self.block_size + 1;
        let follows = |label: &Label| {
            label.promised_by.is_none()
                && label.past.0 == past.0
                && own.contains(&label.past.1.len())
                && label.past.1.len() > past.1.len()
                && label.past.1.starts_with(&past.1)
        };
        let mut all: Vec<_> = self.labels.iter().filter(|(_, label)| follows(label)).collect();
        all.sort_by_key(|(_, label)| Reverse(label.since));
        all.truncate(8);
        let alike = |label: &Label| {
            let own = &label.past.1[past.1.len()..];
            own.iter().zip(next).take_while(|(own, next)| own == next).count()
        };
        // The first of equals.
        all.into_iter().map(|(&block, label)| (block, alike(label))).rev().max_by_key(|&(_, m)| m)
    }

    fn worthwhile(&self, positions: usize) -> bool {
        positions >= 1 && positions >= self.block_size / 4
    }

    /// The copy to make for a claim of which the first blocks are `found`.
    fn start(&self, tokens: &[Token], cache: Cache, found: usize) -> Option<(u32, usize)> {
        let at = found * self.block_size;
        let next = tokens[..tokens.len() - 1].get(at..)?;
        let (source, alike) = self.most_alike(&(cache, tokens[..at].to_vec()), next)?;
        self.worthwhile(alike).then_some((source, alike))
    }

    fn label(&mut self, block: u32, past: Past) {
        self.labelled += 1;
        self.labels.insert(block, Label { past, promised_by: None, since: self.labelled });
    }

    pub(crate) fn admit(&mut self, claim: &Claim<'_>) -> Result<(Table, Option<CacheOp>), Short> {
        let &Claim { tokens, salt: Salt(salt), .. } = claim;
        let use_cache = claim.use_prefix_cache && self.caching;
        let cache = if use_cache { self.cache(tokens, salt) } else { (salt, 0) };
        let (found, ready) =
            if use_cache { self.match_prefix(tokens, salt) } else { (Vec::new(), 0) };
        let total = tokens.len().div_ceil(self.block_size);
        let held = found.iter().filter(|block| self.holders.contains_key(block)).count();
        self.room_for(total - held + claim.beside as usize)?;
        let start =
            if use_cache && found.len() == ready { self.start(tokens, cache, ready) } else { None };
        let start = start.filter(|(source, _)| {
            let more = usize::from(!self.holders.contains_key(source));
            self.room_for(total - held + more).is_ok()
        });
        found.iter().for_each(|&block| self.hold(block));
        start.iter().for_each(|&(block, _)| self.hold(block));
        let mut table = self.new_table(cache);
        table.awaited = found.len();
        table.offered = ready;
        table.cached = ready * self.block_size;
        table.blocks = found;
        table.blocks.extend((table.awaited..total).map(|_| self.take()));
        let mut copy = None;
        if use_cache {
            table.claim = tokens.to_vec();
            table.known = tokens[..table.cached].to_vec();
            self.promise(&table, table.awaited..tokens.len() / self.block_size);
            self.stats.prefix_queries += tokens.len() as u64;
            self.stats.prefix_hits += (table.awaited * self.block_size) as u64;
            if let Some((source, alike)) = start {
                self.release(source);
                let [source, destination] = [source, table.blocks[ready]].map(BlockId);
                copy = Some(CacheOp::Copy { source, destination });
                table.cached += alike;
                self.stats.prefix_hits += alike as u64;
                self.stats.partial_hits += 1;
            }
        }
        Ok((table, copy))
    }

    /// Promises blocks of the table whose like nobody has.
    fn promise(&mut self, table: &Table, blocks: Range<usize>) {
        for index in blocks {
            let past = self.past(table.cache, &table.claim, index);
            if self.find(&past).is_none() {
                let label = Label { past, promised_by: Some(table.id), since: 0 };
                self.labels.insert(table.blocks[index], label);
            }
        }
    }

    pub(crate) fn await_prefix(&mut self, table: &mut Table) -> bool {
        while table.offered < table.awaited {
            let index = table.offered;
            let block = table.blocks[index];
            let past = self.past(table.cache, &table.claim, index);
            if self.is_ready(block) {
                table.offered += 1;
                table.cached = table.offered * self.block_size;
                table.known = table.claim[..table.cached].to_vec();
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
            let past = self.past(table.cache, &table.claim, index);
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
            table.known.truncate(len / self.block_size * self.block_size);
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
        fork.id = self.new_table(table.cache).id;
        fork
    }

    /// Offers the full blocks of `table` that hold `computed`.
    pub(crate) fn publish(&mut self, table: &mut Table, computed: &[Token]) {
        let full = computed.len() / self.block_size;
        for index in table.offered..full {
            let (block, past) = (table.blocks[index], self.past(table.cache, computed, index));
            let label = self.labels.get(&block);
            let own = label.is_some_and(|label| label.promised_by == Some(table.id));
            if self.caching && (own || self.find(&past).is_none()) {
                self.label(block, past);
            }
        }
        table.offered = full;
        if self.caching && table.known.len() < computed.len() {
            table.known = computed.to_vec();
        }
    }

    /// The half-filled block at the end of what is known, unless the like of it can be found.
    fn offer_tail(&mut self, table: &Table) {
        let at = table.offered * self.block_size;
        let Some(&block) = table.blocks.get(table.offered) else { return };
        let Some(tail) = table.known.get(at..) else { return };
        let own = self.holders[&block] == 1 && !self.labels.contains_key(&block);
        if own && tail.len() < self.block_size && self.worthwhile(tail.len()) {
            let past = (table.cache, table.known[..at].to_vec());
            if self.most_alike(&past, tail).is_none_or(|(_, alike)| alike < tail.len()) {
                self.label(block, (table.cache, table.known.clone()));
            }
        }
    }

    pub(crate) fn free(&mut self, table: &Table) {
        self.labels.retain(|_, label| label.promised_by != Some(table.id));
        self.offer_tail(table);
        table.blocks.iter().rev().for_each(|&block| self.release(block));
    }

    pub(crate) fn pin(&mut self, table: &Table) {
        let published = if self.caching { table.offered } else { 0 };
        for index in table.cache.1..published {
            let past = self.past(table.cache, &table.known, index);
            let Some(block) = self.find(&past).filter(|&block| self.is_ready(block)) else { break };
            if !self.pinned.contains(&block) {
                self.hold(block);
                self.pinned.push(block);
            }
        }
        self.free(table);
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
