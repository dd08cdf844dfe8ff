//! One request: a sequence group, which runs, is preempted and resumes as a whole.
//!
//! A group first computes its *shared tokens* in the table of its first sequence, then every sequence goes on in a table of
//! its own, forked from that one:
//!
//! ```text
//!            start               shared tokens computed
//!  Waiting ─────────► Prompt ──────────────────────────► Decode ──► all sequences have finished
//!     ▲                 │  ▲                            │  ▲
//!     └─────────────────┴──┼───────── preempt ──────────┤  │
//!                          └────────── Swapped ◄────────┴──┘
//! ```
//!
//! - A *fresh* group has drawn nothing yet. It has one sequence, whose tokens are the prompt; its siblings are made when
//!   the prompt is complete, from one set of logits.
//! - With several sequences alive, the shared tokens of a group that is computed again are those with which all of them
//!   begin, the prompt at least; each then computes what of its own tail is not cached. So a group never holds more blocks than
//!   [`KvMemory::most_blocks`] says, however often it is preempted.
//! - With one sequence alive, all its tokens are shared with nobody and computed at once: it resumes as a longer prompt.
//!
//! - The sequences of a beam search are the *places* of its beam: after each step they are made anew, each a branch of one
//!   before. All have the same number of tokens; a step waits until each has its candidates.
//! - Groups that rank their choices tell nothing until the last sequence has ended.
//!
//! **Invariants.** `sequences` holds the live ones only, in order of their choice. Waiting: no tables. Prompt: the first
//! sequence has one. Decode: each has one. Swapped: each has a swapped table that had one.

use std::mem;
use std::ops::Range;

use crate::beam::Search;
use crate::count;
use crate::event::FinishReason;
use crate::ids::{BlockId, GroupId, Salt, SeqId, Tick, Token};
use crate::kv::{BlockTable, Claim, KvMemory, SwappedTable};
use crate::params::{Decoding, Params};
use crate::plan::CacheOp;
use crate::rank::Hypothesis;
use crate::schedule::StopRule;
use crate::sequence::Sequence;

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It holds no memory.
    Waiting,
    /// The first sequence computes the first `shared` tokens, for all.
    Prompt {
        /// Number of shared tokens.
        shared: u32,
        /// Another group is computing what comes next.
        awaits: bool,
    },
    /// Each sequence computes its own tokens.
    Decode,
    /// Its blocks are in the swap space.
    Swapped {
        /// The shared tokens, if it was computing them.
        shared: Option<u32>,
    },
}

impl Phase {
    /// How many tokens of `seq` can be computed now.
    pub(crate) fn todo(self, seq: &Sequence) -> u32 {
        let goal = match self {
            Self::Prompt { shared, awaits: false } if seq.table().is_some() => shared,
            // A beam that has its candidates waits for the others.
            Self::Decode => seq.known(),
            Self::Prompt { .. } | Self::Waiting | Self::Swapped { .. } => 0,
        };
        goal.saturating_sub(seq.computed())
    }
}

/// What is known of a request when it enters; see [`Group`].
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: GroupId,
    /// The sequences' ids are this and those that follow, as many as the width of the request.
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

/// What becomes of choices that have ended.
#[derive(Debug)]
pub(crate) enum Ranking {
    /// They were told token by token.
    Told,
    /// They wait for the others, each with the number of its sample.
    Samples(Vec<(u32, Hypothesis)>),
    /// A beam search keeps the best.
    Beams(Search),
}

impl Ranking {
    fn new(params: &Params, most_tokens: u32) -> Self {
        match params.decoding {
            Decoding::Beam(beams) => Self::Beams(Search::new(beams, most_tokens)),
            Decoding::Sample { .. } if params.is_ranked() => Self::Samples(Vec::new()),
            Decoding::Sample { .. } => Self::Told,
        }
    }

    /// The `n` best, best first; empty where they were told.
    pub(crate) fn take(&mut self, n: u32) -> Vec<Hypothesis> {
        let mut best = match self {
            Self::Told => Vec::new(),
            Self::Samples(samples) => {
                samples.sort_by(|(a, one), (b, other)| one.order(other).then(a.cmp(b)));
                mem::take(samples).into_iter().map(|(_, hypothesis)| hypothesis).collect()
            }
            Self::Beams(search) => mem::take(&mut search.hypotheses),
        };
        best.truncate(n as usize);
        best
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) origin: Origin,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) ranking: Ranking,
    pub(crate) phase: Phase,
    pub(crate) preemptions: u32,
    /// Those of the preemptions that swapped.
    pub(crate) swaps: u32,
    /// Whether the first step that computed something for it has been told.
    pub(crate) announced: bool,
    /// Prompt tokens whose scores have been reported; the first prompt token has none.
    pub(crate) scored: u32,
}

impl Group {
    pub(crate) fn new(origin: Origin, prompt: Vec<Token>) -> Self {
        debug_assert_eq!(origin.prompt, count(&prompt));
        Self {
            sequences: vec![Sequence::new(origin.first_seq, prompt)],
            ranking: Ranking::new(&origin.params, origin.longest + 1 - origin.prompt),
            origin,
            phase: Phase::Waiting,
            preemptions: 0,
            swaps: 0,
            announced: false,
            scored: 0,
        }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.origin.id
    }

