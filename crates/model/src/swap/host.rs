//! Slots in host memory, each taken when it is first used.

use rustc_hash::FxHashMap;

use super::SwapFault;

pub(super) struct HostStore {
    block_bytes: usize,
    blocks: FxHashMap<usize, Vec<u8>>,
}

impl HostStore {
    pub(super) fn new(block_bytes: usize) -> Self {
        Self { block_bytes, blocks: FxHashMap::default() }
    }

    pub(super) fn put(
        &mut self,
        slot: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), SwapFault> {
        let block = self.blocks.entry(slot).or_default();
        if block.is_empty() {
            block.try_reserve_exact(self.block_bytes).map_err(|_| SwapFault::Memory)?;
            block.resize(self.block_bytes, 0);
        }
        fill(block);
        Ok(())
    }

    pub(super) fn get(&self, slot: usize) -> Result<&[u8], SwapFault> {
        self.blocks.get(&slot).map(Vec::as_slice).ok_or(SwapFault::Empty)
    }
}
