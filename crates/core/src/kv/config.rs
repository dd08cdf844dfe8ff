//! The sizes a block manager is made with.

use std::fmt;

#[cfg(doc)]
use super::Manager;
use super::{MAX_BLOCK_SIZE, MAX_CAPACITY};

/// What a [`Manager`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Positions in one block, `1..=`[`MAX_BLOCK_SIZE`].
    pub block_size: u32,
    /// Blocks, `1..=`[`MAX_CAPACITY`].
    pub capacity: u32,
    /// Whether blocks can be found again by what they contain.
    pub prefix_caching: bool,
    /// Keys the hashes of the prefix cache. Drawn at random once per process where requests come from strangers; it
    /// decides nothing but the hashes.
    pub secret: u64,
}

/// A [`Config`] that no manager can be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadConfig {
    /// The block size is 0 or above [`MAX_BLOCK_SIZE`].
    BlockSize(u32),
    /// The capacity is 0 or above [`MAX_CAPACITY`].
    Capacity(u32),
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize(size) => {
                write!(
                    f,
                    "a block of {size} positions is not possible; choose 1 to {MAX_BLOCK_SIZE}"
                )
            }
            Self::Capacity(0) => f.write_str("there is no memory for even one KV block"),
            Self::Capacity(blocks) => write!(
                f,
                "{blocks} KV blocks are too many to keep track of; use at most {MAX_CAPACITY}, or larger blocks"
            ),
        }
    }
}

impl std::error::Error for BadConfig {}
