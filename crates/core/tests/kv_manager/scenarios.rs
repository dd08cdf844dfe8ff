//! The rules of the block manager, one at a time.

use folio_core::ids::{BlockId, Salt, SwapSlot, Token};
use folio_core::kv::{
    BadConfig, BlockTable, Claim, Computed, Config, KvMemory, MAX_BLOCK_SIZE, MAX_CAPACITY,
    Manager, Short,
};
use folio_core::plan::CacheOp;

use crate::contents::{Contents, mark};

pub(crate) fn manager(block_size: u32, capacity: u32) -> Manager {
    Manager::new(Config { block_size, capacity, prefix_caching: true, secret: 5 }).unwrap()
}

pub(crate) fn tokens(ids: impl IntoIterator<Item = u32>) -> Vec<Token> {
    ids.into_iter().map(Token).collect()
}

pub(crate) fn claim(tokens: &[Token]) -> Claim<'_> {
    Claim { tokens, salt: Salt(0), use_prefix_cache: true, beside: 0, sequences: 1, longest: 100 }
}

/// Admits a prompt and publishes it, as the step that computes it would.
pub(crate) fn serve(memory: &mut Manager, tokens: &[Token]) -> BlockTable {
    let mut table = memory.admit(&claim(tokens), &mut Vec::new()).unwrap();
    memory.publish(&mut table, tokens);
    table
}

pub(crate) fn ids(table: &BlockTable) -> Vec<u32> {
    table.blocks().iter().map(|block| block.0).collect()
}

pub(crate) fn free_all(memory: &mut Manager, tables: impl IntoIterator<Item = BlockTable>) {
    tables.into_iter().for_each(|table| memory.free(table));
    memory.check(&mut std::iter::empty()).unwrap();
    assert_eq!(memory.free_blocks(), memory.capacity() - memory.stats().pinned);
}

#[test]
fn of_n_holders_of_a_partial_block_all_but_the_last_writer_copy_it() {
    for n in 1..=5usize {
        let mut memory = manager(4, 16);
        let prompt = tokens(0..7);
        let first = serve(&mut memory, &prompt);
        let mut tables: Vec<_> = (1..n).map(|_| memory.fork(&first)).collect();
        tables.push(first);
        let partial = tables[0].blocks()[1];
        let mut ops = Vec::new();
        for table in &mut tables {
            memory.append(table, 8, &mut ops).unwrap();
        }
        assert_eq!(ops.len(), n - 1);
        for (op, table) in ops.iter().zip(&tables) {
            assert_eq!(*op, CacheOp::Copy { source: partial, destination: table.blocks()[1] });
        }
        assert_eq!(tables[n - 1].blocks()[1], partial);
        assert_eq!(memory.stats().used as usize, 1 + n);
        assert_eq!(memory.stats().copies, ops.len() as u64);

        // From now on each has its own, and nothing more is copied.
        for table in &mut tables {
            memory.append(table, 11, &mut ops).unwrap();
        }
        assert_eq!(ops.len(), n - 1);
        free_all(&mut memory, tables);
    }
}

#[test]
fn a_full_last_block_stays_shared() {
    let mut memory = manager(4, 8);
    let mut first = serve(&mut memory, &tokens(0..8));
    let mut second = memory.fork(&first);
    let mut ops = Vec::new();
    memory.append(&mut first, 9, &mut ops).unwrap();
    memory.append(&mut second, 9, &mut ops).unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec![0, 1, 2], vec![0, 1, 3]));
    assert_eq!((ops.len(), memory.stats().shared), (0, 2));
    free_all(&mut memory, [first, second]);
}

#[test]
fn appending_no_positions_does_nothing() {
    let mut memory = manager(4, 3);
    let mut first = serve(&mut memory, &tokens(0..6));
    let second = memory.fork(&first);
    let mut ops = Vec::new();
    for upto in [0, 5, 6] {
        memory.append(&mut first, upto, &mut ops).unwrap();
    }
    assert_eq!((first.len(), ids(&first), ops.len()), (6, ids(&second), 0));
    free_all(&mut memory, [first, second]);
}

