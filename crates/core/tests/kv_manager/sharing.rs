//! What requests share: prefixes that are still being computed, and blocks of which only the start is alike.

use folio_core::ids::{Salt, Token};
use folio_core::kv::{BlockTable, Claim, Computed, KvMemory, Manager};
use folio_core::plan::CacheOp;

use crate::scenarios::{claim, free_all, ids, manager, serve, tokens};

/// Admits a prompt and publishes nothing.
fn arrive(memory: &mut Manager, tokens: &[Token]) -> BlockTable {
    memory.admit(&claim(tokens), &mut Vec::new()).unwrap()
}

#[test]
fn of_requests_that_arrive_together_one_computes_the_common_prefix() {
    let mut memory = manager(4, 16);
    let prompts = [9, 8, 7].map(|last| [tokens(0..8), tokens([last; 5])].concat());
    let [mut first, mut second, mut third] = prompts.each_ref().map(|p| arrive(&mut memory, p));
    assert_eq!((memory.stats().used, memory.stats().held), (8, 12));
    assert_eq!(memory.match_prefix(&prompts[1], Salt(0)), 0, "a promise is not a hit");
    assert_eq!(memory.stats().prefix_hits, 16);
    assert!(!memory.await_prefix(&mut first));
    assert!(memory.await_prefix(&mut second) && memory.await_prefix(&mut third));

    memory.publish(&mut first, &prompts[0][..6]);
    assert!(memory.await_prefix(&mut second));
    assert_eq!((second.cached(), third.cached()), (4, 0));
    memory.publish(&mut first, &prompts[0]);
    assert!(!memory.await_prefix(&mut second) && !memory.await_prefix(&mut third));
    assert_eq!((second.cached(), third.cached()), (8, 8));
    free_all(&mut memory, [first, second, third]);
}

#[test]
fn a_promise_that_is_withdrawn_is_taken_over_by_the_first_who_asks() {
    let mut memory = manager(4, 16);
    let prompt = tokens(0..13);
    let [mut owner, mut second, mut third] = [0; 3].map(|_| arrive(&mut memory, &prompt));
    memory.publish(&mut owner, &prompt[..4]);
    memory.free(owner);
    memory.check(&mut [&second, &third].into_iter()).unwrap();
    assert!(!memory.await_prefix(&mut third));
    assert!(memory.await_prefix(&mut second));
    assert_eq!((second.cached(), third.cached(), third.len()), (4, 4, 13));
    memory.publish(&mut third, &prompt);
    assert!(!memory.await_prefix(&mut second));
    assert_eq!(second.cached(), 12);
    free_all(&mut memory, [second, third]);
}

#[test]
fn who_waited_for_a_withdrawn_promise_waits_for_its_successor() {
    let mut memory = manager(4, 16);
    let prompt = tokens(0..9);
    let [owner, mut second] = [0; 2].map(|_| arrive(&mut memory, &prompt));
    memory.free(owner);
    let mut late = arrive(&mut memory, &prompt);
    assert_ne!(ids(&second)[..2], ids(&late)[..2]);
    assert!(memory.await_prefix(&mut second));
    assert_eq!((second.blocks()[0], memory.stats().used), (late.blocks()[0], 5));
    memory.publish(&mut late, &prompt);
    assert!(!memory.await_prefix(&mut second));
    assert_eq!((ids(&second)[..2] == ids(&late)[..2], second.cached()), (true, 8));
    free_all(&mut memory, [second, late]);
}

/// The one that takes over could neither write to the blocks after them nor wait for them.
#[test]
fn a_table_that_takes_over_ends_where_another_promise_begins() {
    let mut memory = manager(4, 16);
    let [short, long] = [5, 17].map(|length| tokens(0..length));
    let first = arrive(&mut memory, &short);
    let mut second = arrive(&mut memory, &long);
    let mut third = arrive(&mut memory, &long);
    memory.free(first);
    assert!(!memory.await_prefix(&mut third));
    assert_eq!((third.len(), third.cached(), ids(&third).len()), (4, 0, 1));
    assert!(memory.await_prefix(&mut second));
    memory.append(&mut third, 17, &mut Vec::new()).unwrap();
    memory.publish(&mut third, &long[..4]);
    assert!(!memory.await_prefix(&mut second));
    memory.publish(&mut second, &long);
    memory.publish(&mut third, &long);
    memory.check(&mut [&second, &third].into_iter()).unwrap();
    free_all(&mut memory, [second, third]);
}

/// Admits a prompt and tells where its first block to compute was copied from.
fn copied(memory: &mut Manager, tokens: &[Token]) -> (BlockTable, Option<u32>) {
    let mut ops = Vec::new();
    let table = memory.admit(&claim(tokens), &mut ops).unwrap();
    let op = ops.pop().map(|op| {
        let CacheOp::Copy { source, destination } = op else { panic!("{op:?}") };
        assert_eq!(destination, table.blocks()[table.cached() as usize / 4]);
        source.0
    });
    assert!(ops.is_empty());
    (table, op)
}

