//! After the step: what was computed counts, what was drawn is appended, what has finished gives its memory back.
//!
//! Only here do blocks become findable, and only here are sequences forked: both need the KV to have been written.
//!
//! **An executor is not trusted.** An output that has not as many draws and scores as the plan cannot be told apart by
//! request, so the whole step fails. A token that does not exist, or a draw that could not be made, fails its group and no
//! other. A row that the scheduler does not expect (its group was aborted meanwhile) is passed over.

use super::{Scheduler, beams};
use crate::count;
use crate::event::{Event, EventKind, Failure};
use crate::exec::{DrawFault, Drawn, StepOutput};
use crate::group::{Group, Phase, Ranking};
use crate::ids::{SeqId, Tick, Token};
use crate::kv::KvMemory;
use crate::plan::{Row, StepPlan};
use crate::rank::{Hypothesis, reported};
use crate::stats::Totals;

impl<M: KvMemory> Scheduler<M> {
    /// Takes in what the executor made of `plan`, which the last [`schedule`](Self::schedule) filled. Appends to `events`
    /// what happened, groups in the order of the policy.
    pub fn commit(
        &mut self,
        plan: &StepPlan,
        out: &StepOutput,
        now: Tick,
        events: &mut Vec<Event>,
    ) {
        if out.draws.len() != plan.draws.len() || out.scores.len() != plan.targets.len() {
            return self.fail(plan, events);
        }
        self.settle_swaps(plan, &out.lost);
        for row in &plan.rows {
            let Some(at) = self.running_with(row.seq) else { continue };
            let group = &mut self.running[at];
            let vocab = self.admission.limits.vocab;
            let mut commit =
                Commit { memory: &mut self.memory, totals: &mut self.totals, events, vocab };
            if let Err(failure) = commit.row(group, row, out) {
                commit.fail(group, failure);
            } else if group.is_over() {
                commit.end(group);
            }
        }
        self.totals.steps += 1;
        self.last_step = Some(now);
        self.step_done();
    }

    /// The step could not be executed: every group in `plan` fails and gives its memory back, since nobody knows what
    /// the step left in it. Groups that were not in the step do not notice.
    pub fn fail(&mut self, plan: &StepPlan, events: &mut Vec<Event>) {
        for row in &plan.rows {
            let Some(at) = self.running_with(row.seq) else { continue };
            let vocab = self.admission.limits.vocab;
            let mut commit =
                Commit { memory: &mut self.memory, totals: &mut self.totals, events, vocab };
            commit.fail(&mut self.running[at], Failure::Step);
        }
        self.step_done();
        self.undo_swaps();
    }

    /// Where the running group with this live sequence stands. Both ids are given in the order of arrival.
    pub(super) fn running_with(&self, seq: SeqId) -> Option<usize> {
        let behind = self.running.partition_point(|group| group.origin.first_seq <= seq);
        let at = behind.checked_sub(1)?;
        self.running[at].find(seq).map(|_| at)
    }

    fn step_done(&mut self) {
        self.running.retain(|group| !group.is_over());
        self.in_flight = false;
    }
}

/// The hands of one commit: everything of the scheduler but the group in question.
struct Commit<'a, M> {
    memory: &'a mut M,
    totals: &'a mut Totals,
    events: &'a mut Vec<Event>,
    vocab: u32,
}