#[test]
fn a_hit_on_the_whole_prompt_leaves_a_token_to_compute() {
    let mut memory = manager(4, 8);
    let prompt = tokens(0..8);
    let table = serve(&mut memory, &prompt);
    for (length, cached) in [(0, 0), (1, 0), (4, 0), (5, 4), (7, 4), (8, 4)] {
        assert_eq!(memory.match_prefix(&prompt[..length], Salt(0)), cached, "{length} tokens");
    }
    assert_eq!(memory.match_prefix(&tokens(0..9), Salt(0)), 8);
    assert_eq!(memory.match_prefix(&tokens(0..9), Salt(1)), 0);
    free_all(&mut memory, [table]);
}

#[test]
fn nothing_is_found_before_it_is_published() {
    let mut memory = manager(4, 8);
    let prompt = tokens(0..9);
    let mut table = memory.admit(&claim(&prompt), &mut Vec::new()).unwrap();
    for (computed, cached) in [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8)] {
        memory.publish(&mut table, &prompt[..computed]);
        assert_eq!(memory.match_prefix(&prompt, Salt(0)), cached, "{computed} computed");
    }
    free_all(&mut memory, [table]);
}

#[test]
fn without_prefix_caching_nothing_is_found_and_nothing_is_kept() {
    let config = Config { block_size: 2, capacity: 4, prefix_caching: false, secret: 5 };
    let mut memory = Manager::new(config).unwrap();
    let prompt = tokens(0..5);
    let first = serve(&mut memory, &prompt);
    assert_eq!(memory.match_prefix(&prompt, Salt(0)), 0);
    memory.free(first);
    let second = serve(&mut memory, &prompt);
    assert_eq!(second.cached(), 0);
    free_all(&mut memory, [second]);
    let stats = memory.stats();
    assert_eq!((stats.cached_free, stats.prefix_queries, stats.evictions), (0, 0, 0));
}

#[test]
fn of_two_blocks_computed_at_once_the_first_is_found() {
    let mut memory = manager(2, 5);
    let prompt = tokens(0..3);
    let alone = Claim { use_prefix_cache: false, ..claim(&prompt) };
    let mut twins = [0, 1].map(|_| memory.admit(&alone, &mut Vec::new()).unwrap());
    for twin in &mut twins {
        memory.publish(twin, &prompt);
    }
    let [first, second] = twins;
    assert_eq!((ids(&first), ids(&second)), (vec![0, 1], vec![2, 3]));
    let third = serve(&mut memory, &prompt);
    assert_eq!(ids(&third), [0, 4]);
    free_all(&mut memory, [first, second, third]);
    // The full block and one of the three half-filled ones.
    assert_eq!(memory.stats().cached_free, 2);
}

#[test]
fn leaves_are_evicted_before_roots_and_the_least_recently_used_first() {
    let mut memory = manager(2, 7);
    let [old, new] = [tokens(10..16), tokens(20..26)];
    for prompt in [&old, &new, &old] {
        let table = serve(&mut memory, prompt);
        memory.free(table);
    }
    // `old` was used last, and copied what it could of its third block; each of the two has its three blocks.
    assert_eq!((memory.stats().cached_free, memory.stats().prefix_hits), (6, 5));
    let ask = |memory: &Manager, prompt: &[Token]| {
        memory.match_prefix(&[prompt, &[Token(0)]].concat(), Salt(0))
    };
    assert_eq!((ask(&memory, &old), ask(&memory, &new)), (6, 6));
    let evicted = memory.stats().evictions;
    let mut hog = serve(&mut memory, &tokens([7]));
    assert_eq!((ask(&memory, &old), ask(&memory, &new)), (6, 6));
    for left in [(6, 4), (6, 2), (6, 0), (4, 0), (2, 0), (0, 0)] {
        let upto = hog.len() + 2;
        memory.append(&mut hog, upto, &mut Vec::new()).unwrap();
        assert_eq!((ask(&memory, &old), ask(&memory, &new)), left);
    }
    assert_eq!(memory.stats().evictions - evicted, 6);
    free_all(&mut memory, [hog]);
}

