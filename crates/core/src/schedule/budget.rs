//! How much one step may do, and who of the running sequences computes how much of it.
//!
//! Tokens are dealt in the order of the policy, in two rounds: sequences that lack one token (they decode) come before
//! those that lack many (they compute a prompt, or what a preemption lost), so a long prompt does not hold up the tokens
//! that people are waiting for. One token is set aside for the oldest group if it is of the second kind: in every step it
//! gets on. Running out of tokens skips a turn; it never preempts.

use super::Limits;
use crate::group::Group;
use crate::sequence::Sequence;

/// What is left of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    tokens: u32,
    sequences: u32,
}

impl Budget {
    /// The budget of a step in which these groups run already.
    pub(super) fn new(limits: &Limits, running: &[Group]) -> Self {
        let seated = running.iter().map(Group::width).sum();
        Self {
            tokens: limits.max_num_batched_tokens,
            sequences: limits.max_num_seqs.saturating_sub(seated),
        }
    }

    /// Takes up to `wanted` tokens.
    pub(super) fn take(&mut self, wanted: u32) -> u32 {
        let taken = wanted.min(self.tokens);
        self.tokens -= taken;
        taken
    }

    /// Whether a group of `width` sequences could start.
    pub(super) fn allows(&self, width: u32) -> bool {
        self.tokens > 0 && width <= self.sequences
    }

    /// Seats a group that [`Self::allows`] allowed.
    pub(super) fn seat(&mut self, width: u32) {
        self.sequences -= width;
    }
}

/// Decides for every running sequence how many tokens it computes in this step.
pub(super) fn deal(running: &mut [Group], budget: &mut Budget) {
    let oldest_decodes = running
        .first()
        .is_none_or(|oldest| oldest.sequences.iter().any(|seq| oldest.phase.todo(seq) == 1));
    let set_aside = if oldest_decodes { 0 } else { budget.take(1) };

    for (todo, seq) in sequences(running) {
        seq.plan(if todo == 1 { budget.take(1) } else { 0 });
    }
    budget.tokens += set_aside;
    for (todo, seq) in sequences(running).filter(|(todo, _)| *todo > 1) {
        seq.plan(budget.take(todo));
    }
}

/// All running sequences with how many tokens each lacks.
fn sequences(running: &mut [Group]) -> impl Iterator<Item = (u32, &mut Sequence)> {
    running.iter_mut().flat_map(|group| {
        let phase = group.phase;
        group.sequences.iter_mut().map(move |seq| (phase.todo(seq), seq))
    })
}
