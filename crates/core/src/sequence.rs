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
//! | [`leave`](Sequence::leave) | preempt | the table is swapped out; `computed` still counts |
//! | [`come_back`](Sequence::come_back) | admit | it is swapped in again |
//! | [`branch`](Sequence::branch) | a beam step | a copy without a table |

use crate::count;
use crate::ids::{SeqId, Token};
use crate::kv::{BlockTable, Computed, KvMemory, Short, SwappedTable};
use crate::plan::CacheOp;
use crate::rank::Trail;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sequence {
    id: SeqId,
    choice: u32,
    tokens: Vec<Token>,
    computed: u32,
    planned: u32,
    table: Option<BlockTable>,
    swapped: Option<SwappedTable>,
    /// What was drawn, where the group ranks its choices.
    pub(crate) trail: Trail,
    /// Of a beam that has computed all its tokens: its likeliest next ones, until the other beams have theirs, too.
    pub(crate) candidates: Vec<(Token, f32)>,
}

impl Sequence {
    /// The first choice of a request.
    pub(crate) fn new(id: SeqId, prompt: Vec<Token>) -> Self {
        Self {
            id,
            choice: 0,
            tokens: prompt,
            computed: 0,
            planned: 0,
            table: None,
            swapped: None,
            trail: Trail::default(),
            candidates: Vec::new(),
        }
    }

    /// The choice `offset` places further on, with the same tokens and no table. Ids of a group follow its choices.
    pub(crate) fn sibling(&self, offset: u32) -> Self {
        let tokens = self.tokens.clone();
        Self {
            choice: self.choice + offset,
            ..Self::new(SeqId(self.id.0 + u64::from(offset)), tokens)
        }
    }

    /// A copy of what is known of it, without a table.
    pub(crate) fn branch(&self) -> Self {
        // Room for what is to come, so that the next tokens move nothing.
        let mut tokens = Vec::with_capacity(self.tokens.len() + self.tokens.len() / 4 + 16);
        tokens.extend_from_slice(&self.tokens);
        Self { trail: self.trail.clone(), ..Self::new(self.id, tokens) }
    }

    /// Moves to place `choice` of a beam whose first place has the id `first`.
    pub(crate) fn place(&mut self, first: SeqId, choice: u32) {
        self.id = SeqId(first.0 + u64::from(choice));
        self.choice = choice;
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
        self.candidates.clear();
        self.table.take()
    }

    /// Counts what other sequences have computed for this one. Whether more of it is on the way.
    pub(crate) fn await_prefix<M: KvMemory>(&mut self, memory: &mut M) -> bool {
        let Some(table) = &mut self.table else { return false };
        let awaits = memory.await_prefix(table);
        self.computed = self.computed.max(table.cached());
        self.planned = self.computed;
        awaits
    }

    /// Hands the table out to be swapped; what was computed still counts.
    pub(crate) fn leave(&mut self) -> Option<Computed> {
        self.planned = self.computed;
        let computed = self.computed;
        self.table.take().map(|table| Computed { table, computed })
    }

    /// Keeps what became of the table that left.
    pub(crate) fn keep_swapped(&mut self, table: SwappedTable) {
        self.swapped = Some(table);
    }

    pub(crate) fn take_swapped(&mut self) -> Option<SwappedTable> {
        self.swapped.take()
    }

    pub(crate) fn swapped_table(&self) -> Option<&SwappedTable> {
        self.swapped.as_ref()
    }

    /// Gets its table back.
    pub(crate) fn come_back(&mut self, table: BlockTable) {
        debug_assert!(self.table.is_none() && self.computed <= table.len());
        self.table = Some(table);
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
        let room = self.table.as_ref().map(BlockTable::len);
        let kept = self.swapped.as_ref().map(SwappedTable::len);
        if room.is_some() && kept.is_some() {
            return Err(format!("sequence {id} is swapped out and has a table"));
        }
        let room = room.or(kept).unwrap_or(0);
        if planned > room {
            return Err(format!("sequence {id} plans {planned} tokens in a table of {room}"));
        }
        Ok(())
    }
}
