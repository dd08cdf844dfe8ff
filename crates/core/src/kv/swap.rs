//! Blocks outside the device: the table of a sequence that has been swapped out.
//!
//! It is another type than [`super::BlockTable`], so a swapped sequence cannot be planned by mistake, and it is linear for the
//! same reason.

use crate::ids::SwapSlot;

/// Maps positions of a swapped sequence to slots.
#[derive(Debug)]
pub struct SwappedTable {
    pub(super) slots: Vec<SwapSlot>,
    /// Positions whose KV the slots hold.
    pub(super) len: u32,
}

impl SwappedTable {
    /// The slots, in order of position.
    #[must_use]
    pub fn slots(&self) -> &[SwapSlot] {
        &self.slots
    }

    /// Number of positions that were computed when the sequence left.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing had been computed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for SwappedTable {
    fn drop(&mut self) {
        debug_assert!(
            self.slots.is_empty() || std::thread::panicking(),
            "a swapped table was dropped with {} slots; give it back with KvMemory::forget_swapped",
            self.slots.len()
        );
    }
}