    /// Whether its blocks are in the swap space.
    pub(crate) fn is_swapped(&self) -> bool {
        matches!(self.phase, Phase::Swapped { .. })
    }

    /// Whether it is a beam search.
    pub(crate) fn is_beam(&self) -> bool {
        matches!(self.ranking, Ranking::Beams(_))
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
        // A beam that has lost places may fill them again.
        if self.is_fresh() || self.is_beam() {
            self.origin.params.width().max(1)
        } else {
            count(&self.sequences)
        }
    }

    /// Known tokens of all sequences; a prompt that is shared counts for each of them.
    pub(crate) fn tokens(&self) -> u64 {
        self.sequences.iter().map(|seq| u64::from(seq.known())).sum()
    }

    /// The place of a live sequence.
    pub(crate) fn find(&self, seq: SeqId) -> Option<usize> {
        self.sequences.binary_search_by_key(&seq, Sequence::id).ok()
    }

    /// The tokens that one table computes for all sequences: those they all begin with, but leaving each at least one that
    /// it computes by itself, for what it draws next.
    fn shared_tokens(&self) -> &[Token] {
        let (first, others) = match &self.sequences[..] {
            [] => return &[],
            [only] => return only.tokens(),
            [first, others @ ..] => (first.tokens(), others),
        };
        let shared = others.iter().map(Sequence::tokens).fold(first.len() - 1, |shared, other| {
            let shared = shared.min(other.len() - 1);
            let equal = first[..shared].iter().zip(other).take_while(|(a, b)| a == b);
            equal.count()
        });
        &first[..shared]
    }

