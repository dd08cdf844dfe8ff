//! Who holds which part of the memory: a snapshot for people, taken when somebody asks.
//!
//! All numbers are blocks unless they say otherwise. *Saved* blocks are those that sharing makes unnecessary: what the
//! tables hold, every table counted for itself, less the blocks there really are.

use crate::ids::GroupId;
use crate::kv::KvStats;

/// Blocks saved by sharing, by what they are shared for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Among the samples of one request.
    pub samples: u64,
    /// Among the beams of one request.
    pub beams: u64,
    /// Among requests with a common prefix.
    pub prefixes: u64,
}

/// What a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It holds no memory: it has not started, or was preempted and will be computed again.
    Waiting,
    /// It waits for blocks of its prompt that another group computes.
    AwaitingPrefix,
    /// It computes its prompt.
    Prompt,
    /// It generates.
    Decode,
    /// Its blocks are in the swap space.
    Swapped,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Which.
    pub group: GroupId,
    /// What it does.
    pub activity: Activity,
    /// Whether it is a beam search.
    pub beams: bool,
    /// Sequences that are alive.
    pub sequences: u32,
    /// Known tokens of all of them, a shared prompt counted for each.
    pub tokens: u64,
    /// Blocks in its tables, each counted once. Slots of the swap space when it is swapped.
    pub blocks: u32,
    /// Blocks in its tables, each counted for every table that holds it.
    pub held: u32,
    /// Positions of its blocks that hold nothing (yet): the waste of the last blocks.
    pub empty_positions: u32,
    /// How often it was preempted.
    pub preemptions: u32,
    /// How many of the preemptions swapped its blocks out.
    pub swaps: u32,
}

/// The memory and everybody in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvReport {
    /// Positions in one block.
    pub block_size: u32,
    /// The totals.
    pub stats: KvStats,
    /// How many blocks are held by how many tables: `(tables, blocks)`, ascending, from 1.
    pub by_tables: Vec<(u32, u32)>,
    /// Positions in used blocks that hold nothing (yet).
    pub empty_positions: u64,
    /// What sharing saves now.
    pub saved: Saved,
    /// All groups, oldest first; those that only wait are left out beyond the first hundred.
    pub groups: Vec<GroupReport>,
    /// Groups that were left out.
    pub left_out: u32,
}
