//! A beam step on the group's sequences: [`crate::beam`] chooses, here tables are forked, moved on and freed.
//!
//! A parent that is kept once keeps its table; one that is kept `k` times is forked `k - 1` times; one that is not kept gives
//! its table back. Forks come first and frees last, so that no block that the next beams share is ever free in between. No
//! block is copied here: the first of several that write to a half-filled last block gets its copy when it grows.

use crate::beam::{self, Choice, Live};
use crate::count;
use crate::group::{Group, Phase, Ranking};
use crate::ids::Token;
use crate::kv::KvMemory;
use crate::rank::reported;
use crate::sequence::Sequence;

/// Takes the step if every beam has its candidates. Returns how many tokens the live beams got; 0 means that the search
/// is over (no sequence is left) or waits.
pub(super) fn step<M: KvMemory>(group: &mut Group, memory: &mut M) -> u32 {
    if group.sequences.iter().any(|seq| seq.candidates.is_empty()) {
        return 0;
    }
    let choice = choose(group);
    let parents = std::mem::take(&mut group.sequences);
    let tokens = parents.first().map_or(0, Sequence::known) + 1 - group.origin.prompt;
    let logprobs = group.origin.params.sampling.logprobs;
    let Ranking::Beams(search) = &mut group.ranking else {
        debug_assert!(false, "a beam step of a group that is none");
        group.sequences = parents;
        return 0;
    };
    for (last, finish) in choice.finished {
        let Some(parent) = parents.get(last.parent) else { continue };
        let mut trail = parent.trail.clone();
        trail.push(last.token, last.logprob, reported(last.logprob, &parent.candidates, logprobs));
        search.add(trail, finish, tokens);
    }
    let go_on = if search.is_over(choice.go_on.first().map(|best| best.sum), tokens) {
        Vec::new()
    } else {
        choice.go_on
    };
    group.sequences = branches(group, parents, &go_on, memory);
    group.phase = Phase::Decode;
    count(&group.sequences)
}

fn choose(group: &Group) -> Choice {
    let params = &group.origin.params;
    let live: Vec<Live<'_>> = group
        .sequences
        .iter()
        .map(|seq| Live { sum: seq.trail.sum(), candidates: &seq.candidates })
        .collect();
    let (width, keep) = (params.width() as usize, params.candidates() as usize);
    beam::choose(&live, width, keep, |next| {
        group.ends(group.sequences.get(next.parent)?.tokens(), next.token)
    })
}

/// The next beams with their tables; all other tables of `parents` are freed.
fn branches<M: KvMemory>(
    group: &Group,
    mut parents: Vec<Sequence>,
    go_on: &[beam::Continuation],
    memory: &mut M,
) -> Vec<Sequence> {
    let logprobs = group.origin.params.sampling.logprobs;
    let first = group.origin.first_seq;
    let mut uses = vec![0_u32; parents.len()];
    for next in go_on {
        uses[next.parent] += 1;
    }
    let mut beams: Vec<Option<Sequence>> = Vec::with_capacity(go_on.len());
    for (next, place) in go_on.iter().zip(0..) {
        let parent = &mut parents[next.parent];
        uses[next.parent] -= 1;
        if uses[next.parent] == 0 {
            // The parent itself goes on, when all its forks have been made.
            beams.push(None);
            continue;
        }
        let mut beam = parent.branch();
        if let Some(table) = parent.table() {
            beam.seat(memory.fork(table), parent.computed());
        }
        extend(&mut beam, &parent.candidates, next, logprobs);
        beam.place(first, place);
        beams.push(Some(beam));
    }
    let mut parents: Vec<Option<Sequence>> = parents.into_iter().map(Some).collect();
    for ((beam, next), place) in beams.iter_mut().zip(go_on).zip(0..) {
        if beam.is_none()
            && let Some(mut parent) = parents[next.parent].take()
        {
            let candidates = std::mem::take(&mut parent.candidates);
            extend(&mut parent, &candidates, next, logprobs);
            parent.place(first, place);
            *beam = Some(parent);
        }
    }
    for table in parents.iter_mut().flatten().filter_map(Sequence::vacate) {
        memory.free(table);
    }
    beams.into_iter().flatten().collect()
}

/// Gives the beam the token with which it goes on.
fn extend(
    beam: &mut Sequence,
    candidates: &[(Token, f32)],
    next: &beam::Continuation,
    logprobs: Option<u32>,
) {
    beam.push(next.token);
    beam.trail.push(next.token, next.logprob, reported(next.logprob, candidates, logprobs));
}
