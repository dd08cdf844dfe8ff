//! Blocks: where the KV of every sequence lives.
//!
//! [`Manager`] is the paper's block manager. [`KvMemory`] is what the scheduler asks of it, so that other policies
//! (contiguous reservations, for comparison) can stand in.
//!
//! | file | its one idea |
//! |---|---|
//! | `pool` | who holds which block; free memory is the prefix cache |
//! | `hash` | what makes two blocks interchangeable |
//! | `prefix` | from hash to block |
//! | `lookup` | what of a claim is already there |
//! | `promise` | one computes a common prefix, the others wait for its blocks |
//! | `kin` | the blocks that continue one past, and their tokens |
//! | `pin` | prefixes that are kept for good |
//! | `table` | the blocks of one sequence, a linear type |
//! | `change` | what has become findable and what is lost, for those who ask |
//! | `swap` | blocks outside the device, with another linear type |
//! | `manager` | the paper's verbs over all of these |
//! | `check` | every invariant, against all tables that exist |

use std::fmt;

mod change;
mod check;
mod config;
mod hash;
mod kin;
mod lookup;
mod manager;
mod pin;
mod pool;
mod prefix;
mod promise;
mod swap;
mod table;

pub use change::{BlockName, Change};
pub use config::{BadConfig, Config};
pub use manager::Manager;
pub use swap::SwappedTable;
pub use table::BlockTable;

use crate::count;
use crate::ids::{Salt, Token};
use crate::plan::CacheOp;

/// The largest block there may be, in positions.
pub const MAX_BLOCK_SIZE: u32 = 256;

/// The most blocks there may be: their metadata alone takes more than 8 GiB.
pub const MAX_CAPACITY: u32 = 1 << 28;

/// Not enough free blocks (or slots of the swap space). Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// Blocks (or slots) the operation needs.
    pub need: u32,
    /// Blocks (or slots) that are free.
    pub have: u32,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks needed, {} free", self.need, self.have)
    }
}

impl std::error::Error for Short {}

/// How the blocks are used now, and what happened since the memory was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvStats {
    /// Blocks there are: `free + used`.
    pub total: u32,
    /// Blocks that could be handed out now.
    pub free: u32,
    /// Those of the free blocks that still cache (the end of) a prefix.
    pub cached_free: u32,
    /// Blocks that some table holds, or a pin.
    pub used: u32,
    /// Those of the used blocks that more than one table holds, where a pin counts like a table.
    pub shared: u32,
    /// Tokens of all admitted claims for which the prefix cache was asked.
    pub prefix_queries: u64,
    /// Those of the asked tokens that it had, or that another table had promised to compute. Should that table be given
    /// back before it has, they are computed after all and still count here.
    pub prefix_hits: u64,
    /// Blocks that stopped caching a prefix because they were handed out.
    pub evictions: u64,
    /// Blocks that were copied because a sequence wrote to a block that others held.
    pub copies: u64,
    /// Blocks that were copied because a cached block begins as a claim's last block does.
    pub partial_hits: u64,
    /// Blocks that tables and pins hold, a block that several hold counted for each: `held - used` blocks are saved by
    /// sharing.
    pub held: u64,
    /// Blocks that are pinned; part of `used`.
    pub pinned: u32,
    /// Slots of the swap space.
    pub swap_total: u32,
    /// Slots that hold the block of a swapped sequence.
    pub swap_used: u32,
    /// Blocks that were swapped out.
    pub swapped_out: u64,
    /// Blocks that were swapped in.
    pub swapped_in: u64,
    /// Blocks of swapped sequences that need not be swapped in, since the device still had them.
    pub swap_reused: u64,
}

