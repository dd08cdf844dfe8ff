//! The naive swap space: which block goes to which slot is searched for.

use std::collections::BTreeMap;

use folio_core::ids::{BlockId, SwapSlot};
use folio_core::kv::Short;
use folio_core::plan::CacheOp;

use super::{Naive, Past, Swapped, Table, count};

impl Naive {
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
            cache: table.cache,
            known: table.known.clone(),
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
        for Swapped { slots, cached, cache, known } in tables {
            let reused = |(slot, _): &&(u32, Option<Past>)| {
                blocks[slot].is_some_and(|block| found.contains(&block))
            };
            let offered = slots.iter().take_while(reused).count();
            let known = known[..offered * self.block_size].to_vec();
            let mut table = Table { cached: *cached, offered, known, ..self.new_table(*cache) };
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
}