#[test]
fn a_cached_block_that_nobody_holds_counts_as_a_free_one() {
    let mut memory = manager(4, 4);
    let prompt = tokens(0..9);
    let table = serve(&mut memory, &prompt);
    memory.free(table);
    let mut hog = serve(&mut memory, &tokens(50..53));
    assert_eq!((memory.free_blocks(), memory.match_prefix(&prompt, Salt(0))), (3, 8));
    // Two cached blocks and a new one.
    let again = memory.admit(&claim(&prompt), &mut Vec::new()).unwrap();
    assert_eq!((again.cached(), memory.free_blocks()), (8, 0));
    let full = Err(Short { need: 1, have: 0 });
    assert_eq!(memory.append(&mut hog, 5, &mut Vec::new()), full);
    assert_eq!(memory.admit(&claim(&prompt), &mut Vec::new()).map(drop), full);
    memory.free(hog);
    // Blocks that somebody holds cost nothing.
    let twin = memory.admit(&claim(&prompt), &mut Vec::new()).unwrap();
    assert_eq!(memory.stats().shared, 2);
    free_all(&mut memory, [again, twin]);
}

/// The last block of two holders is copied, given up, and at once overwritten by another copy: in that order.
#[test]
fn the_source_of_a_copy_may_become_the_destination_of_a_later_one() {
    let mut memory = manager(2, 3);
    let mut contents = Contents::new(2, 3, 0);
    let mut first = serve(&mut memory, &tokens([1]));
    let second = memory.fork(&first);
    let mut third = serve(&mut memory, &tokens([2]));
    let fourth = memory.fork(&third);
    let marks = [1, 2].map(|token| mark(0, Token(token)));
    contents.write(&ids(&first), 0, marks[0]);
    contents.write(&ids(&third), 0, marks[1]);

    let mut ops = Vec::new();
    memory.append(&mut first, 2, &mut ops).unwrap();
    memory.free(second);
    memory.append(&mut third, 2, &mut ops).unwrap();
    let copy = |source, destination| CacheOp::Copy {
        source: BlockId(source),
        destination: BlockId(destination),
    };
    assert_eq!(ops, [copy(0, 2), copy(1, 0)]);
    contents.execute(&ops);
    for (table, mark) in [(&first, marks[0]), (&third, marks[1]), (&fourth, marks[1])] {
        assert_eq!(contents.read(&ids(table), 0), Some(mark));
    }
    free_all(&mut memory, [first, third, fourth]);
}

/// Runs a group to its end in a memory of `capacity` blocks; the most blocks it held, or `Short`.
fn run_group(
    memory: &mut Manager,
    [prompt, longest, sequences]: [u32; 3],
    in_turns: bool,
) -> Result<u32, Short> {
    let tokens = tokens(0..prompt);
    let mut tables = vec![memory.admit(&claim(&tokens), &mut Vec::new())?];
    memory.publish(&mut tables[0], &tokens);
    for _ in 1..sequences {
        tables.push(memory.fork(&tables[0]));
    }
    let mut most = memory.stats().used;
    let turns: Vec<u32> = if in_turns { (prompt..=longest).collect() } else { vec![longest] };
    let mut result = Ok(());
    for upto in turns {
        for table in &mut tables {
            result = result.and_then(|()| memory.append(table, upto, &mut Vec::new()));
            most = most.max(memory.stats().used);
        }
    }
    free_all(memory, tables);
    result.map(|()| most)
}

#[test]
fn most_blocks_is_what_a_group_needs_and_not_one_more() {
    for block_size in 1..=5 {
        for prompt in 1..=11 {
            for longest in prompt..=prompt + 7 {
                for sequences in 1..=4 {
                    let group = [prompt, longest, sequences];
                    let most = manager(block_size, 1).most_blocks(prompt, longest, sequences);
                    let mut enough = manager(block_size, most);
                    assert_eq!(run_group(&mut enough, group, true), Ok(most), "{group:?}");
                    assert_eq!(run_group(&mut enough, group, false), Ok(most), "{group:?}");
                    if let Some(less) = most.checked_sub(1).filter(|&less| less > 0) {
                        let mut short = manager(block_size, less);
                        run_group(&mut short, group, true).unwrap_err();
                    }
                }
            }
        }
    }
}

