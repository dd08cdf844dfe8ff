//! What of a claim is already there.

use std::collections::VecDeque;

use super::hash::{BlockHash, Chain};
use super::pool::Label;
use super::{BlockTable, Claim, Manager};
use crate::ids::{BlockId, Salt, Token};

/// The blocks at the start of a claim that somebody has, or is going to compute.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) blocks: Vec<BlockId>,
    /// How many of the blocks, from the first, are ready, and their hash.
    pub(super) chain: Chain,
    /// The hashes of all full blocks of the claim that come after.
    pub(super) ahead: VecDeque<BlockHash>,
    /// Where the chain begins.
    pub(super) root: Chain,
}

/// A cached block that begins as a claim goes on after its full blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) source: BlockId,
    /// For how many positions.
    pub(super) alike: u32,
}

impl Manager {
    /// How many of `tokens`, from the first, are in the prefix cache now, in full blocks: a multiple of the block size, and
    /// less than their number.
    #[must_use]
    pub fn match_prefix(&self, tokens: &[Token], salt: Salt) -> u32 {
        let most = &tokens[..tokens.len().saturating_sub(1)];
        let Some((_, root)) = self.root(most, salt) else { return 0 };
        let own = most.get((root.blocks * self.block_size) as usize..).unwrap_or_default();
        let ready = self.chains(root, own).take_while(|chain| self.ready(chain.hash).is_some());
        ready.last().unwrap_or(root).blocks * self.block_size
    }

    /// The block that holds these contents, if it has been computed.
    pub(super) fn ready(&self, hash: BlockHash) -> Option<BlockId> {
        let block = self.prefix.get(hash)?;
        matches!(self.pool.label(block), Label::Ready(_)).then_some(block)
    }

    /// Looks up a claim; `None` when there is no prefix cache. Where the cache must not be used, nothing is found, but the
    /// chain starts all the same, to publish.
    ///
    /// At least one token is left over, for without computing one there are no logits.
    pub(super) fn lookup(&self, claim: &Claim<'_>) -> Option<Found> {
        let hasher = self.hasher?;
        let (blocks, ahead) = (Vec::new(), VecDeque::new());
        if !claim.use_prefix_cache {
            let root = hasher.root(claim.salt);
            return Some(Found { blocks, chain: root, ahead, root });
        }
        let most = &claim.tokens[..claim.tokens.len().saturating_sub(1)];
        let (mut blocks, root) = self.root(most, claim.salt)?;
        let at = blocks.len() * self.block_size as usize;
        let ahead = self.chains(root, &claim.tokens[at..]).map(|chain| chain.hash);
        let mut found = Found { blocks: Vec::new(), chain: root, ahead: ahead.collect(), root };
        let most = (most.len() - at) / self.block_size as usize;
        let known = found.ahead.iter().take(most).map_while(|&hash| self.prefix.get(hash));
        blocks.extend(known);
        let is_ready = |block: &&BlockId| matches!(self.pool.label(**block), Label::Ready(_));
        let ready = blocks.iter().skip(root.blocks as usize).take_while(is_ready).count();
        found.blocks = blocks;
        for (blocks, hash) in (root.blocks + 1..).zip(found.ahead.drain(..ready)) {
            found.chain = Chain { blocks, hash };
        }
        Some(found)
    }

    /// The chains that end with each of the full blocks of `tokens`, which follow `chain`.
    pub(super) fn chains(&self, mut chain: Chain, tokens: &[Token]) -> impl Iterator<Item = Chain> {
        let hasher = self.hasher;
        tokens.chunks_exact(self.block_size as usize).map_while(move |tokens| {
            chain = hasher?.extend(chain, tokens);
            Some(chain)
        })
    }

    /// What [`KvMemory::extend_cached`](super::KvMemory::extend_cached) does. A half-filled last block gives way to the cached
    /// full one that begins as it does.
    pub(super) fn go_on_cached(&mut self, table: &mut BlockTable, tokens: &[Token]) {
        let Some(chain) = table.chain else { return };
        let published = (chain.blocks * self.block_size) as usize;
        let most = &tokens[..tokens.len().saturating_sub(1)];
        if chain.blocks != table.len / self.block_size {
            return;
        }
        let own = most.get(published..).unwrap_or_default();
        let found: Vec<(Chain, BlockId)> = self
            .chains(chain, own)
            .map_while(|chain| Some((chain, self.ready(chain.hash)?)))
            .collect();
        if !found.is_empty() && !table.len.is_multiple_of(self.block_size) {
            table.blocks.pop().into_iter().for_each(|tail| self.pool.release(tail));
        }
        for (chain, block) in found {
            self.pool.hold(block);
            table.blocks.push(block);
            table.chain = Some(chain);
            table.len = chain.blocks * self.block_size;
            table.noted = table.len;
        }
    }

    /// Saving fewer positions is not worth a copy.
    fn worthwhile(&self, positions: usize) -> bool {
        positions >= (self.block_size as usize / 4).max(1)
    }

    /// The block to copy the claim's next positions from, if nobody has the full block or is going to compute it.
    pub(super) fn start(&self, claim: &Claim<'_>, found: &Found) -> Option<Start> {
        if !claim.use_prefix_cache || found.blocks.len() > found.chain.blocks as usize {
            return None;
        }
        // One token is left to compute here, too.
        let most = claim.tokens.len().saturating_sub(1);
        let next = claim.tokens[..most].get(found.blocks.len() * self.block_size as usize..)?;
        let (source, alike) = self.most_alike(found.chain.hash, next)?;
        let positions = u32::try_from(alike).ok()?;
        self.worthwhile(alike).then_some(Start { source, alike: positions })
    }

    fn most_alike(&self, parent: BlockHash, tokens: &[Token]) -> Option<(BlockId, usize)> {
        let filled = |block| match self.pool.label(block) {
            Label::Ready(_) => self.block_size as usize,
            Label::Partial(filled) => filled.into(),
            Label::Blank | Label::Promised(_) => 0,
        };
        self.kin.most_alike(parent, tokens, filled)
    }

    /// Remembers the tokens that the table has computed since it was last told.
    pub(super) fn note(&mut self, table: &mut BlockTable, computed: &[Token]) {
        let block_size = self.block_size as usize;
        while let Some(tokens) = computed.get(table.noted as usize..).filter(|t| !t.is_empty()) {
            let (index, at) =
                (table.noted as usize / block_size, table.noted as usize % block_size);
            let tokens = &tokens[..tokens.len().min(block_size - at)];
            self.kin.note(table.blocks[index], at, tokens);
            table.noted += u32::try_from(tokens.len()).unwrap_or(self.block_size);
        }
    }

    /// Lets others find the half-filled last block of a table that is given back, unless they can find the like of it.
    pub(super) fn offer_tail(&mut self, table: &BlockTable) {
        let Some(chain) = table.chain else { return };
        let filled = table.noted.saturating_sub(chain.blocks * self.block_size) as usize;
        let Some(&block) = table.blocks.get(chain.blocks as usize) else { return };
        let own = self.pool.refs(block) == 1 && self.pool.label(block) == Label::Blank;
        let Some(filled) = u8::try_from(filled).ok().filter(|_| self.worthwhile(filled)) else {
            return;
        };
        if !own || u32::from(filled) >= self.block_size {
            return;
        }
        let tokens = &self.kin.tokens(block)[..filled.into()];
        if self.most_alike(chain.hash, tokens).is_none_or(|(_, alike)| alike < filled.into()) {
            self.pool.set(block, Label::Partial(filled));
            self.kin.adopt(chain.hash, block);
        }
    }
}