#[test]
fn a_block_that_begins_alike_is_copied() {
    let mut memory = manager(4, 16);
    let first = serve(&mut memory, &tokens(0..12));
    for (prompt, cached) in [
        (tokens([0, 1, 2, 3, 4, 5, 9, 9]), 6),
        (tokens([0, 1, 2, 3, 4, 9]), 5),
        (tokens(0..12), 11),
        (tokens(0..7), 6),
        (tokens([0, 9, 9]), 1),
    ] {
        let before = memory.stats();
        let (table, from) = copied(&mut memory, &prompt);
        assert_eq!((table.cached(), from), (cached, Some(first.blocks()[cached as usize / 4].0)));
        let after = memory.stats();
        assert_eq!(after.partial_hits - before.partial_hits, 1);
        assert_eq!(after.prefix_hits - before.prefix_hits, u64::from(cached));
        memory.check(&mut [&first, &table].into_iter()).unwrap();
        memory.free(table);
    }
    // Nothing is alike, or only what must be computed anyway.
    for prompt in [tokens([9]), tokens([0]), tokens(0..5), tokens([0, 1, 2, 3, 9, 5, 6])] {
        let (table, from) = copied(&mut memory, &prompt);
        assert_eq!((table.cached() % 4, from), (0, None), "{prompt:?}");
        memory.free(table);
    }
    free_all(&mut memory, [first]);
}

#[test]
fn the_half_filled_last_block_of_a_sequence_that_ended_is_found() {
    let mut memory = manager(4, 6);
    let mut first = serve(&mut memory, &tokens(0..5));
    memory.append(&mut first, 7, &mut Vec::new()).unwrap();
    memory.publish(&mut first, &tokens(0..6));
    let tail = first.blocks()[1].0;
    let (early, from) = copied(&mut memory, &tokens(0..8));
    assert_eq!((early.cached(), from), (4, None), "it may still be written to");
    memory.free(early);
    memory.free(first);

    let (again, from) = copied(&mut memory, &tokens(0..8));
    assert_eq!((again.cached(), from), (6, Some(tail)), "two of its positions were computed");
    memory.check(&mut [&again].into_iter()).unwrap();
    memory.free(again);
    // Taken, it is found no more.
    let hog = serve(&mut memory, &tokens(50..74));
    memory.free(hog);
    let (last, from) = copied(&mut memory, &tokens(0..8));
    assert_eq!((last.cached(), from), (0, None));
    free_all(&mut memory, [last]);
}

#[test]
fn a_copy_is_not_made_where_there_is_no_room_to_keep_its_source() {
    let mut memory = manager(4, 4);
    let first = serve(&mut memory, &tokens(0..8));
    memory.free(first);
    // Three blocks are needed beside the one that is shared, and the fourth is the one to copy from.
    let long: Vec<Token> = [tokens(0..6), tokens([9; 9])].concat();
    let (table, from) = copied(&mut memory, &long);
    assert_eq!((table.cached(), from), (4, None));
    free_all(&mut memory, [table]);
}

#[test]
fn a_pinned_prefix_serves_every_salt_and_stays() {
    let mut memory = manager(4, 8);
    let table = serve(&mut memory, &tokens(0..10));
    memory.pin(table);
    memory.check(&mut std::iter::empty()).unwrap();
    let stats = memory.stats();
    assert_eq!((stats.pinned, stats.used, stats.held), (2, 2, 2));
    let hog = serve(&mut memory, &tokens(50..74));
    assert_eq!(memory.free_blocks(), 0);
    memory.free(hog);

    // What comes after it belongs to the salt under which it was computed.
    let longer = tokens(0..14);
    for salt in [0, 7, 8] {
        assert_eq!(memory.match_prefix(&longer, Salt(salt)), 8);
        let of_salt = Claim { salt: Salt(salt), ..claim(&longer) };
        let mut table = memory.admit(&of_salt, &mut Vec::new()).unwrap();
        assert_eq!(table.cached(), 8);
        memory.publish(&mut table, &longer);
        assert_eq!(memory.match_prefix(&longer, Salt(salt)), 12);
        memory.check(&mut [&table].into_iter()).unwrap();
        memory.free(table);
    }
    // To pin it again, or more of it, takes only what is new.
    let mut table = memory.admit(&claim(&longer), &mut Vec::new()).unwrap();
    memory.publish(&mut table, &longer);
    memory.pin(table);
    assert_eq!(memory.stats().pinned, 3);
    assert_eq!(memory.match_prefix(&longer, Salt(9)), 12);
    memory.check(&mut std::iter::empty()).unwrap();
}

/// A swapped sequence goes on under its own salt, though all that is left of it on the device is everybody's.
#[test]
fn what_follows_a_pinned_prefix_keeps_its_salt_in_the_swap_space() {
    let mut memory = manager(4, 5).with_swap_space(5);
    let table = serve(&mut memory, &tokens(0..5));
    memory.pin(table);
    let prompt = tokens(0..9);
    let of_salt = Claim { salt: Salt(7), ..claim(&prompt) };
    let mut table = memory.admit(&of_salt, &mut Vec::new()).unwrap();
    memory.publish(&mut table, &prompt);
    let group = vec![Computed { table, computed: 9 }];
    let swapped = memory.swap_out(group, &mut Vec::new()).unwrap();
    let hog = serve(&mut memory, &tokens(50..66));
    memory.free(hog);

    let mut back = memory.swap_in(swapped, &mut Vec::new()).unwrap();
    assert_eq!(memory.stats().swap_reused, 1);
    memory.publish(&mut back[0], &prompt);
    assert_eq!([0, 7].map(|salt| memory.match_prefix(&prompt, Salt(salt))), [4, 8]);
    memory.check(&mut back.iter()).unwrap();
    free_all(&mut memory, back);
}
