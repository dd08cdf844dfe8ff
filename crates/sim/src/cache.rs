//! A paged cache whose contents can be told apart: one token and one mark per slot.
//!
//! The mark of a position is a hash of every token up to it, as real KV is a function of the whole context. So a
//! wrong block table, a missed copy or a block published too early changes what is read, and therefore the output.
//! A slot that nobody wrote is an error, not a value.

use std::collections::HashMap;

use folio_core::exec::ExecError;
use folio_core::ids::{BlockId, SwapSlot, Token};
use folio_core::plan::CacheOp;

use crate::rule::Context;

/// What one position of one block holds.
#[derive(Clone, Copy, Debug)]
struct Slot {
    token: Token,
    mark: u64,
}

/// Every slot of every block.
#[derive(Debug)]
pub(crate) struct Cache {
    block_size: usize,
    slots: Vec<Option<Slot>>,
    swapped: HashMap<SwapSlot, Vec<Option<Slot>>>,
}

impl Cache {
    pub(crate) fn new(blocks: u32, block_size: u32) -> Self {
        let block_size = block_size.max(1) as usize;
        Self {
            block_size,
            slots: vec![None; blocks as usize * block_size],
            swapped: HashMap::new(),
        }
    }

    /// Does one cache operation.
    pub(crate) fn apply(&mut self, op: &CacheOp) -> Result<(), ExecError> {
        match *op {
            CacheOp::Copy { source, destination } => {
                let from = source.index() * self.block_size;
                let to = destination.index() * self.block_size;
                if from.max(to) + self.block_size > self.slots.len() {
                    return Err(ExecError(format!(
                        "a copy from block {source} to block {destination} leaves the cache"
                    )));
                }
                self.slots.copy_within(from..from + self.block_size, to);
            }
            CacheOp::SwapOut { source, slot } => {
                let contents = self.block(source)?.to_vec();
                self.swapped.insert(slot, contents);
            }
            CacheOp::SwapIn { slot, destination } => {
                let contents = self.swapped.get(&slot).cloned();
                let contents = contents.ok_or_else(|| {
                    ExecError(format!("swap slot {slot} is read but was never written"))
                })?;
                self.block(destination)?.copy_from_slice(&contents);
            }
        }
        Ok(())
    }

    fn block(&mut self, block: BlockId) -> Result<&mut [Option<Slot>], ExecError> {
        let first = block.index() * self.block_size;
        self.slots
            .get_mut(first..first + self.block_size)
            .ok_or_else(|| ExecError(format!("block {block} does not exist")))
    }

    /// Puts `token` after `context` at `position`, and extends the context by it.
    pub(crate) fn write(
        &mut self,
        table: &[BlockId],
        position: u32,
        token: Token,
        context: &mut Context,
    ) -> Result<(), ExecError> {
        let index = self.slot(table, position)?;
        let mark = context.mark(token);
        context.push(mark);
        self.slots[index] = Some(Slot { token, mark });
        Ok(())
    }

    /// Reads positions `0..upto` through the block table; their tokens are appended to `tokens`.
    pub(crate) fn read(
        &self,
        table: &[BlockId],
        upto: u32,
        tokens: &mut Vec<Token>,
    ) -> Result<Context, ExecError> {
        let mut context = Context::new();
        for position in 0..upto {
            let block = self.slots[self.slot(table, position)?];
            let slot = block.ok_or_else(|| {
                ExecError(format!("position {position} is read but was never written"))
            })?;
            context.push(slot.mark);
            tokens.push(slot.token);
        }
        Ok(context)
    }

    fn slot(&self, table: &[BlockId], position: u32) -> Result<usize, ExecError> {
        let position = position as usize;
        let block = table.get(position / self.block_size).ok_or_else(|| {
            ExecError(format!(
                "position {position} lies beyond a block table of {} blocks",
                table.len()
            ))
        })?;
        let index = block.index() * self.block_size + position % self.block_size;
        if index >= self.slots.len() {
            return Err(ExecError(format!("block {block} does not exist")));
        }
        Ok(index)
    }
}
