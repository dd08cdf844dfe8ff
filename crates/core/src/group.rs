//! One request: a sequence group, which runs, is preempted and resumes as a whole.
//!
//! A group first computes its *shared tokens* in the table of its first sequence, then every sequence goes on in a table of
//! its own, forked from that one:
//!
//! ```text
//!            start               shared tokens computed
//!  Waiting ─────────► Prompt ──────────────────────────► Decode ──► all sequences have finished
//!     ▲                 │                                  │
//!     └─────────────────┴───────────── preempt ────────────┘
//! ```
//!
//! - A *fresh* group has drawn nothing yet. It has one sequence, whose tokens are the prompt; its siblings are made when
//!   the prompt is complete, from one set of logits.
//! - With several sequences alive, the shared tokens are the prompt, also after a preemption: each then computes its own
//!   tail again. So a group never holds more blocks than [`KvMemory::most_blocks`] says, however often it is preempted.
//! - With one sequence alive, all its tokens are shared with nobody and computed at once: it resumes as a longer prompt.
//!
//! **Invariants.** `sequences` holds the live ones only, in order of their choice. Waiting: no tables. Prompt: the first
//! sequence has one. Decode: each has one.

use std::ops::Range;

use crate::event::FinishReason;
use crate::ids::{GroupId, Salt, SeqId, Tick, Token};
use crate::kv::{BlockTable, Claim, KvMemory};
use crate::params::Params;
use crate::schedule::StopRule;
use crate::sequence::{Sequence, count};

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It holds no memory.
    Waiting,
    /// The first sequence computes the first `shared` tokens, for all.
    Prompt {
        /// Number of shared tokens.
        shared: u32,
    },
    /// Each sequence computes its own tokens.
    Decode,
}

impl Phase {
    /// How many tokens of `seq` can be computed now.
    pub(crate) fn todo(self, seq: &Sequence) -> u32 {
        let goal = match self {
            Self::Prompt { shared } if seq.table().is_some() => shared,
            Self::Decode => seq.known(),
            Self::Prompt { .. } | Self::Waiting => 0,
        };
        goal.saturating_sub(seq.computed())
    }
}

/// What is known of a request when it enters; see [`Group`].
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: GroupId,
    /// The sequences' ids are this and the `n - 1` that follow.
    pub(crate) first_seq: SeqId,
    pub(crate) arrived: Tick,
    pub(crate) params: Params,
    pub(crate) salt: Salt,
    pub(crate) stop_rule: Option<StopRule>,
    pub(crate) pin: bool,
    /// Number of prompt tokens.
    pub(crate) prompt: u32,
    /// The most tokens one sequence ever holds in memory: all but the last that it may generate.
    pub(crate) longest: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) origin: Origin,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) phase: Phase,
    pub(crate) preemptions: u32,
    /// Cached prompt tokens, from the first start until it has been reported.
    pub(crate) announcement: Option<u32>,
    /// Prompt tokens whose scores have been reported; the first prompt token has none.
    pub(crate) scored: u32,
    /// Free blocks below which asking for admission again is vain; see `schedule::admit`.
    pub(crate) awaits: u32,
}

impl Group {
    pub(crate) fn new(origin: Origin, prompt: Vec<Token>) -> Self {
        debug_assert_eq!(origin.prompt, count(&prompt));
        Self {
            sequences: vec![Sequence::new(origin.first_seq, prompt)],
            origin,
            phase: Phase::Waiting,
            preemptions: 0,
            announcement: None,
            scored: 0,
            awaits: 0,
        }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.origin.id
    }

