//! Blocks: where the KV of every sequence lives.
//!
//! [`Manager`] is the paper's block manager. [`KvMemory`] is what the scheduler asks of it, so that other policies
//! (contiguous reservations, for comparison) can stand in.

use std::fmt;

mod table;

pub use table::BlockTable;

use crate::ids::{Salt, Token};
use crate::plan::CacheOp;

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

/// Memory for KV as the scheduler sees it. Each verb either succeeds or returns [`Short`] having changed nothing.
pub trait KvMemory {
    /// Positions in one block.
    fn block_size(&self) -> u32;

    /// Blocks there are.
    fn capacity(&self) -> u32;

    /// Blocks that could be handed out now, those that still cache a prefix included.
    fn free_blocks(&self) -> u32;

    /// The most blocks that `sequences` sequences of at most `longest` tokens can hold at once when they share a
    /// prompt of `prompt` tokens. What exceeds [`Self::capacity`] can never be served.
    fn most_blocks(&self, prompt: u32, longest: u32, sequences: u32) -> u32;

    /// Makes the table of a group's first sequence with room for all of `claim.tokens`. [`BlockTable::cached`] tells
    /// how many of them are already computed; it is less than their number.
    ///
    /// # Errors
    /// [`Short`] when the blocks that are not cached cannot be had.
    fn admit(&mut self, claim: &Claim<'_>) -> Result<BlockTable, Short>;

    /// Makes positions `table.len()..upto` writable: allocates blocks, and un-shares a last block that others hold
    /// too by pushing a copy to `ops`.
    ///
    /// # Errors
    /// [`Short`] when the blocks cannot be had; neither `table` nor `ops` has changed.
    fn append(
        &mut self,
        table: &mut BlockTable,
        upto: u32,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short>;

    /// A second table over the same blocks.
    fn fork(&mut self, table: &BlockTable) -> BlockTable;

    /// Lets others find the full blocks of `table` whose KV has been written: `computed` holds the tokens of
    /// positions `0..computed.len()`. Called after the step that wrote them, never before.
    fn publish(&mut self, table: &mut BlockTable, computed: &[Token]);

    /// Takes a table back.
    fn free(&mut self, table: BlockTable);

    /// Checks every invariant against all tables that exist.
    ///
    /// # Errors
    /// A sentence on the first invariant that does not hold.
    fn check<'t>(&self, tables: &mut dyn Iterator<Item = &'t BlockTable>) -> Result<(), String>;
}
