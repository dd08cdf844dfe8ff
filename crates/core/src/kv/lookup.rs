//! What of a claim is already there.

use std::collections::VecDeque;

use super::hash::{BlockHash, Chain};
use super::pool::Label;
use super::{Claim, Manager};
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

impl Manager {
    /// How many of `tokens`, from the first, are in the prefix cache now, in full blocks: a multiple of the block size, and
    /// less than their number.
    #[must_use]
    pub fn match_prefix(&self, tokens: &[Token], salt: Salt) -> u32 {
        let Some(hasher) = self.hasher else { return 0 };
        let ready = |chain: &Chain| self.ready(chain.hash).is_some();
        let most = tokens.len().saturating_sub(1);
        let chains = self.chains(hasher.root(salt), &tokens[..most]);
        chains.take_while(ready).last().map_or(0, |chain| chain.blocks * self.block_size)
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
        let root = self.hasher?.root(claim.salt);
        let mut found = Found { blocks: Vec::new(), chain: root, ahead: VecDeque::new(), root };
        if !claim.use_prefix_cache {
            return Some(found);
        }
        found.ahead = self.chains(root, claim.tokens).map(|chain| chain.hash).collect();
        let most = claim.tokens.len().saturating_sub(1) / self.block_size as usize;
        let known = found.ahead.iter().take(most).map_while(|&hash| self.prefix.get(hash));
        found.blocks = known.collect();
        let ready = |block: &&BlockId| matches!(self.pool.label(**block), Label::Ready(_));
        let ready = found.blocks.iter().take_while(ready).count();
        for (blocks, hash) in (root.blocks + 1..).zip(found.ahead.drain(..ready)) {
            found.chain = Chain { blocks, hash };
        }
        Some(found)
    }

    /// The chains that end with each of the full blocks of `tokens`, which follow `chain`.
    fn chains(&self, mut chain: Chain, tokens: &[Token]) -> impl Iterator<Item = Chain> {
        let hasher = self.hasher;
        tokens.chunks_exact(self.block_size as usize).map_while(move |tokens| {
            chain = hasher?.extend(chain, tokens);
            Some(chain)
        })
    }
}
