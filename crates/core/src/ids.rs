//! Names for things, so that a block is never taken for a token.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A token of the model's vocabulary.
    Token, u32
);
id!(
    /// A physical KV block: an index into the pool, `0..capacity`.
    BlockId, u32
);
id!(
    /// A place for one block in the swap space: an index, `0..` its number of slots.
    SwapSlot, u32
);
id!(
    /// A sequence group, that is, one request. Never reused.
    GroupId, u64
);
id!(
    /// One sequence of a group, or one place in its beam. Never reused.
    SeqId, u64
);
id!(
    /// Time in microseconds since an origin of the caller's choice.
    Tick, u64
);

impl BlockId {
    /// The block's place in a flat array.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl SwapSlot {
    /// The slot's place in a flat array.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Token {
    /// The token's place in a flat array.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Separates prefix caches: equal prompts with different salts share nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Salt(pub u64);