    /// Whether nothing has been drawn yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.sequences.first().is_some_and(|first| first.known() == self.origin.prompt)
    }

    /// Whether no sequence is left: the group has finished or failed.
    pub(crate) fn is_over(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Sequences there are or will be.
    pub(crate) fn width(&self) -> u32 {
        if self.is_fresh() { self.origin.params.width().max(1) } else { count(&self.sequences) }
    }

    /// Known tokens of all sequences; a prompt that is shared counts for each of them.
    pub(crate) fn tokens(&self) -> u64 {
        self.sequences.iter().map(|seq| u64::from(seq.known())).sum()
    }

    /// The place of a live sequence.
    pub(crate) fn find(&self, seq: SeqId) -> Option<usize> {
        self.sequences.binary_search_by_key(&seq, Sequence::id).ok()
    }

    /// The tokens that one table computes for all sequences.
    fn shared_tokens(&self) -> &[Token] {
        match &self.sequences[..] {
            [] => &[],
            [only] => only.tokens(),
            [first, ..] => &first.tokens()[..self.origin.prompt as usize],
        }
    }

    /// What the group asks of the memory to start. Scores of prompt tokens need their logits, which no cache has.
    pub(crate) fn claim(&self) -> Claim<'_> {
        Claim {
            tokens: self.shared_tokens(),
            salt: self.origin.salt,
            use_prefix_cache: !self.wants_scores(),
            sequences: self.width(),
            longest: self.origin.longest,
        }
    }

    /// Blocks for everything the group knows and one more token for each sequence, if they are still to hold more.
    /// Never above what its whole life was found to need when it was submitted.
    pub(crate) fn present_need<M: KvMemory>(&self, memory: &M) -> u32 {
        let shared = count(self.shared_tokens());
        let known = self.sequences.iter().map(Sequence::known).max().unwrap_or(0);
        memory.most_blocks(shared, (known + 1).min(self.origin.longest), self.width())
    }

    /// Leaves the queue with a table for the shared tokens.
    pub(crate) fn start(&mut self, table: BlockTable) {
        debug_assert_eq!(self.phase, Phase::Waiting);
        self.phase = Phase::Prompt { shared: count(self.shared_tokens()) };
        let cached = table.cached();
        if self.preemptions == 0 {
            self.announcement = Some(cached);
        }
        if let Some(first) = self.sequences.first_mut() {
            first.seat(table, cached);
        }
    }

    /// Gives every sequence a table of its own that shares all blocks of `table`, which holds `computed` tokens.
    pub(crate) fn share<M: KvMemory>(&mut self, table: BlockTable, computed: u32, memory: &mut M) {
        let Some((first, others)) = self.sequences.split_first_mut() else {
            return memory.free(table);
        };
        for seq in others {
            seq.seat(memory.fork(&table), computed);
        }
        first.seat(table, computed);
        self.phase = Phase::Decode;
    }

    /// Gives all memory back and keeps the tokens.
    pub(crate) fn release<M: KvMemory>(&mut self, memory: &mut M) {
        for table in self.sequences.iter_mut().filter_map(Sequence::vacate) {
            memory.free(table);
        }
        self.phase = Phase::Waiting;
    }

    /// Gives all memory back and ends the sequences.
    pub(crate) fn discard<M: KvMemory>(&mut self, memory: &mut M) {
        self.release(memory);
        self.sequences.clear();
    }

    /// How many tokens are drawn after the planned tokens of `seq`: none before the end of what is known, one for each
    /// choice after a prompt, else one.
    pub(crate) fn draws_due(&self, seq: &Sequence) -> u32 {
        if seq.planned() < seq.known() {
            0
        } else if self.is_fresh() {
            self.width()
        } else {
            1
        }
    }

    fn wants_scores(&self) -> bool {
        self.origin.params.prompt_logprobs.is_some() && self.scored + 1 < self.origin.prompt
    }

    /// Prompt positions that are scored when the tokens of positions `start..end` are computed. The score at a position
    /// comes from the logits of the one before; each is reported once, whatever is computed again.
    pub(crate) fn targets(&self, start: u32, end: u32) -> Range<u32> {
        let first = start.max(self.scored) + 1;
        let last = (end + 1).min(self.origin.prompt);
        if self.wants_scores() && first < last { first..last } else { 0..0 }
    }

    /// Whether the last token of `seq` ends it, and why: the model's end, the caller's, or the length, which is bounded
    /// by `max_tokens`, the context and the memory together.
    pub(crate) fn verdict(&self, seq: &Sequence) -> Option<FinishReason> {
        let last = *seq.tokens().last()?;
        let params = &self.origin.params;
        if params.eos.contains(&last) {
            Some(FinishReason::Stop(None))
        } else if params.stop_tokens.contains(&last) {
            Some(FinishReason::Stop(Some(last)))
        } else {
            (seq.known() > self.origin.longest).then_some(FinishReason::Length)
        }
    }

    /// # Errors
    /// A sentence on the first invariant that does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let id = self.id();
        if self.is_over() {
            return Err(format!("group {id} is over but still there"));
        }
        let tables = self.sequences.iter().filter(|seq| seq.table().is_some()).count();
        let wanted = match self.phase {
            Phase::Waiting => 0,
            Phase::Prompt { .. } => 1,
            Phase::Decode => self.sequences.len(),
        };
        if tables != wanted {
            return Err(format!(
                "group {id} has {tables} tables and {:?} needs {wanted}",
                self.phase
            ));
        }
        if !self.sequences.is_sorted_by(|a, b| a.id() < b.id() && a.choice() < b.choice()) {
            return Err(format!("the sequences of group {id} are not in order"));
        }
        if self.sequences.iter().any(|seq| seq.known() > self.origin.longest) {
            return Err(format!("a sequence of group {id} has outgrown what it may hold"));
        }
        self.sequences.iter().try_for_each(Sequence::check)
    }
}
