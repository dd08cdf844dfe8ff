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
//! | `table` | the blocks of one sequence, a linear type |
//! | `manager` | the paper's verbs over all of these |
//! | `check` | every invariant, against all tables that exist |

use std::fmt;

mod check;
mod hash;
mod manager;
mod pool;
mod prefix;
mod table;

pub use manager::{BadConfig, Config, Manager};
pub use table::BlockTable;

use crate::ids::{Salt, Token};
use crate::plan::CacheOp;

/// The largest block there may be, in positions.
pub const MAX_BLOCK_SIZE: u32 = 256;

/// The most blocks there may be: their metadata alone takes 8 GiB.
pub const MAX_CAPACITY: u32 = 1 << 28;

/// Not enough free blocks. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// Blocks the operation needs.
    pub need: u32,
    /// Blocks that are free.
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
    /// Those of the free blocks that still cache a prefix.
    pub cached_free: u32,
    /// Blocks that some table holds.
    pub used: u32,
    /// Those of the used blocks that more than one table holds.
    pub shared: u32,
    /// Tokens of all admitted claims for which the prefix cache was asked.
    pub prefix_queries: u64,
    /// Those of the asked tokens that it had.
    pub prefix_hits: u64,
    /// Blocks that stopped caching a prefix because they were handed out.
    pub evictions: u64,
    /// Blocks that were copied because a sequence wrote to a block that others held.
    pub copies: u64,
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

/// Memory for KV as the scheduler sees it. Each verb either succeeds or returns [`Short`] having changed nothing.
pub trait KvMemory {
    /// Positions in one block.
    fn block_size(&self) -> u32;

    /// Blocks there are.
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

    /// Makes the table of a group's first sequence with room for all of `claim.tokens`. [`BlockTable::cached`] tells
    /// how many of them are already computed; it is less than their number.
    ///
    /// # Errors
    /// [`Short`] when the blocks that are not cached cannot be had.
    fn admit(&mut self, claim: &Claim<'_>) -> Result<BlockTable, Short>;

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

    /// Lets others find the full blocks of `table` whose KV has been written: `computed` holds the tokens of
    /// positions `0..computed.len()`. Called after the step that wrote them, never before. Takes time only for blocks
    /// that were not published yet.
    fn publish(&mut self, table: &mut BlockTable, computed: &[Token]);

    /// Takes a table back.
    fn free(&mut self, table: BlockTable);

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
}
