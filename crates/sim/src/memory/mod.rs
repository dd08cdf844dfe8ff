//! Memory policies behind the trait that the scheduler asks: paged, and the reservations the paper compares with.
//!
//! [`Memory`] is one of them, chosen at run time, so that one scheduler type serves whatever was asked for. The real engine
//! can run under any of them: all speak of blocks of the same cache.

mod buddy;
mod reserved;
mod usage;

use std::fmt;
use std::str::FromStr;

use folio_core::ids::Token;
use folio_core::kv::{
    BadConfig, BlockTable, Claim, Computed, Config, KvMemory, KvStats, Manager, Short, SwappedTable,
};
use folio_core::plan::CacheOp;
use folio_core::schedule::Scheduler;
pub use reserved::{Reservation, Reserved};
pub use usage::Usage;

/// How KV memory is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// In blocks, when they are needed (PagedAttention).
    Paged,
    /// In one piece for the longest sequence there may be (Orca, Max).
    OrcaMax,
    /// In one piece for the next power of two of the output (Orca, Pow2).
    OrcaPow2,
    /// In one piece for the true length (Orca, Oracle).
    OrcaOracle,
    /// As [`Self::OrcaMax`], and a batch runs to its end before the next begins (FasterTransformer).
    Static,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Paged, Self::OrcaOracle, Self::OrcaPow2, Self::OrcaMax, Self::Static];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paged => "paged",
            Self::OrcaMax => "orca-max",
            Self::OrcaPow2 => "orca-pow2",
            Self::OrcaOracle => "orca-oracle",
            Self::Static => "static",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no policy; there are {names}")
        })
    }
}

/// Memory under one of the policies.
#[derive(Debug)]
pub enum Memory {
    /// Paged.
    Paged(Box<Manager>),
    /// Reserved in one piece.
    Reserved(Reserved),
}

impl Memory {
    /// Memory under `policy`; `swap_slots` and the prefix cache are for paged memory only, and `max_model_len` is what
    /// policies reserve that do not look at the request.
    ///
    /// # Errors
    /// When the block size or the capacity is out of range.
    pub fn new(
        policy: Policy,
        config: Config,
        swap_slots: u32,
        max_model_len: u32,
    ) -> Result<Self, BadConfig> {
        let reserved = |reservation| {
            // The bounds are the same for all, and checked in one place.
            Manager::new(config)
                .map(|_| Reserved::new(reservation, config.block_size, config.capacity))
        };
        Ok(match policy {
            Policy::Paged => {
                Self::Paged(Box::new(Manager::new(config)?.with_swap_space(swap_slots)))
            }
            Policy::OrcaMax => Self::Reserved(reserved(Reservation::Max(max_model_len))?),
            Policy::OrcaPow2 => Self::Reserved(reserved(Reservation::Pow2(max_model_len))?),
            Policy::OrcaOracle => Self::Reserved(reserved(Reservation::Oracle)?),
            Policy::Static => {
                Self::Reserved(reserved(Reservation::Max(max_model_len))?.in_batches())
            }
        })
    }
}

/// How the memory of `scheduler` is used now.
#[must_use]
pub fn usage(scheduler: &Scheduler<Memory>) -> Usage {
    match scheduler.memory() {
        Memory::Paged(_) => Usage::paged(&scheduler.inspect()),
        Memory::Reserved(reserved) => reserved.usage(),
    }
}

/// Asks whichever it is.
macro_rules! each {
    ($self:expr, $memory:ident => $ask:expr) => {
        match $self {
            Self::Paged($memory) => $ask,
            Self::Reserved($memory) => $ask,
        }
    };
}

impl KvMemory for Memory {
    fn block_size(&self) -> u32 {
        each!(self, memory => memory.block_size())
    }

    fn capacity(&self) -> u32 {
        each!(self, memory => memory.capacity())
    }

    fn free_blocks(&self) -> u32 {
        each!(self, memory => memory.free_blocks())
    }

    fn most_blocks(&self, prompt: u32, longest: u32, sequences: u32) -> u32 {
        each!(self, memory => memory.most_blocks(prompt, longest, sequences))
    }

    fn reserves(&self) -> bool {
        each!(self, memory => memory.reserves())
    }

    fn admit(&mut self, claim: &Claim<'_>, ops: &mut Vec<CacheOp>) -> Result<BlockTable, Short> {
        each!(self, memory => memory.admit(claim, ops))
    }

    fn await_prefix(&mut self, table: &mut BlockTable) -> bool {
        each!(self, memory => memory.await_prefix(table))
    }

    fn append(
        &mut self,
        table: &mut BlockTable,
        upto: u32,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short> {
        each!(self, memory => memory.append(table, upto, ops))
    }

    fn fork(&mut self, table: &BlockTable) -> BlockTable {
        each!(self, memory => memory.fork(table))
    }

    fn extend_cached(&mut self, table: &mut BlockTable, tokens: &[Token]) {
        each!(self, memory => memory.extend_cached(table, tokens));
    }

    fn publish(&mut self, table: &mut BlockTable, computed: &[Token]) {
        each!(self, memory => memory.publish(table, computed));
    }

    fn free(&mut self, table: BlockTable) {
        each!(self, memory => memory.free(table));
    }

    fn swap_out(
        &mut self,
        tables: Vec<Computed>,
        ops: &mut Vec<CacheOp>,
    ) -> Result<Vec<SwappedTable>, (Short, Vec<Computed>)> {
        each!(self, memory => memory.swap_out(tables, ops))
    }

    fn swap_in(
        &mut self,
        tables: Vec<SwappedTable>,
        ops: &mut Vec<CacheOp>,
    ) -> Result<Vec<BlockTable>, (Short, Vec<SwappedTable>)> {
        each!(self, memory => memory.swap_in(tables, ops))
    }

    fn forget_swapped(&mut self, table: SwappedTable) {
        each!(self, memory => memory.forget_swapped(table));
    }

    fn pin(&mut self, table: BlockTable) {
        each!(self, memory => memory.pin(table));
    }

    fn stats(&self) -> KvStats {
        each!(self, memory => memory.stats())
    }

    fn check(&self, tables: &mut dyn Iterator<Item = &BlockTable>) -> Result<(), String> {
        each!(self, memory => memory.check(tables))
    }

    fn check_swapped(&self, tables: &mut dyn Iterator<Item = &SwappedTable>) -> Result<(), String> {
        each!(self, memory => memory.check_swapped(tables))
    }
}
