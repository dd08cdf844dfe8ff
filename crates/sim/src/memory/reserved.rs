//! Contiguous reservations: how Orca and FasterTransformer keep KV, over the same blocks as the paged cache.
//!
//! A group that is admitted gets one run of consecutive blocks for each of its sequences, long enough for all that the
//! sequence may ever hold, by [`Reservation`]. Nothing is ever allocated later, so nothing is ever preempted. A run is shared
//! only between a fork and the next token: the first of several tables to go on takes a run of its own group and copies all
//! that was written. There is no prefix cache.
//!
//! Block tables name the blocks of a run in order, so an executor that understands paged memory understands this too.

use folio_core::ids::{BlockId, Token};
use folio_core::kv::{BlockTable, Claim, KvMemory, KvStats, Short};
use folio_core::plan::CacheOp;

use super::buddy::Buddy;
use super::usage::Usage;

/// How much is reserved for a sequence that will hold `longest` positions, of which the prompt is known at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// As if any sequence could reach this length.
    Max(u32),
    /// As if the output's length were known up to a factor of two: the next power of two, but no more than any sequence
    /// could reach.
    Pow2(u32),
    /// As if the output's length were known.
    Oracle,
}

impl Reservation {
    fn positions(self, prompt: u32, longest: u32) -> u32 {
        match self {
            Self::Max(most) => most.max(longest),
            // What is held at the end is the output without its last token.
            Self::Pow2(most) => {
                let output = longest.saturating_sub(prompt).saturating_add(1);
                let rounded = output.checked_next_power_of_two().unwrap_or(u32::MAX);
                prompt.saturating_add(rounded - 1).min(most).max(longest)
            }
            Self::Oracle => longest.max(prompt),
        }
    }
}

/// Consecutive blocks for one sequence.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    /// Tables that hold it; 0 while it is spare.
    tables: u32,
    /// Positions in use.
    len: u32,
}

/// What one admitted group holds.
#[derive(Debug)]
struct Grant {
    runs: Vec<Run>,
    /// A run has `2^order` blocks.
    order: u32,
    /// Positions reserved per run, before rounding to a run.
    reserved: u32,
    /// Positions a run will hold at the end.
    longest: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Reserved {
    reservation: Reservation,
    block_size: u32,
    capacity: u32,
    buddy: Buddy,
    grants: Vec<Option<Grant>>,
    /// By the first block of a run: the grant it belongs to.
    owners: Vec<u32>,
    /// Whether groups are admitted only together, when all others have gone.
    batches: bool,
    /// A batch is complete: it has begun to generate.
    closed: bool,
    copies: u64,
}

/// A block that begins no run.
const NOBODY: u32 = u32::MAX;

impl Reserved {
    /// `capacity` blocks of `block_size` positions.
    #[must_use]
    pub fn new(reservation: Reservation, block_size: u32, capacity: u32) -> Self {
        Self {
            reservation,
            block_size: block_size.max(1),
            capacity,
            buddy: Buddy::new(capacity),
            grants: Vec::new(),
            owners: vec![NOBODY; capacity as usize],
            batches: false,
            closed: false,
            copies: 0,
        }
    }

    /// Schedules by request and not by iteration, as FasterTransformer does: nobody joins a batch that generates.
    #[must_use]
    pub fn in_batches(self) -> Self {
        Self { batches: true, ..self }
    }

    /// How the positions are used; the groups' true lengths are known here.
    pub(super) fn usage(&self) -> Usage {
        let mut usage = Usage {
            positions: u64::from(self.capacity) * u64::from(self.block_size),
            ..Usage::default()
        };
        for grant in self.grants.iter().flatten() {
            for run in &grant.runs {
                usage.tokens += u64::from(run.len);
                usage.reserved += u64::from(grant.longest.saturating_sub(run.len));
                usage.internal += u64::from(grant.reserved - grant.longest);
            }
        }
        usage.external = usage.positions - usage.tokens - usage.reserved - usage.internal;
        usage
    }

    fn order(&self, prompt: u32, longest: u32) -> u32 {
        let positions = self.reservation.positions(prompt, longest);
        let blocks = positions.div_ceil(self.block_size).max(1);
        blocks.checked_next_power_of_two().map_or(31, u32::trailing_zeros)
    }

    /// The grant and the run of a table.
    fn find(&mut self, table: &BlockTable) -> Option<(usize, usize)> {
        let first = table.blocks().first()?.0;
        let owner = *self.owners.get(first as usize)? as usize;
        let grant = self.grants.get(owner)?.as_ref()?;
        Some((owner, grant.runs.iter().position(|run| run.first == first)?))
    }

    /// Runs for all sequences of a group, or none.
    fn take_runs(&mut self, order: u32, sequences: u32) -> Result<Vec<Run>, Short> {
        let mut runs = Vec::new();
        for _ in 0..sequences.max(1) {
            let Some(first) = self.buddy.take(order) else {
                let have =
                    self.buddy.free_blocks() + (u32::try_from(runs.len()).unwrap_or(0) << order);
                for Run { first, .. } in runs {
                    self.buddy.give(first, order);
                }
                return Err(Short { need: sequences.max(1).saturating_mul(1 << order), have });
            };
            runs.push(Run { first, tables: 0, len: 0 });
        }
        Ok(runs)
    }
}

fn blocks(first: u32, order: u32) -> Vec<BlockId> {
    (first..first + (1 << order)).map(BlockId).collect()
}

impl KvMemory for Reserved {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn free_blocks(&self) -> u32 {
        self.buddy.free_blocks()
    }

