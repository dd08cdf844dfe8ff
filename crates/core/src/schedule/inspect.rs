//! Counts who holds what; see [`crate::inspect`].

use std::collections::{BTreeMap, HashMap};

use super::Scheduler;
use crate::count;
use crate::group::{Group, Phase};
use crate::ids::BlockId;
use crate::inspect::{Activity, GroupReport, KvReport, Saved};
use crate::kv::{BlockTable, KvMemory};
use crate::sequence::Sequence;

/// Waiting groups that are listed one by one.
const MOST_WAITING: usize = 100;

/// What the tables say about one block.
#[derive(Clone, Copy, Default)]
struct Use {
    tables: u32,
    groups: u32,
    /// Positions that hold something, or will after the step in flight.
    filled: u32,
}

impl<M: KvMemory> Scheduler<M> {
    /// Who holds which part of the memory. Takes time in proportion to everything there is.
    #[must_use]
    pub fn inspect(&self) -> KvReport {
        let block_size = self.memory.block_size();
        let mut uses: HashMap<BlockId, Use> = HashMap::new();
        let mut saved = Saved::default();
        let mut groups = Vec::new();
        for group in &self.running {
            let own = uses_of(group, block_size);
            let report = report(group, &own, block_size);
            let among = u64::from(report.held - report.blocks);
            *(if group.is_beam() { &mut saved.beams } else { &mut saved.samples }) += among;
            groups.push(report);
            for (block, own) in own {
                let all = uses.entry(block).or_default();
                all.tables += own.tables;
                all.groups += 1;
                all.filled = all.filled.max(own.filled);
            }
        }
        saved.prefixes = uses.values().map(|block| u64::from(block.groups - 1)).sum();
        let (mut by_tables, mut empty_positions) = (BTreeMap::new(), 0);
        for block in uses.values() {
            *by_tables.entry(block.tables).or_default() += 1;
            empty_positions += u64::from(block_size - block.filled);
        }
        groups.extend(self.waiting.iter().filter(|group| group.is_swapped()).map(report_absent));
        let waits = |group: &&Group| !group.is_swapped();
        groups.extend(self.waiting.iter().filter(waits).take(MOST_WAITING).map(report_absent));
        groups.sort_unstable_by_key(|report| report.group);
        let all = self.running.len() + self.waiting.iter().count();
        KvReport {
            block_size,
            stats: self.memory.stats(),
            by_tables: by_tables.into_iter().collect(),
            empty_positions,
            saved,
            left_out: u32::try_from(all - groups.len()).unwrap_or(u32::MAX),
            groups,
        }
    }
}

/// The blocks of a running group.
fn uses_of(group: &Group, block_size: u32) -> HashMap<BlockId, Use> {
    let mut uses: HashMap<BlockId, Use> = HashMap::new();
    for seq in &group.sequences {
        let blocks = seq.table().map_or(&[][..], BlockTable::blocks);
        for (block, start) in blocks.iter().zip((0_u32..).step_by(block_size as usize)) {
            let block = uses.entry(*block).or_default();
            block.tables += 1;
            let filled = seq.planned().saturating_sub(start).min(block_size);
            block.filled = block.filled.max(filled);
        }
    }
    uses
}

fn report(group: &Group, uses: &HashMap<BlockId, Use>, block_size: u32) -> GroupReport {
    let activity = match group.phase {
        Phase::Prompt { awaits: true, .. } => Activity::AwaitingPrefix,
        Phase::Prompt { .. } => Activity::Prompt,
        Phase::Decode => Activity::Decode,
        Phase::Waiting => Activity::Waiting,
        Phase::Swapped { .. } => Activity::Swapped,
    };
    GroupReport {
        group: group.id(),
        activity,
        beams: group.is_beam(),
        sequences: count(&group.sequences),
        tokens: group.tokens(),
        blocks: u32::try_from(uses.len()).unwrap_or(u32::MAX),
        held: uses.values().map(|block| block.tables).sum(),
        empty_positions: uses.values().map(|block| block_size - block.filled).sum(),
        preemptions: group.preemptions,
        swaps: group.swaps,
    }
}

/// A group that holds no blocks.
fn report_absent(group: &Group) -> GroupReport {
    let slots = group.sequences.iter().filter_map(Sequence::swapped_table);
    let held = slots.map(|table| count(table.slots())).sum();
    let blocks = group.distinct_slots();
    GroupReport { blocks, held, ..report(group, &HashMap::new(), 0) }
}