/// What a group asks for when it is admitted.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Tokens whose KV is needed; at least one is always left to compute.
    pub tokens: &'a [Token],
    /// Which prefix cache to look in.
    pub salt: Salt,
    /// Whether blocks of the prefix cache may be used (not when the prompt must be scored).
    pub use_prefix_cache: bool,
    /// Blocks that must stay free beside the table, for what the group takes soon; a policy that reserves ignores it.
    pub beside: u32,
    /// How many sequences will share these tokens. Paged memory ignores it.
    pub sequences: u32,
    /// The most tokens one sequence of the group will ever hold. Paged memory ignores it; a policy that reserves
    /// contiguous memory needs it.
    pub longest: u32,
}

/// What [`KvMemory::most_blocks`] is for paged memory, of which only the block size matters: the prompt's full blocks are
/// held once; what follows, the prompt's partial block included, once per sequence. While no sequence holds more than the
/// prompt, the partial block is shared, too.
#[must_use]
pub fn most_paged_blocks(block_size: u32, prompt: u32, longest: u32, sequences: u32) -> u32 {
    let block_size = block_size.max(1);
    if longest <= prompt || sequences <= 1 {
        return longest.max(prompt).div_ceil(block_size);
    }
    let shared = prompt / block_size;
    let own = longest.div_ceil(block_size) - shared;
    shared.saturating_add(own.saturating_mul(sequences))
}

/// A table and how many of its positions have been computed.
#[derive(Debug)]
pub struct Computed {
    /// The table.
    pub table: BlockTable,
    /// Positions `0..computed` hold KV.
    pub computed: u32,
}

/// Memory for KV as the scheduler sees it. Each verb either succeeds or returns [`Short`] having changed nothing.
/// The example `paging` of this crate shows all of them at work on a [`Manager`].
pub trait KvMemory {
    /// Positions in one block.
    fn block_size(&self) -> u32;

    /// Blocks there are, pinned ones included.
    fn capacity(&self) -> u32;

    /// Blocks that could be handed out now, those that still cache a prefix included.
    fn free_blocks(&self) -> u32;

    /// The most blocks that `sequences` sequences can hold at once when they are forks of one sequence that held
    /// `prompt` tokens, and each holds `longest` tokens at the end (prompt included; never fewer than `prompt`).
    /// What exceeds [`Self::capacity`] can never be served.
    ///
    /// A sequence *holds* a token whose KV is in memory. The last token that is generated is never computed upon, so a
    /// request for `max_tokens` more tokens holds at most `prompt + max_tokens - 1`.
    ///
    /// The bound relies on sharing: sequences that are admitted again one by one, and find no prefix cache, share nothing.
    fn most_blocks(&self, prompt: u32, longest: u32, sequences: u32) -> u32;

    /// Whether [`Self::admit`] takes all that a group will ever hold at once. Then nothing need stay free beside it, and
    /// [`Self::append`] never falls short.
    fn reserves(&self) -> bool {
        false
    }

