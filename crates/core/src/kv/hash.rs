//! What makes two blocks interchangeable: the same tokens after the same tokens, in the same cache.
//!
//! The KV of a position depends on every token before it, so a block's identity is a *chain*: the hash of its own tokens
//! and of the block before. The chain starts from the salt, and so everything in it depends on the salt, too.
//!
//! **Invariants.** A hash match is taken for equality, without comparing tokens: 128 bits make an accident impossible in
//! practice, and the secret keeps collisions from being prepared in advance. The hash is not a cryptographic one, so hashes
//! and the secret must stay inside the process.

use std::num::NonZeroU128;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::MAX_BLOCK_SIZE;
use crate::ids::{Salt, Token};

/// Identity of a full block and of everything before it, or of the empty chain of a salt. Never zero, so that
/// `Option<BlockHash>` costs nothing in the pool's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockHash(NonZeroU128);

/// How far the blocks at the start of a table have been hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Full blocks hashed so far.
    pub(super) blocks: u32,
    /// Hash of the last of them; the salt's root when there are none.
    pub(super) hash: BlockHash,
}

/// Makes hashes with one secret.
#[derive(Clone, Copy)]
pub(super) struct BlockHasher {
    secret: u64,
}

/// The secret does not appear in logs.
impl std::fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockHasher").finish_non_exhaustive()
    }
}

const PARENT_BYTES: usize = size_of::<u128>();
const TOKEN_BYTES: usize = size_of::<u32>();

impl BlockHasher {
    pub(super) fn new(secret: u64) -> Self {
        Self { secret }
    }

    /// The chain of no blocks. Its message is 8 bytes and a block's is at least 20, so no block can pass for a root.
    pub(super) fn root(&self, salt: Salt) -> Chain {
        Chain { blocks: 0, hash: self.hash(&salt.0.to_le_bytes()) }
    }

    /// The chain with one more full block of at most [`MAX_BLOCK_SIZE`] tokens.
    pub(super) fn extend(&self, chain: Chain, tokens: &[Token]) -> Chain {
        let mut message = [0; PARENT_BYTES + MAX_BLOCK_SIZE as usize * TOKEN_BYTES];
        let (parent, body) = message.split_at_mut(PARENT_BYTES);
        parent.copy_from_slice(&chain.hash.0.get().to_le_bytes());
        for (bytes, token) in body.chunks_exact_mut(TOKEN_BYTES).zip(tokens) {
            bytes.copy_from_slice(&token.0.to_le_bytes());
        }
        let message = &message[..PARENT_BYTES + tokens.len() * TOKEN_BYTES];
        Chain { blocks: chain.blocks + 1, hash: self.hash(message) }
    }

    /// The chain from which a salt's own blocks follow the blocks of `chain`, which all salts share. Its message is 25 bytes
    /// and a block's is a multiple of 4, so no block can pass for it.
    pub(super) fn branch(&self, chain: Chain, salt: Salt) -> Chain {
        let mut message = [0; PARENT_BYTES + size_of::<u64>() + 1];
        let (parent, rest) = message.split_at_mut(PARENT_BYTES);
        parent.copy_from_slice(&chain.hash.0.get().to_le_bytes());
        rest[..size_of::<u64>()].copy_from_slice(&salt.0.to_le_bytes());
        Chain { blocks: chain.blocks, hash: self.hash(&message) }
    }

    fn hash(&self, message: &[u8]) -> BlockHash {
        let hash = xxh3_128_with_seed(message, self.secret);
        BlockHash(NonZeroU128::new(hash).unwrap_or(NonZeroU128::MIN))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tokens(ids: &[u32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn a_block_is_identified_by_its_tokens_its_past_the_salt_and_the_secret() {
        let mut hashes = HashSet::new();
        let mut count = 0;
        for (secret, salt) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let hasher = BlockHasher::new(secret);
            let root = hasher.root(Salt(salt));
            hashes.insert(root.hash);
            hashes.insert(hasher.branch(root, Salt(0)).hash);
            hashes.insert(hasher.branch(root, Salt(1)).hash);
            count += 3;
            for first in [[1, 2], [2, 1], [0, 0]] {
                let chain = hasher.extend(root, &tokens(&first));
                hashes.insert(chain.hash);
                count += 1;
                for second in [[1, 2], [2, 1], [0, 0]] {
                    hashes.insert(hasher.extend(chain, &tokens(&second)).hash);
                    count += 1;
                }
            }
        }
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn equal_pasts_make_equal_chains() {
        let hasher = BlockHasher::new(7);
        let walk = || {
            let one = hasher.extend(hasher.root(Salt(3)), &tokens(&[5, 6, 7]));
            hasher.extend(one, &tokens(&[8, 9, 10]))
        };
        assert_eq!(walk(), walk());
        assert_eq!(walk().blocks, 2);
    }

    #[test]
    fn the_largest_block_is_hashed_to_its_last_token() {
        let hasher = BlockHasher::new(7);
        let root = hasher.root(Salt(0));
        let mut block = vec![Token(u32::MAX); MAX_BLOCK_SIZE as usize];
        let before = hasher.extend(root, &block);
        block[MAX_BLOCK_SIZE as usize - 1] = Token(0);
        assert_ne!(before.hash, hasher.extend(root, &block).hash);
    }

    #[test]
    fn metadata_stays_small() {
        assert_eq!(size_of::<Option<BlockHash>>(), 16);
    }
}
