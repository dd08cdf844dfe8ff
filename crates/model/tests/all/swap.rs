//! The swap space: what comes back is what left, or a fault that says so; and a sequence that was away goes on bit for bit.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use folio_core::exec::{Executor, StepOutput};
use folio_core::ids::{BlockId, SwapSlot};
use folio_core::plan::{CacheOp, StepPlan};
use folio_model::swap::{SwapFault, SwapPlace};
use folio_model::{Cpu, KvDtype, Runner, SwapStore};
use proptest::prelude::*;

use crate::driver::{Setup, cpu_runner, open};
use crate::folder::TempFolder;
use crate::golden::zoo;
use crate::invariance::{execute, single_row};

/// Not a whole number of pages.
const BLOCK: usize = 5000;
const SLOTS: usize = 12;

fn pattern(seed: u8) -> Vec<u8> {
    (0..BLOCK).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect()
}

fn put(store: &mut SwapStore, slot: usize, seed: u8) {
    store.put(slot, |bytes| bytes.copy_from_slice(&pattern(seed)));
}

fn take(store: &mut SwapStore, slots: &[usize]) -> Vec<Result<Vec<u8>, SwapFault>> {
    let mut found = Vec::new();
    store.take(slots, |place, contents| {
        assert_eq!(place, found.len(), "in order");
        found.push(contents.map(<[u8]>::to_vec));
    });
    assert_eq!(found.len(), slots.len());
    found
}

fn temporary(folder: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).open(folder.join("slots")).unwrap()
}

#[derive(Clone, Debug)]
enum Action {
    Put(usize, u8),
    Take(Vec<usize>),
    Settle,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0..SLOTS, any::<u8>()).prop_map(|(slot, seed)| Action::Put(slot, seed)),
        3 => prop::collection::vec(0..SLOTS, 1..12).prop_map(Action::Take),
        1 => Just(Action::Settle),
    ];
    prop::collection::vec(action, 1..60)
}