    fn most_blocks(&self, prompt: u32, longest: u32, sequences: u32) -> u32 {
        sequences.max(1).saturating_mul(1 << self.order(prompt, longest))
    }

    fn reserves(&self) -> bool {
        true
    }

    fn admit(&mut self, claim: &Claim<'_>, _ops: &mut Vec<CacheOp>) -> Result<BlockTable, Short> {
        let prompt = u32::try_from(claim.tokens.len()).unwrap_or(u32::MAX);
        let longest = claim.longest.max(prompt);
        let order = self.order(prompt, longest);
        if self.closed {
            let need = claim.sequences.max(1).saturating_mul(1 << order);
            return Err(Short { need, have: 0 });
        }
        let mut runs = self.take_runs(order, claim.sequences)?;
        let vacant = self.grants.iter().position(Option::is_none);
        let place = vacant.unwrap_or(self.grants.len());
        for run in &runs {
            self.owners[run.first as usize] = u32::try_from(place).unwrap_or(NOBODY);
        }
        runs[0].tables = 1;
        runs[0].len = prompt;
        let table = BlockTable::from_parts(blocks(runs[0].first, order), prompt, 0);
        let reserved = self.reservation.positions(prompt, longest);
        let grant = Some(Grant { runs, order, reserved, longest });
        match self.grants.get_mut(place) {
            Some(slot) => *slot = grant,
            None => self.grants.push(grant),
        }
        Ok(table)
    }

    fn append(
        &mut self,
        table: &mut BlockTable,
        upto: u32,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short> {
        if upto <= table.len() {
            return Ok(());
        }
        let need = upto.div_ceil(self.block_size);
        let (Some((owner, at)), block_size) = (self.find(table), self.block_size) else {
            return Err(Short { need, have: 0 });
        };
        let Some(grant) = self.grants[owner].as_mut() else { return Err(Short { need, have: 0 }) };
        let order = grant.order;
        if need > 1 << order {
            return Err(Short { need, have: 1 << order });
        }
        self.closed = self.batches;
        let mut own = at;
        if grant.runs[at].tables > 1 {
            let Some(spare) = grant.runs.iter().position(|run| run.tables == 0) else {
                debug_assert!(false, "a group has more tables than it said it had sequences");
                return Err(Short { need, have: 0 });
            };
            let (from, to) = (grant.runs[at].first, grant.runs[spare].first);
            for offset in 0..table.len().div_ceil(block_size) {
                let (source, destination) = (BlockId(from + offset), BlockId(to + offset));
                ops.push(CacheOp::Copy { source, destination });
                self.copies += 1;
            }
            for (index, block) in blocks(to, order).into_iter().enumerate() {
                table.replace(index, block);
            }
            grant.runs[at].tables -= 1;
            grant.runs[spare].tables = 1;
            own = spare;
        }
        grant.runs[own].len = upto;
        table.extend([], upto);
        Ok(())
    }

    fn fork(&mut self, table: &BlockTable) -> BlockTable {
        if let Some((owner, at)) = self.find(table)
            && let Some(grant) = self.grants[owner].as_mut()
        {
            grant.runs[at].tables += 1;
        }
        BlockTable::from_parts(table.blocks().to_vec(), table.len(), table.len())
    }

    fn publish(&mut self, _table: &mut BlockTable, _computed: &[Token]) {}

    fn free(&mut self, table: BlockTable) {
        let found = self.find(&table);
        drop(table.into_blocks());
        let Some((owner, at)) = found else { return };
        let Some(grant) = self.grants[owner].as_mut() else { return };
        grant.runs[at].tables -= 1;
        if grant.runs[at].tables == 0 {
            grant.runs[at].len = 0;
        }
        if grant.runs.iter().all(|run| run.tables == 0)
            && let Some(grant) = self.grants[owner].take()
        {
            for run in grant.runs {
                self.owners[run.first as usize] = NOBODY;
                self.buddy.give(run.first, grant.order);
            }
        }
        self.closed &= self.grants.iter().any(Option::is_some);
    }

    fn stats(&self) -> KvStats {
        let (total, free) = (self.capacity(), self.free_blocks());
        let grants = self.grants.iter().flatten();
        let held = grants.map(|grant| (grant.runs.len() as u64) << grant.order).sum();
        let used = total.saturating_sub(free);
        KvStats { total, free, used, held, copies: self.copies, ..KvStats::default() }
    }

    fn check(&self, tables: &mut dyn Iterator<Item = &BlockTable>) -> Result<(), String> {
        let mut holders = vec![0u32; self.capacity as usize];
        for table in tables {
            let Some(first) = table.blocks().first() else { continue };
            if !table.blocks().iter().zip(first.0..).all(|(block, expected)| block.0 == expected) {
                return Err(format!("the table at block {first} is not contiguous"));
            }
            holders[first.index()] += 1;
        }
        let mut owned = vec![0u32; self.capacity as usize];
        let mut mark = |first: u32, len: u32| {
            owned[first as usize..(first + len) as usize].iter_mut().for_each(|n| *n += 1);
        };
        for grant in self.grants.iter().flatten() {
            for run in &grant.runs {
                mark(run.first, 1 << grant.order);
                if holders[run.first as usize] != run.tables {
                    return Err(format!("run {}: {} tables are counted", run.first, run.tables));
                }
            }
        }
        for (first, len) in self.buddy.runs() {
            mark(first, len);
        }
        match owned.iter().position(|&owners| owners != 1) {
            Some(block) => Err(format!("block {block} has {} owners", owned[block])),
            None => Ok(()),
        }
    }
}
