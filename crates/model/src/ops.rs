//! Cache operations: what happens to blocks before the forward pass, strictly in the order of the plan.

use std::time::Instant;

use folio_core::exec::StepOutput;
use folio_core::ids::{BlockId, SwapSlot};
use folio_core::plan::CacheOp;

use crate::backend::Backend;
use crate::swap::SwapStore;

/// Runs `ops`; the executor's check has seen that blocks and slots exist.
pub(crate) fn run<B: Backend>(
    backend: &B,
    cache: &mut B::Cache,
    swap: Option<&mut SwapStore>,
    ops: &[CacheOp],
    out: &mut StepOutput,
) {
    let mut mover = Mover { backend, cache, swap, out, slots: Vec::new(), targets: Vec::new() };
    for op in ops {
        // Neighbouring blocks on their way in are read together. Nothing is written to a slot between them.
        if !matches!(op, CacheOp::SwapIn { .. }) {
            mover.bring_in();
        }
        match *op {
            CacheOp::Copy { source, destination } => {
                backend.copy_block(source.0, destination.0, mover.cache);
            }
            CacheOp::SwapOut { source, slot } => mover.send_out(source, slot),
            CacheOp::SwapIn { slot, destination } => {
                mover.slots.push(slot);
                mover.targets.push(destination);
            }
        }
    }
    mover.bring_in();
}

struct Mover<'a, B: Backend> {
    backend: &'a B,
    cache: &'a mut B::Cache,
    swap: Option<&'a mut SwapStore>,
    out: &'a mut StepOutput,
    slots: Vec<SwapSlot>,
    targets: Vec<BlockId>,
}

impl<B: Backend> Mover<'_, B> {
    fn send_out(&mut self, source: BlockId, slot: SwapSlot) {
        let Some(swap) = self.swap.as_deref_mut() else { return };
        let began = Instant::now();
        swap.put(slot.index(), |bytes| self.backend.read_block(source.0, self.cache, bytes));
        self.account(1, began);
    }

    /// Brings in what has been gathered.
    fn bring_in(&mut self) {
        let Some(swap) = self.swap.as_deref_mut().filter(|_| !self.slots.is_empty()) else {
            return;
        };
        let began = Instant::now();
        let places: Vec<usize> = self.slots.iter().map(|slot| slot.index()).collect();
        swap.take(&places, |number, found| match found {
            Ok(bytes) => self.backend.write_block(self.targets[number].0, bytes, self.cache),
            Err(_) => self.out.lost.push(self.slots[number]),
        });
        self.account(self.slots.len(), began);
        self.slots.clear();
        self.targets.clear();
    }

    fn account(&mut self, blocks: usize, began: Instant) {
        let swapping = &mut self.out.swapping;
        swapping.blocks = swapping.blocks.saturating_add(u32::try_from(blocks).unwrap_or(u32::MAX));
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        swapping.micros = swapping.micros.saturating_add(micros);
    }
}