fn agrees(mut store: SwapStore, actions: &[Action]) {
    let mut expected: HashMap<usize, u8> = HashMap::new();
    for action in actions {
        match action {
            Action::Put(slot, seed) => {
                put(&mut store, *slot, *seed);
                expected.insert(*slot, *seed);
            }
            Action::Take(slots) => {
                for (slot, found) in slots.iter().zip(take(&mut store, slots)) {
                    let wanted = expected.get(slot).map(|seed| pattern(*seed));
                    assert_eq!(found, wanted.ok_or(SwapFault::Empty), "slot {slot}");
                }
            }
            Action::Settle => store.settle(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_back_is_what_left(actions in actions()) {
        agrees(SwapStore::host(SLOTS, BLOCK), &actions);
        agrees(SwapStore::file(&std::env::temp_dir(), SLOTS, BLOCK).unwrap(), &actions);
    }
}

#[test]
fn more_than_may_be_staged_is_kept() {
    let slots: Vec<usize> = (0..200).collect();
    let mut store = SwapStore::file(&std::env::temp_dir(), slots.len(), BLOCK).unwrap();
    for &slot in &slots {
        put(&mut store, slot, slot as u8);
    }
    for (&slot, found) in slots.iter().zip(take(&mut store, &slots)) {
        assert_eq!(found, Ok(pattern(slot as u8)));
    }
    assert!(store.faults().is_empty());
}

/// An engine goes on after a step that panicked, and so must the store.
#[test]
fn whoever_panics_with_a_block_takes_nothing_from_those_who_follow() {
    let panics = |work: &mut dyn FnMut()| {
        assert!(catch_unwind(AssertUnwindSafe(work)).is_err(), "it panicked");
    };
    let slots: Vec<usize> = (0..SLOTS).collect();
    let mut store = SwapStore::file(&std::env::temp_dir(), SLOTS, BLOCK).unwrap();
    for &slot in &slots {
        put(&mut store, slot, slot as u8);
    }
    store.settle();
    panics(&mut || store.take(&slots, |place, _| assert!(place < 2, "enough")));
    // More often than blocks may be on their way.
    for _ in 0..40 {
        panics(&mut || store.put(3, |_| panic!("nothing to keep")));
    }
    put(&mut store, 5, 99);
    store.settle();
    for (&slot, found) in slots.iter().zip(take(&mut store, &slots)) {
        let seed = if slot == 5 { 99 } else { slot as u8 };
        assert_eq!(found, Ok(pattern(seed)), "slot {slot}");
    }
}

#[test]
fn the_file_has_no_name_while_it_is_used() {
    let folder = TempFolder::new();
    let mut store = SwapStore::file(&folder.0, SLOTS, BLOCK).unwrap();
    put(&mut store, 0, 1);
    store.settle();
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
    let SwapPlace::File { folder: place, .. } = store.place() else { panic!("a file") };
    assert_eq!(*place, folder.0);
    assert_eq!(take(&mut store, &[0]), [Ok(pattern(1))]);
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error() {
    let error = |folder, slots| SwapStore::file(Path::new(folder), slots, BLOCK).err().unwrap();
    assert_eq!(error("/no/such/folder", SLOTS).kind(), io::ErrorKind::NotFound);
    // More than any disk has.
    let folder = std::env::temp_dir();
    let huge = SwapStore::file(&folder, usize::MAX >> 14, BLOCK);
    assert!(huge.is_err());
}

#[test]
fn a_full_disk_loses_blocks_and_says_so() {
    let Ok(full) = OpenOptions::new().read(true).write(true).open("/dev/full") else {
        return println!("not checked: there is no /dev/full here");
    };
    let mut store = SwapStore::over(full, SLOTS, BLOCK).unwrap();
    for slot in 0..3 {
        put(&mut store, slot, 7);
    }
    store.settle();
    let lost = SwapFault::Write(io::ErrorKind::StorageFull);
    assert_eq!(take(&mut store, &[0, 1, 2]), [Err(lost), Err(lost), Err(lost)]);
    assert_eq!(store.faults(), [(lost, 3)]);
    assert_eq!(store.measure().unwrap_err(), lost);
}

#[test]
fn damage_is_found_and_a_slot_that_is_written_again_is_whole() {
    let folder = TempFolder::new();
    let file = temporary(&folder.0);
    let behind = file.try_clone().unwrap();
    let mut store = SwapStore::over(file, SLOTS, BLOCK).unwrap();
    for slot in 0..4 {
        put(&mut store, slot, 9);
    }
    store.settle();
    // One bit of slot 1, which begins at the third page; slot 3 is cut off in its middle.
    let at = 2 * 4096 + 77;
    let mut byte = [0];
    behind.read_exact_at(&mut byte, at).unwrap();
    behind.write_all_at(&[byte[0] ^ 1], at).unwrap();
    behind.set_len(3 * 2 * 4096 + 100).unwrap();
    let short = SwapFault::Read(io::ErrorKind::UnexpectedEof);
    let whole = || Ok(pattern(9));
    let found = take(&mut store, &[0, 1, 2, 3]);
    assert_eq!(found, [whole(), Err(SwapFault::Damaged), whole(), Err(short)]);
    assert_eq!(store.faults(), [(SwapFault::Damaged, 1), (short, 1)]);
    put(&mut store, 1, 9);
    put(&mut store, 3, 9);
    store.settle();
    assert_eq!(take(&mut store, &[1, 3]), [whole(), whole()]);
}

#[test]
fn what_cannot_be_read_is_lost() {
    let folder = TempFolder::new();
    drop(temporary(&folder.0));
    let write_only = OpenOptions::new().write(true).open(folder.0.join("slots")).unwrap();
    let mut store = SwapStore::over(write_only, SLOTS, BLOCK).unwrap();
    put(&mut store, 2, 5);
    store.settle();
    assert!(matches!(take(&mut store, &[2])[..], [Err(SwapFault::Read(_))]));
}

#[test]
fn measuring_forgets_and_finds_rates() {
    let stores = [
        SwapStore::host(SLOTS, BLOCK),
        SwapStore::file(&std::env::temp_dir(), SLOTS, BLOCK).unwrap(),
    ];
    for mut store in stores {
        let rates = store.measure().unwrap();
        assert!(rates.write > 0.0 && rates.read > 0.0);
        assert_eq!(take(&mut store, &[0]), [Err(SwapFault::Empty)]);
    }
}

const SETUP: Setup = Setup {
    quantization: None,
    dtype: None,
    kv_dtype: Some(KvDtype::Bf16),
    block_size: 4,
    threads: 1,
    batched_tokens: 512,
    chunk: usize::MAX,
    together: 1,
};

fn runner(slots: usize, store: impl Fn(usize, usize) -> SwapStore) -> Runner<Cpu> {
    runner_of(KvDtype::Bf16, slots, store)
}

fn runner_of(
    kv_dtype: KvDtype,
    slots: usize,
    store: impl Fn(usize, usize) -> SwapStore,
) -> Runner<Cpu> {
    let setup = Setup { kv_dtype: Some(kv_dtype), ..SETUP };
    let (runner, plan) = cpu_runner(&open(&zoo("gemma2")), &setup);
    runner.with_swap_store(store(slots, usize::try_from(plan.kv_bytes_per_block).unwrap()))
}

fn only_ops(ops: Vec<CacheOp>) -> StepPlan {
    StepPlan { ops, ..StepPlan::default() }
}

fn out(source: BlockId, slot: u32) -> CacheOp {
    CacheOp::SwapOut { source, slot: SwapSlot(slot) }
}

fn back(slot: u32, destination: BlockId) -> CacheOp {
    CacheOp::SwapIn { slot: SwapSlot(slot), destination }
}

#[test]
fn a_sequence_that_was_swapped_goes_on_bit_for_bit_elsewhere() {
    let disk = |slots, bytes| SwapStore::file(&std::env::temp_dir(), slots, bytes).unwrap();
    let (bf16, int8) = (KvDtype::Bf16, KvDtype::Int8);
    for mut runner in [
        runner(8, SwapStore::host),
        runner_of(bf16, 8, disk),
        runner_of(int8, 8, SwapStore::host),
        runner_of(int8, 8, disk),
    ] {
        let home = [3, 9, 5].map(BlockId);
        let away = [11, 3, 20].map(BlockId);
        execute(&mut runner, &single_row(&[5, 6, 7, 8, 9, 10, 11, 12, 13], 0, &home));
        let original = execute(&mut runner, &single_row(&[14], 9, &home));
        let left = execute(
            &mut runner,
            &only_ops(home.into_iter().zip([7, 0, 2]).map(|(b, slot)| out(b, slot)).collect()),
        );
        assert_eq!((left.swapping.blocks, left.lost.len()), (3, 0));
        // Somebody else writes everywhere.
        for blocks in [home, away] {
            execute(&mut runner, &single_row(&[90, 91, 92, 93, 94, 95, 96, 97, 98], 0, &blocks));
        }
        let mut resumed = single_row(&[14], 9, &away);
        resumed.ops = vec![back(7, away[0]), back(0, away[1]), back(2, away[2])];
        let resumed = execute(&mut runner, &resumed);
        assert_eq!(resumed.draws, original.draws);
        assert_eq!((resumed.swapping.blocks, resumed.lost.len()), (3, 0));
    }
}

#[test]
fn swaps_happen_in_the_order_of_the_plan() {
    let mut runner = runner(2, SwapStore::host);
    let [a, b, c] = [1, 2, 3].map(BlockId);
    execute(&mut runner, &single_row(&[5, 6, 7], 0, &[a]));
    execute(&mut runner, &single_row(&[8, 9, 10], 0, &[b]));
    let first = execute(&mut runner, &single_row(&[4], 3, &[a])).draws;
    let second = execute(&mut runner, &single_row(&[4], 3, &[b])).draws;
    assert_ne!(first, second);
    // `a` and `b` change places through one slot and a copy, and the slot is used twice.
    execute(
        &mut runner,
        &only_ops(vec![
            out(a, 0),
            CacheOp::Copy { source: b, destination: a },
            back(0, b),
            out(a, 0),
            CacheOp::Copy { source: b, destination: a },
            back(0, c),
        ]),
    );
    assert_eq!(execute(&mut runner, &single_row(&[4], 3, &[b])).draws, first);
    assert_eq!(execute(&mut runner, &single_row(&[4], 3, &[c])).draws, second);
}

#[test]
fn lost_slots_are_named_and_the_step_goes_on() {
    let folder = TempFolder::new();
    let mut runner = runner(8, |slots, bytes| {
        let store = SwapStore::over(temporary(&folder.0), slots, bytes).unwrap();
        std::fs::remove_file(folder.0.join("slots")).unwrap();
        store
    });
    let [a, b] = [1, 2].map(BlockId);
    execute(&mut runner, &single_row(&[5, 6, 7], 0, &[a]));
    let original = execute(&mut runner, &single_row(&[8], 3, &[a])).draws;
    execute(&mut runner, &only_ops(vec![out(a, 1)]));
    let mut plan = single_row(&[8], 3, &[b]);
    plan.ops = vec![back(6, BlockId(3)), back(1, b), back(7, BlockId(4))];
    let output = execute(&mut runner, &plan);
    assert_eq!(output.lost, [SwapSlot(6), SwapSlot(7)]);
    assert_eq!(output.draws, original);
}

#[test]
fn slots_that_do_not_exist_are_refused() {
    let with_two = &mut runner(2, SwapStore::host);
    let without = &mut cpu_runner(&open(&zoo("gemma2")), &SETUP).0;
    for (runner, slot) in [(with_two, 2), (without, 0)] {
        for op in [out(BlockId(0), slot), back(slot, BlockId(0))] {
            let refused = runner.execute(&only_ops(vec![op]), &mut StepOutput::default());
            assert!(refused.unwrap_err().0.contains("swap slot"));
        }
    }
}
