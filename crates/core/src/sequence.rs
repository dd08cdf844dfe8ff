//! One sequence: its tokens, how far their KV has been computed, and the table that says where it lies.
//!
//! **Lengths** are the language of the scheduler: `computed ≤ planned ≤ known`. *Known* tokens are the prompt and what
//! was drawn; of these, `computed` have their KV in the cache, and after the step that is being made `planned` will.
//! Between steps `planned == computed`. A sequence without a table has computed nothing.
//!
//! The moves are few, and each keeps the order of the lengths:
//!
//! | move | who | effect |
//! |---|---|---|
//! | [`seat`](Sequence::seat) | admit, or the fork of a shared prompt | gets a table whose first positions are computed |
//! | [`plan`](Sequence::plan) | budget | `planned` moves ahead of `computed` |
//! | [`grow`](Sequence::grow) | grow | the table reaches `planned` |
//! | [`advance`](Sequence::advance) | commit | `computed` catches up |
//! | [`push`](Sequence::push) | commit | one more known token |
//! | [`vacate`](Sequence::vacate) | commit, preempt, abort | gives the table up, keeps the tokens |

use crate::ids::{SeqId, Token};
use crate::kv::{BlockTable, KvMemory, Short};
use crate::plan::CacheOp;

/// How many there are. No list of the scheduler is longer than the context, which is a `u32`.
pub(crate) fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sequence {
    id: SeqId,
    choice: u32,
    tokens: Vec<Token>,
    computed: u32,
    planned: u32,
    table: Option<BlockTable>,
}

impl Sequence {
    /// The first choice of a request.
    pub(crate) fn new(id: SeqId, prompt: Vec<Token>) -> Self {
        Self { id, choice: 0, tokens: prompt, computed: 0, planned: 0, table: None }
    }

    /// The choice `offset` places further on, with the same tokens and no table. Ids of a group follow its choices.
    pub(crate) fn sibling(&self, offset: u32) -> Self {
        Self {
            id: SeqId(self.id.0 + u64::from(offset)),
            choice: self.choice + offset,
            tokens: self.tokens.clone(),
            computed: 0,
            planned: 0,
            table: None,
        }
    }

    pub(crate) fn id(&self) -> SeqId {
        self.id
    }

    /// Which of the request's `n` choices this is.
    pub(crate) fn choice(&self) -> u32 {
        self.choice
    }

    /// Prompt and output.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    pub(crate) fn known(&self) -> u32 {
        count(&self.tokens)
    }

    pub(crate) fn computed(&self) -> u32 {
        self.computed
    }

    pub(crate) fn planned(&self) -> u32 {
        self.planned
    }

    pub(crate) fn table(&self) -> Option<&BlockTable> {
        self.table.as_ref()
    }

    /// Gets a table whose first `computed` positions have their KV.
    pub(crate) fn seat(&mut self, table: BlockTable, computed: u32) {
        debug_assert!(self.table.is_none(), "sequence {} already has a table", self.id);
        debug_assert!(computed <= self.known() && computed <= table.len());
        self.table = Some(table);
        self.computed = computed;
        self.planned = computed;
    }

    /// Gives the table up; whatever was computed is no longer counted upon.
    #[must_use = "a table must be given back to the memory"]
    pub(crate) fn vacate(&mut self) -> Option<BlockTable> {
        self.computed = 0;
        self.planned = 0;
        self.table.take()
    }

    /// Intends to compute this many tokens more; 0 skips the step.
    pub(crate) fn plan(&mut self, tokens: u32) {
        self.planned = self.computed + tokens;
        debug_assert!(self.planned <= self.known());
    }

    /// Makes the planned positions writable.
    ///
    /// # Errors
    /// [`Short`] when the blocks cannot be had; nothing has changed.
    pub(crate) fn grow<M: KvMemory>(
        &mut self,
        memory: &mut M,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short> {
        match &mut self.table {
            Some(table) if table.len() < self.planned => memory.append(table, self.planned, ops),
            _ => Ok(()),
        }
    }

    /// What was planned has been computed: others may find the blocks that became full.
    pub(crate) fn advance<M: KvMemory>(&mut self, memory: &mut M) {
        self.computed = self.planned;
        if let Some(table) = &mut self.table {
            memory.publish(table, &self.tokens[..self.computed as usize]);
        }
    }

    /// Appends a token that was drawn.
    pub(crate) fn push(&mut self, token: Token) {
        self.tokens.push(token);
    }

    /// # Errors
    /// A sentence on the first invariant that does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (id, computed, planned, known) = (self.id, self.computed, self.planned, self.known());
        if computed > planned || planned > known {
            return Err(format!("sequence {id}: {computed} ≤ {planned} ≤ {known} does not hold"));
        }
        let room = self.table.as_ref().map_or(0, BlockTable::len);
        if planned > room {
            return Err(format!("sequence {id} plans {planned} tokens in a table of {room}"));
        }
        Ok(())
    }
}
