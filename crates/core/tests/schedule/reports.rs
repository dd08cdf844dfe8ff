//! What the scheduler reports of its memory, against what its tables must hold.

use folio_core::ids::GroupId;
use folio_core::inspect::{Activity, Saved};
use folio_core::kv::Config;
use folio_core::params::{Beams, Decoding, EarlyStopping};
use folio_core::schedule::PreemptionMode;

use super::server::{Server, job, wide};

const CONFIG: Config = Config { block_size: 4, capacity: 24, prefix_caching: true, secret: 0 };

#[test]
fn samples_beams_and_prefixes_that_are_shared_are_told_apart() {
    let mut server = Server::new(wide(), CONFIG);
    // Ten tokens are two full blocks and a half one.
    server.submit(job(1, 10, 3, Some(9))).unwrap();
    let mut beams = job(2, 9, 1, Some(9));
    beams.params.decoding = Decoding::Beam(Beams {
        width: 3,
        length_penalty: 1.0,
        early_stopping: EarlyStopping::Never,
    });
    server.submit(beams).unwrap();
    assert!(server.step());
    let mut same = job(1, 8, 1, Some(9));
    same.prompt.extend(super::server::text_of(3, 3));
    server.submit(same).unwrap();
    assert!(server.step() && server.step());

    let report = server.scheduler.inspect();
    assert_eq!(report.block_size, 4);
    // Three samples share two blocks, three beams at least their prompt's two, and the last request two of the first one's.
    assert_eq!(report.saved.samples, 4);
    assert!(report.saved.beams >= 4, "{report:?}");
    assert_eq!(report.saved.prefixes, 2);
    let Saved { samples, beams, prefixes } = report.saved;
    assert_eq!(samples + beams + prefixes, report.stats.held - u64::from(report.stats.used));
    let blocks: u32 = report.by_tables.iter().map(|(_, blocks)| blocks).sum();
    let held: u32 = report.by_tables.iter().map(|(tables, blocks)| tables * blocks).sum();
    assert_eq!((blocks, u64::from(held)), (report.stats.used, report.stats.held));
    let activities: Vec<_> = report.groups.iter().map(|g| (g.group.0, g.activity)).collect();
    assert_eq!(activities, [0, 1, 2].map(|group| (group, Activity::Decode)));
    // Each sample has written two tokens more to its own last block: 12 of 12 positions.
    assert_eq!(report.groups[0].empty_positions, 0);
    // 11 prompt tokens and one more.
    assert_eq!((report.groups[2].blocks, report.groups[2].empty_positions), (3, 0));
}

#[test]
fn nobody_new_is_admitted_in_the_step_in_which_a_group_comes_back() {
    let config = Config { capacity: 7, ..CONFIG };
    let mut server = Server::with_swap(wide(), config, 8, PreemptionMode::Swap);
    server.submit(job(1, 7, 1, Some(14))).unwrap();
    server.submit(job(2, 7, 2, Some(6))).unwrap();
    while server.scheduler.stats().swapped.groups == 0 {
        assert!(server.step());
    }
    server.submit(job(3, 2, 1, Some(1))).unwrap();
    while server.scheduler.stats().swapped.groups > 0 {
        assert_eq!(server.scheduler.stats().waiting.groups, 1, "the paper's rule");
        assert!(server.step());
    }
    // There was room for the third one, too.
    assert!(server.scheduler.stats().kv.free > 0);
    assert_eq!(server.scheduler.stats().waiting.groups, 1);
    server.drain(100);
}

#[test]
fn a_swapped_group_is_reported_with_its_slots() {
    let config = Config { capacity: 6, ..CONFIG };
    let mut server = Server::with_swap(wide(), config, 8, PreemptionMode::Swap);
    server.submit(job(1, 7, 1, Some(12))).unwrap();
    server.submit(job(2, 7, 2, Some(6))).unwrap();
    while server.scheduler.stats().swapped.groups == 0 {
        assert!(server.step());
    }
    let report = server.scheduler.inspect();
    let swapped = report.groups.iter().find(|group| group.group == GroupId(1)).unwrap();
    assert_eq!((swapped.activity, swapped.swaps), (Activity::Swapped, 1));
    assert_eq!(swapped.blocks, report.stats.swap_used);
    assert!(swapped.held > swapped.blocks, "the prompt's block moved once: {swapped:?}");
    server.drain(100);
    assert!(server.records[&GroupId(1)].swaps > 0);
}
