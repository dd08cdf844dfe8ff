//! Writes what has been decided into the plan. Decides nothing.
//!
//! Rows stand in the order of the policy, those of a group together in the order of its choices.

use std::ops::Range;

use crate::group::Group;
use crate::ids::SeqId;
use crate::plan::{Draw, Row, StepPlan};
use crate::sequence::Sequence;

/// Lays out a row for every sequence that computes something.
pub(super) fn lay_out(running: &[Group], block_size: u32, plan: &mut StepPlan) {
    for group in running {
        let mut sampling = None;
        for seq in group.sequences.iter().filter(|seq| seq.planned() > seq.computed()) {
            push_row(group, seq, block_size, &mut sampling, plan);
        }
    }
}

fn push_row(
    group: &Group,
    seq: &Sequence,
    block_size: u32,
    sampling: &mut Option<usize>,
    plan: &mut StepPlan,
) {
    let (start, end) = (seq.computed(), seq.planned());
    let table = seq.table().map_or(&[][..], |table| table.blocks());
    let used = end.div_ceil(block_size) as usize;
    debug_assert!(used <= table.len(), "sequence {} has no room for {end} tokens", seq.id());
    let scored = group.targets(start, end);
    let alternatives = group.origin.params.prompt_logprobs.unwrap_or(0);
    let row = Row {
        seq: seq.id(),
        start,
        tokens: append(&mut plan.tokens, &seq.tokens()[start as usize..end as usize]),
        blocks: append(&mut plan.blocks, &table[..used.min(table.len())]),
        draws: push_draws(group, seq, sampling, plan),
        first_target: scored.start.saturating_sub(start + 1) as usize,
        targets: append(
            &mut plan.targets,
            &seq.tokens()[scored.start as usize..scored.end as usize],
        ),
        target_alternatives: if scored.is_empty() { 0 } else { alternatives },
    };
    plan.rows.push(row);
}

/// The draws of a row; `sampling` is where the group's sampling stands in the plan, once it does.
fn push_draws(
    group: &Group,
    seq: &Sequence,
    sampling: &mut Option<usize>,
    plan: &mut StepPlan,
) -> Range<usize> {
    let first = plan.draws.len();
    let due = group.draws_due(seq);
    if due == 0 {
        return first..first;
    }
    let params = &group.origin.params;
    let sampling = *sampling.get_or_insert_with(|| {
        plan.samplings.push(params.draw_sampling());
        plan.samplings.len() - 1
    });
    let (history, history_prompt) = if params.sampling.needs_history() {
        (append(&mut plan.history, seq.tokens()), group.origin.prompt as usize)
    } else {
        (0..0, 0)
    };
    let before = plan.banned.len();
    let generated = seq.tokens().get(group.origin.prompt as usize..).unwrap_or_default();
    params.bans.after(generated, &[&params.eos, &params.stop_tokens], &mut plan.banned);
    let banned = before..plan.banned.len();
    plan.draws.extend((0..due).map(|offset| Draw {
        seq: SeqId(seq.id().0 + u64::from(offset)),
        choice: seq.choice() + offset,
        position: seq.known(),
        sampling,
        history: history.clone(),
        history_prompt,
        banned: banned.clone(),
        mask: 0..0,
    }));
    first..plan.draws.len()
}

/// Appends `items` and tells where they stand.
fn append<T: Copy>(list: &mut Vec<T>, items: &[T]) -> Range<usize> {
    let first = list.len();
    list.extend_from_slice(items);
    first..list.len()
}
