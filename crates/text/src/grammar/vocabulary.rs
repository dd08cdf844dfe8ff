//! A tokenizer as the grammar library sees it: the bytes of every token, in a trie.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::GrammarError;
use crate::tokenizer::Tokenizer;

/// The library's tries hold no longer tokens. Longer ones are never allowed.
const LONGEST_TOKEN: usize = 1000;

/// The trie of a tokenizer's tokens.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// Nothing is ever forced: how a text is cut into tokens stays the model's choice.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// The vocabulary of `tokenizer`, in which the tokens `ends` end a sequence.
pub(super) fn vocabulary(tokenizer: &Tokenizer, ends: &[u32]) -> Result<TokEnv, GrammarError> {
    if !tokenizer.table().has_fixed_texts() {
        return Err(GrammarError::Unsupported {
            reason: "the tokens of this model's tokenizer have no fixed texts",
        });
    }
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size()).map(|id| word(tokenizer, id)).collect();
    let known = |id: &&u32| **id < tokenizer.vocab_size();
    let ends: Vec<u32> = ends.iter().filter(known).copied().collect();
    let Some(&end) = ends.first() else {
        return Err(GrammarError::Unsupported {
            reason: "this model has no end-of-sequence token",
        });
    };
    let trie = TokTrie::from(&TokRxInfo::new(tokenizer.vocab_size(), end), &words);
    Ok(Arc::new(Vocabulary(trie.with_eos_tokens(&ends))))
}

/// What a token contributes to a text; control tokens are marked, so that no text is ever taken for one.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).filter(|bytes| bytes.len() <= LONGEST_TOKEN);
    let bytes = bytes.unwrap_or_default();
    if tokenizer.is_special(id) && !bytes.is_empty() {
        let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        marked.extend_from_slice(bytes);
        return marked;
    }
    bytes.to_vec()
}