    /// What the group asks of the memory to start where `room` must stay free beside it. Scores of prompt tokens need their
    /// logits, which no cache has.
    pub(crate) fn claim<M: KvMemory>(&self, memory: &M, room: u32) -> Claim<'_> {
        let tokens = self.shared_tokens();
        let table = count(tokens).div_ceil(memory.block_size());
        Claim {
            tokens,
            salt: self.origin.salt,
            use_prefix_cache: !self.wants_scores(),
            beside: self.present_need(memory).saturating_sub(table).saturating_add(room),
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

    /// Blocks that its sequences take beyond those they hold, when each has `tokens` more, or all that it may ever hold.
    pub(crate) fn growth(&self, tokens: u32, block_size: u32) -> u32 {
        let taken = |seq: &Sequence| {
            let held = seq.table().map_or(0, |table| count(table.blocks()));
            let goal = seq.known().saturating_add(tokens).min(self.origin.longest);
            goal.div_ceil(block_size).saturating_sub(held)
        };
        self.sequences.iter().map(taken).sum()
    }

    /// Leaves the queue with a table for the shared tokens.
    pub(crate) fn start(&mut self, table: BlockTable) {
        debug_assert_eq!(self.phase, Phase::Waiting);
        self.phase = Phase::Prompt { shared: count(self.shared_tokens()), awaits: true };
        let cached = table.cached();
        if let Some(first) = self.sequences.first_mut() {
            first.seat(table, cached);
        }
    }

    /// Gives every sequence a table of its own that shares all blocks of `table`, which holds `computed` tokens.
    pub(crate) fn share<M: KvMemory>(&mut self, table: BlockTable, computed: u32, memory: &mut M) {
        let Some((first, others)) = self.sequences.split_first_mut() else {
            return memory.free(table);
        };
        // What a sequence had computed before a preemption may still be cached.
        let seat = |seq: &mut Sequence, mut table: BlockTable, memory: &mut M| {
            memory.extend_cached(&mut table, seq.tokens());
            let computed = computed.max(table.len());
            seq.seat(table, computed);
        };
        for seq in others {
            let fork = memory.fork(&table);
            seat(seq, fork, memory);
        }
        seat(first, table, memory);
        self.phase = Phase::Decode;
    }

    /// Asks whether the blocks that another group computes are there, if it waits for some.
    pub(crate) fn look_for_prefix<M: KvMemory>(&mut self, memory: &mut M) {
        if let Phase::Prompt { awaits, .. } = &mut self.phase
            && *awaits
            && let Some(first) = self.sequences.first_mut()
        {
            *awaits = first.await_prefix(memory);
        }
    }

    /// Gives all memory back and keeps the tokens.
    pub(crate) fn release<M: KvMemory>(&mut self, memory: &mut M) {
        for seq in &mut self.sequences {
            if let Some(swapped) = seq.take_swapped() {
                memory.forget_swapped(swapped);
            }
            if let Some(table) = seq.vacate() {
                memory.free(table);
            }
        }
        self.phase = Phase::Waiting;
    }

    /// Moves all blocks to the swap space; whether there was room.
    pub(crate) fn swap_out<M: KvMemory>(&mut self, memory: &mut M, ops: &mut Vec<CacheOp>) -> bool {
        let shared = match self.phase {
            Phase::Prompt { shared, .. } => Some(shared),
            Phase::Decode => None,
            Phase::Waiting | Phase::Swapped { .. } => return false,
        };
        let tables = self.sequences.iter_mut().filter_map(Sequence::leave).collect();
        match memory.swap_out(tables, ops) {
            Ok(swapped) => {
                for (seq, table) in self.sequences.iter_mut().zip(swapped) {
                    seq.keep_swapped(table);
                }
                self.phase = Phase::Swapped { shared };
                true
            }
            Err((_, tables)) => {
                for (seq, computed) in self.sequences.iter_mut().zip(tables) {
                    seq.come_back(computed.table);
                }
                false
            }
        }
    }

    /// Brings all blocks back; whether there was room. What was computed counts again.
    pub(crate) fn swap_in<M: KvMemory>(&mut self, memory: &mut M, ops: &mut Vec<CacheOp>) -> bool {
        let Phase::Swapped { shared } = self.phase else { return false };
        let tables = self.sequences.iter_mut().filter_map(Sequence::take_swapped).collect();
        match memory.swap_in(tables, ops) {
            Ok(tables) => {
                for (seq, table) in self.sequences.iter_mut().zip(tables) {
                    seq.come_back(table);
                }
                self.phase = match shared {
                    Some(shared) => Phase::Prompt { shared, awaits: false },
                    None => Phase::Decode,
                };
                true
            }
            Err((_, tables)) => {
                for (seq, table) in self.sequences.iter_mut().zip(tables) {
                    seq.keep_swapped(table);
                }
                false
            }
        }
    }

    /// Blocks for what it left with and for what it needs next: the rest of its prompt, or one block more for each sequence.
    pub(crate) fn need_to_come_back<M: KvMemory>(&self, memory: &M) -> u32 {
        match self.phase {
            Phase::Swapped { shared: Some(_) } => self.present_need(memory),
            _ => {
                let Origin { prompt, longest, .. } = self.origin;
                let ever = memory.most_blocks(prompt, longest, self.width());
                self.distinct_slots().saturating_add(count(&self.sequences)).min(ever)
            }
        }
    }

    /// Slots that its swapped tables hold.
    pub(crate) fn distinct_slots(&self) -> u32 {
        let tables = self.sequences.iter().filter_map(Sequence::swapped_table);
        distinct(tables.flat_map(SwappedTable::slots).copied())
    }

    /// Blocks that its tables hold.
    pub(crate) fn distinct_blocks(&self) -> u32 {
        let tables = self.sequences.iter().filter_map(Sequence::table);
        distinct(tables.flat_map(BlockTable::blocks).copied())
    }

    /// Whether a table of it holds one of `blocks`.
    pub(crate) fn holds_any(&self, blocks: &[BlockId]) -> bool {
        let tables = self.sequences.iter().filter_map(Sequence::table);
        tables.flat_map(BlockTable::blocks).any(|block| blocks.contains(block))
    }

    /// Tokens that are computed again if it is preempted and nothing of it is found in the prefix cache.
    pub(crate) fn tokens_to_recompute(&self) -> u32 {
        let computed: u32 = self.sequences.iter().map(Sequence::computed).sum();
        let twice = count(&self.sequences).saturating_sub(1);
        match self.phase {
            Phase::Decode => computed.saturating_sub(twice * count(self.shared_tokens())),
            _ => computed,
        }
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
        } else if self.is_fresh() && !self.is_beam() {
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
        let (&last, before) = seq.tokens().split_last()?;
        self.ends(before, last)
    }

    /// The same for a sequence that would go on from `before` with `last`.
    pub(crate) fn ends(&self, before: &[Token], last: Token) -> Option<FinishReason> {
        let Origin { params, stop_rule, prompt, longest, .. } = &self.origin;
        if params.eos.contains(&last) {
            return Some(FinishReason::Stop(None));
        }
        if params.stop_tokens.contains(&last) {
            return Some(FinishReason::Stop(Some(last)));
        }
        if let Some(rule) = stop_rule {
            let mut generated = before.get(*prompt as usize..).unwrap_or_default().to_vec();
            generated.push(last);
            if rule.0.ends(&generated) {
                return Some(FinishReason::Stop(None));
            }
        }
        (count(before) >= *longest).then_some(FinishReason::Length)
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
            Phase::Swapped { .. } => 0,
        };
        let swapped = self.sequences.iter().filter(|seq| seq.swapped_table().is_some()).count();
        let swapped_wanted = match self.phase {
            Phase::Swapped { shared: Some(_) } => 1,
            Phase::Swapped { shared: None } => self.sequences.len(),
            _ => 0,
        };
        if swapped != swapped_wanted {
            return Err(format!("group {id} has {swapped} swapped tables, {:?}", self.phase));
        }
        let lengths = self.sequences.iter().map(Sequence::known);
        if self.is_beam() && lengths.clone().min() != lengths.max() {
            return Err(format!("the beams of group {id} are not equally long"));
        }
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

/// How many different ones there are.
fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> u32 {
    let mut all: Vec<T> = items.collect();
    all.sort_unstable();
    all.dedup();
    count(&all)
}
