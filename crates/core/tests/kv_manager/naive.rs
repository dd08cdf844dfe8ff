//! The block manager as one would explain it: searched lists and maps of whole token sequences instead of linked lists,
//! hashes and counters. It decides the same things, down to which block is handed out next.

use std::collections::BTreeMap;

use folio_core::ids::Token;
use folio_core::kv::{KvStats, Short};

/// A full block's contents: which cache it belongs to, and all tokens from the first of the sequence to its own last.
type Past = (u64, Vec<Token>);

/// What a naive table amounts to: physical blocks in order of position.
pub(crate) type Blocks = Vec<u32>;

pub(crate) struct Naive {
    block_size: usize,
    caching: bool,
    /// In the order in which they will be taken.
    free: Vec<u32>,
    /// In how many tables each block is that is in any.
    holders: BTreeMap<u32, u32>,
    cached: BTreeMap<u32, Past>,
    pub(crate) stats: KvStats,
}

impl Naive {
    pub(crate) fn new(block_size: usize, capacity: u32, caching: bool) -> Self {
        let stats = KvStats { total: capacity, ..KvStats::default() };
        let free = (0..capacity).collect();
        Self { block_size, caching, free, holders: BTreeMap::new(), cached: BTreeMap::new(), stats }
    }

    /// The counters, and the gauges counted afresh.
    pub(crate) fn stats(&self) -> KvStats {
        let count = |length: usize| u32::try_from(length).unwrap();
        KvStats {
            free: count(self.free.len()),
            cached_free: count(self.free.iter().filter(|b| self.cached.contains_key(b)).count()),
            used: count(self.holders.len()),
            shared: count(self.holders.values().filter(|&&tables| tables > 1).count()),
            ..self.stats
        }
    }

    pub(crate) fn match_prefix(&self, tokens: &[Token], salt: u64) -> Blocks {
        let mut found = Blocks::new();
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

    /// The table and how many tokens were cached.
    pub(crate) fn admit(
        &mut self,
        tokens: &[Token],
        salt: u64,
        use_cache: bool,
    ) -> Result<(Blocks, usize), Short> {
        let mut table = if use_cache { self.match_prefix(tokens, salt) } else { Blocks::new() };
        let cached = table.len();
        let total = tokens.len().div_ceil(self.block_size);
        let held = table.iter().filter(|block| self.holders.contains_key(block)).count();
        self.room_for(total - held)?;
        for &block in &table {
            self.free.retain(|&free| free != block);
            *self.holders.entry(block).or_default() += 1;
        }
        table.extend((cached..total).map(|_| self.take()));
        if self.caching && use_cache {
            self.stats.prefix_queries += tokens.len() as u64;
            self.stats.prefix_hits += (cached * self.block_size) as u64;
        }
        Ok((table, cached * self.block_size))
    }

    /// The copy to make, as (source, destination).
    pub(crate) fn append(
        &mut self,
        table: &mut Blocks,
        len: usize,
        upto: usize,
    ) -> Result<Option<(u32, u32)>, Short> {
        let total = upto.div_ceil(self.block_size);
        let room_in_tail = table.len() * self.block_size > len;
        let tail = table.last().copied().filter(|_| room_in_tail);
        let shared = tail.filter(|block| self.holders[block] > 1);
        self.room_for(total - table.len() + usize::from(shared.is_some()))?;
        let copy = shared.map(|source| {
            let destination = self.take();
            table.pop();
            table.push(destination);
            *self.holders.get_mut(&source).unwrap() -= 1;
            self.stats.copies += 1;
            (source, destination)
        });
        table.extend((table.len()..total).map(|_| self.take()));
        Ok(copy)
    }

    pub(crate) fn fork(&mut self, table: &Blocks) -> Blocks {
        for block in table {
            *self.holders.get_mut(block).unwrap() += 1;
        }
        table.clone()
    }

    /// Offers the full blocks of `table` from the `from`th on, and tells how many it has offered by then. Each block is
    /// offered once: what was a duplicate then stays unknown, even when the original is lost.
    pub(crate) fn publish(
        &mut self,
        table: &Blocks,
        from: usize,
        computed: &[Token],
        salt: u64,
    ) -> usize {
        let full = computed.len() / self.block_size;
        for index in from..full {
            let past = (salt, computed[..(index + 1) * self.block_size].to_vec());
            if self.caching && self.find(&past).is_none() {
                self.cached.insert(table[index], past);
            }
        }
        full
    }

    pub(crate) fn free(&mut self, table: &Blocks) {
        for &block in table.iter().rev() {
            let tables = self.holders.get_mut(&block).unwrap();
            *tables -= 1;
            if *tables == 0 {
                self.holders.remove(&block);
                // What caches nothing is taken first, what was given back last is taken last.
                let place = if self.cached.contains_key(&block) { self.free.len() } else { 0 };
                self.free.insert(place, block);
            }
        }
    }

    pub(crate) fn holders(&self, block: u32) -> u32 {
        self.holders.get(&block).copied().unwrap_or(0)
    }

    fn room_for(&self, need: usize) -> Result<(), Short> {
        let [need, have] = [need, self.free.len()].map(|count| u32::try_from(count).unwrap());
        if need > have { Err(Short { need, have }) } else { Ok(()) }
    }

    fn take(&mut self) -> u32 {
        let block = self.free.remove(0);
        self.holders.insert(block, 1);
        self.stats.evictions += u64::from(self.cached.remove(&block).is_some());
        block
    }
}