#[test]
fn most_blocks_of_absurd_requests_is_absurd_and_no_overflow() {
    let memory = manager(1, 1);
    assert_eq!(memory.most_blocks(1, u32::MAX, 1), u32::MAX);
    assert_eq!(memory.most_blocks(7, u32::MAX, u32::MAX), u32::MAX);
    assert_eq!(memory.most_blocks(u32::MAX, 0, u32::MAX), u32::MAX);
}

#[test]
fn a_group_comes_back_as_it_left_and_only_what_was_lost_is_moved() {
    let mut memory = manager(4, 6).with_swap_space(4);
    let first = serve(&mut memory, &tokens(0..10));
    let second = memory.fork(&first);
    let mut ops = Vec::new();
    let group = [first, second].map(|table| Computed { table, computed: 10 });
    let swapped = memory.swap_out(group.into(), &mut ops).unwrap();
    let out = |source, slot| CacheOp::SwapOut { source: BlockId(source), slot: SwapSlot(slot) };
    assert_eq!(ops, [out(0, 0), out(1, 1), out(2, 2)]);
    assert_eq!((memory.stats().used, memory.stats().swap_used), (0, 3));

    // Somebody needs a block that cached something: the end of the prefix goes first.
    let hog = serve(&mut memory, &tokens(50..67));
    ops.clear();
    let (short, swapped) = memory.swap_in(swapped, &mut ops).unwrap_err();
    assert_eq!(short, Short { need: 3, have: 1 });
    memory.free(hog);
    let back = memory.swap_in(swapped, &mut ops).unwrap();
    let [CacheOp::SwapIn { slot: SwapSlot(1), .. }, CacheOp::SwapIn { slot: SwapSlot(2), .. }] =
        ops[..]
    else {
        panic!("{ops:?}")
    };
    assert_eq!(ids(&back[0]), ids(&back[1]));
    assert_eq!((back[0].len(), memory.stats().swap_used, memory.stats().swap_reused), (10, 0, 1));

    // What was moved is found again once the step has been made.
    assert_eq!(memory.match_prefix(&tokens(0..10), Salt(0)), 4);
    let [mut first, second] = back.try_into().unwrap();
    memory.publish(&mut first, &tokens(0..10));
    assert_eq!(memory.match_prefix(&tokens(0..10), Salt(0)), 8);
    free_all(&mut memory, [first, second]);
    memory.check_swapped(&mut std::iter::empty()).unwrap();
}

#[test]
fn a_group_that_the_swap_space_cannot_hold_stays() {
    let mut memory = manager(4, 6).with_swap_space(2);
    let table = serve(&mut memory, &tokens(0..10));
    let mut ops = Vec::new();
    let group = vec![Computed { table, computed: 10 }];
    let (short, mut group) = memory.swap_out(group, &mut ops).unwrap_err();
    assert_eq!((short, ops.len()), (Short { need: 3, have: 2 }, 0));
    // What was not computed need not be kept.
    group[0].computed = 8;
    let swapped = memory.swap_out(group, &mut ops).unwrap();
    assert_eq!((swapped[0].len(), swapped[0].slots().len(), memory.stats().used), (8, 2, 0));
    let held = memory.check_swapped(&mut std::iter::empty()).unwrap_err();
    assert_eq!(held, "slot 0 has 1 refs and is in 0 tables");
    swapped.into_iter().for_each(|table| memory.forget_swapped(table));
    memory.check_swapped(&mut std::iter::empty()).unwrap();
}

#[test]
fn sizes_out_of_bounds_are_refused_with_a_sentence() {
    let refused = |block_size, capacity| {
        let config = Config { block_size, capacity, prefix_caching: true, secret: 0 };
        Manager::new(config).map(drop).unwrap_err()
    };
    assert_eq!(refused(0, 1), BadConfig::BlockSize(0));
    assert_eq!(
        refused(MAX_BLOCK_SIZE + 1, 1).to_string(),
        "a block of 257 positions is not possible; choose 1 to 256"
    );
    assert_eq!(refused(16, 0).to_string(), "there is no memory for even one KV block");
    assert_eq!(refused(16, MAX_CAPACITY + 1), BadConfig::Capacity(MAX_CAPACITY + 1));
    for block_size in [1, MAX_BLOCK_SIZE] {
        assert_eq!(manager(block_size, 1).block_size(), block_size);
    }
}