impl<M: KvMemory> Commit<'_, M> {
    fn row(&mut self, group: &mut Group, row: &Row, out: &StepOutput) -> Result<(), Failure> {
        let Some(at) = group.find(row.seq) else { return Ok(()) };
        let seq = &mut group.sequences[at];
        let tokens = u32::try_from(row.tokens.len()).unwrap_or(u32::MAX);
        let planned = row.start.saturating_add(tokens);
        if (seq.computed(), seq.planned()) != (row.start, planned) || tokens == 0 {
            return Ok(());
        }
        seq.advance(self.memory);
        self.totals.computed_tokens += u64::from(tokens);
        if !std::mem::replace(&mut group.announced, true) {
            // The first row of all begins where the cache ended.
            self.event(group, EventKind::Admitted { cached_tokens: row.start });
        }
        self.score(group, row, out)?;

        let draws = out.draws.get(row.draws.clone()).ok_or(Failure::Step)?;
        if draws.len() != group.draws_due(&group.sequences[at]) as usize {
            return Err(Failure::Step);
        }
        self.check_draws(group, draws)?;
        self.continue_group(group, at, draws);
        Ok(())
    }

    fn score(&mut self, group: &mut Group, row: &Row, out: &StepOutput) -> Result<(), Failure> {
        let scores = out.scores.get(row.targets.clone()).ok_or(Failure::Step)?;
        if !scores.is_empty() {
            group.scored += count(scores);
            self.event(group, EventKind::PromptScored(scores.to_vec()));
        }
        Ok(())
    }

    /// All draws of a row are good or its group fails, before any of them has been reported.
    fn check_draws(
        &self,
        group: &Group,
        draws: &[Result<Drawn, DrawFault>],
    ) -> Result<(), Failure> {
        for draw in draws {
            match draw {
                Ok(drawn) if self.is_usable(group, drawn) => {}
                Ok(_) => return Err(Failure::Step),
                Err(DrawFault::NotFinite) => return Err(Failure::NotFinite),
                Err(DrawFault::NothingAllowed) => return Err(Failure::NothingAllowed),
            }
        }
        Ok(())
    }

    /// Whether the tokens exist, and the score is there where ranking needs it.
    fn is_usable(&self, group: &Group, drawn: &Drawn) -> bool {
        let exists = |token: Token| token.0 < self.vocab;
        let score = drawn.score.as_ref();
        let ranks = match group.ranking {
            Ranking::Told => true,
            Ranking::Samples(_) => score.is_some(),
            Ranking::Beams(_) => score.is_some_and(|score| {
                !score.top.is_empty() && score.top.iter().all(|&(token, _)| exists(token))
            }),
        };
        ranks && exists(drawn.token)
    }

    /// The sequence at `at` has computed what was planned, and `draws` are what it drew.
    fn continue_group(&mut self, group: &mut Group, at: usize, draws: &[Result<Drawn, DrawFault>]) {
        let computed = group.sequences[at].computed();
        let complete = matches!(group.phase, Phase::Prompt { shared, .. } if computed == shared);
        match draws {
            [Ok(drawn)] if group.is_beam() => self.beam(group, at, drawn),
            [Ok(drawn)] if !complete => {
                self.extend(group, at, drawn);
            }
            _ if complete => self.fork(group, at, draws),
            _ => {}
        }
    }

    /// The shared tokens are complete: every sequence gets a table of its own.
    fn fork(&mut self, group: &mut Group, at: usize, draws: &[Result<Drawn, DrawFault>]) {
        let computed = group.sequences[at].computed();
        let Some(table) = group.sequences[at].vacate() else { return };
        self.draw_first(group, draws);
        if group.origin.pin {
            let pinned = self.memory.fork(&table);
            self.memory.pin(pinned);
            group.origin.pin = false;
        }
        group.share(table, computed, self.memory);
    }

    /// A beam has its candidates; with the last one of the group, all go on.
    fn beam(&mut self, group: &mut Group, at: usize, drawn: &Drawn) {
        let top = drawn.score.as_ref().map(|score| score.top.clone()).unwrap_or_default();
        group.sequences[at].candidates = top;
        let tokens = beams::step(group, self.memory);
        self.totals.generated_tokens += u64::from(tokens);
    }

    /// The shared tokens are complete, and their table is held by the caller. What was drawn after them is the first token
    /// of each choice, or the next one of the only sequence, or nothing when several sequences have tokens to compute again.
    fn draw_first(&mut self, group: &mut Group, draws: &[Result<Drawn, DrawFault>]) {
        let Some(first) = group.sequences.first() else { return };
        let siblings: Vec<_> = (1..count(draws)).map(|offset| first.sibling(offset)).collect();
        group.sequences.extend(siblings);
        let mut at = 0;
        for drawn in draws.iter().flatten() {
            at += usize::from(self.extend(group, at, drawn));
        }
    }

    /// Appends a drawn token to the sequence at `at`; whether the sequence goes on. One that does not is removed.
    fn extend(&mut self, group: &mut Group, at: usize, drawn: &Drawn) -> bool {
        let seq = &mut group.sequences[at];
        seq.push(drawn.token);
        let choice = seq.choice();
        self.totals.generated_tokens += 1;
        let finish = group.verdict(&group.sequences[at]);
        if let (Ranking::Samples(_), Some(score)) = (&group.ranking, &drawn.score) {
            let told = reported(score.logprob, &score.top, group.origin.params.sampling.logprobs);
            group.sequences[at].trail.push(drawn.token, score.logprob, told);
        } else {
            self.event(group, EventKind::Sampled { choice, drawn: drawn.clone(), finish });
        }
        let Some(finish) = finish else { return true };
        let mut ended = group.sequences.remove(at);
        if let Some(table) = ended.vacate() {
            self.memory.free(table);
        }
        if let Ranking::Samples(samples) = &mut group.ranking {
            let trail = std::mem::take(&mut ended.trail);
            let score = trail.mean();
            samples.push((choice, Hypothesis::new(trail, finish, score)));
        }
        false
    }

    fn end(&mut self, group: &mut Group) {
        self.totals.ended += 1;
        let best = group.ranking.take(group.origin.params.n);
        if !best.is_empty() {
            let scores = best.iter().map(|hypothesis| hypothesis.score).collect();
            self.event(group, EventKind::Ranked { scores });
        }
        for (choice, Hypothesis { drawn, finish, .. }) in (0..).zip(best) {
            let last = drawn.len().saturating_sub(1);
            for (place, drawn) in drawn.into_iter().enumerate() {
                let finish = (place == last).then_some(finish);
                self.event(group, EventKind::Sampled { choice, drawn, finish });
            }
        }
        let &mut Group { preemptions, swaps, .. } = group;
        self.event(group, EventKind::Ended { preemptions, swaps });
    }

    fn fail(&mut self, group: &mut Group, failure: Failure) {
        group.discard(self.memory);
        self.totals.failed += 1;
        self.event(group, EventKind::Failed(failure));
    }

    fn event(&mut self, group: &Group, kind: EventKind) {
        self.events.push(Event { group: group.id(), kind });
    }
}
