//! How the cache is used at one moment, in the terms of the paper's Fig. 2.

use std::ops::AddAssign;

use folio_core::inspect::KvReport;
use serde::Serialize;

/// Positions by what they are used for; the four add up to `positions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Positions there are.
    pub positions: u64,
    /// They hold KV: the paper's *token states*, its effective memory.
    pub tokens: u64,
    /// Set aside for tokens that the same sequence will write.
    pub reserved: u64,
    /// Set aside for tokens that will never come; under paging, what is empty in last blocks.
    pub internal: u64,
    /// Free, or lost to rounding between reservations.
    pub external: u64,
}

impl Usage {
    /// Of paged memory. What is empty in a last block counts as wasted, though most of it will be filled.
    pub(super) fn paged(report: &KvReport) -> Self {
        let size = u64::from(report.block_size);
        let used = u64::from(report.stats.used) * size;
        Self {
            positions: u64::from(report.stats.total) * size,
            tokens: used.saturating_sub(report.empty_positions),
            reserved: 0,
            internal: report.empty_positions.min(used),
            external: u64::from(report.stats.free) * size,
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.positions += other.positions;
        self.tokens += other.tokens;
        self.reserved += other.reserved;
        self.internal += other.internal;
        self.external += other.external;
    }
}