    /// Makes the table of a group's first sequence with room for all of `claim.tokens`. [`BlockTable::cached`] tells
    /// how many of them are already computed; it is less than their number. May push copies to `ops`, of cached blocks
    /// that begin as the claim goes on.
    ///
    /// Blocks that another table is about to compute are shared as well: see [`Self::await_prefix`].
    ///
    /// # Errors
    /// [`Short`] when the blocks that are not cached cannot be had, with [`Claim::beside`] left over; `ops` has not changed.
    fn admit(&mut self, claim: &Claim<'_>, ops: &mut Vec<CacheOp>) -> Result<BlockTable, Short>;

    /// Whether the positions from [`BlockTable::cached`] on are being computed by another table, so that this one's sequence
    /// must wait: it may write to none of the table's blocks. Asked before each step until it says no: `cached` rises to what
    /// has been published meanwhile, and if the other table was given back before it came so far, this one takes its part
    /// over (and others wait for it). A table that takes over may lose blocks at its end, with `len`: `append` as if they had
    /// never been there.
    fn await_prefix(&mut self, _table: &mut BlockTable) -> bool {
        false
    }

    /// Makes positions `table.len()..upto` writable: allocates blocks, and un-shares a last block that others hold
    /// too by pushing a copy to `ops`. Where there are no such positions it does nothing.
    ///
    /// If the step that should make the copies fails, the table's contents are lost, and it can only be freed.
    ///
    /// # Errors
    /// [`Short`] when the blocks cannot be had; neither `table` nor `ops` has changed.
    fn append(
        &mut self,
        table: &mut BlockTable,
        upto: u32,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short>;

    /// A second table over the same blocks. All its positions must have been written by the step before, for the first
    /// [`Self::append`] to either table may copy the last block *before* the next step writes anything.
    fn fork(&mut self, table: &BlockTable) -> BlockTable;

    /// Lengthens a table, all of whose positions have been computed, over the cached blocks in which its sequence goes on;
    /// `tokens` are all that the sequence knows, of which at least one is left to compute. What is added needs no
    /// computation: [`BlockTable::len`] rises by as much.
    fn extend_cached(&mut self, _table: &mut BlockTable, _tokens: &[Token]) {}

    /// Lets others find the full blocks of `table` whose KV has been written: `computed` holds the tokens of
    /// positions `0..computed.len()`. Called after the step that wrote them, never before. Takes time only for blocks
    /// that were not published yet.
    fn publish(&mut self, table: &mut BlockTable, computed: &[Token]);

    /// Takes a table back. Whatever of it has been published stays findable until its blocks are needed.
    fn free(&mut self, table: BlockTable);

    /// Moves the blocks of a whole group to the swap space: those that hold the first `computed` positions of each table,
    /// a block that several tables share only once. The rest is given back.
    ///
    /// # Errors
    /// [`Short`] of slots, with the tables; nothing has changed.
    fn swap_out(
        &mut self,
        tables: Vec<Computed>,
        _ops: &mut Vec<CacheOp>,
    ) -> Result<Vec<SwappedTable>, (Short, Vec<Computed>)> {
        let need = count(&tables);
        Err((Short { need, have: 0 }, tables))
    }

    /// Brings a whole group back, sharing as it was; blocks that can still be found by what they contain are not moved.
    /// Each table has as many positions as were computed when it left. The contents count as computed when the step has been
    /// executed without reporting a slot as lost.
    ///
    /// # Errors
    /// [`Short`] of blocks, with the tables; nothing has changed.
    fn swap_in(
        &mut self,
        tables: Vec<SwappedTable>,
        _ops: &mut Vec<CacheOp>,
    ) -> Result<Vec<BlockTable>, (Short, Vec<SwappedTable>)> {
        Err((Short { need: 0, have: 0 }, tables))
    }

    /// Gives the slots of a swapped table back; its contents are not wanted any more.
    fn forget_swapped(&mut self, table: SwappedTable) {
        debug_assert!(table.is_empty(), "this memory swaps nothing");
    }

    /// Keeps the full blocks of `table` that have been published, for as long as the memory lives, and takes the table back.
    /// Claims of every salt find them, if the table was admitted under [`Salt::default`]. What is
    /// pinned is lost to claims that begin otherwise, so there must be enough beside it for the largest of them.
    fn pin(&mut self, table: BlockTable) {
        self.free(table);
    }

    /// Appends what has become findable and what was lost since the last call, in that order of time. Nothing, unless the
    /// memory was made to remember it.
    fn take_changes(&mut self, _into: &mut Vec<Change>) {}

    /// How the memory is used.
    fn stats(&self) -> KvStats {
        let (total, free) = (self.capacity(), self.free_blocks());
        KvStats { total, free, used: total.saturating_sub(free), ..KvStats::default() }
    }

    /// Checks every invariant against all tables that exist.
    ///
    /// # Errors
    /// A sentence on the first invariant that does not hold.
    fn check(&self, tables: &mut dyn Iterator<Item = &BlockTable>) -> Result<(), String>;

    /// Checks the swap space against all swapped tables that exist.
    ///
    /// # Errors
    /// A sentence on the first invariant that does not hold.
    fn check_swapped(
        &self,
        _tables: &mut dyn Iterator<Item = &SwappedTable>,
    ) -> Result<(), String> {
        Ok(())
    }
}
