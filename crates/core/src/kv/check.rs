//! Every invariant of the block manager, checked against all tables that exist.
//!
//! The check trusts nothing but the tables it is given: it counts afresh what the manager keeps up to date. It runs after
//! every operation in tests, and in debug builds when the engine is idle.

use super::hash::{BlockHash, Chain};
use super::pool::Label;
use super::{BlockTable, Manager};
use crate::ids::BlockId;

/// What the tables say about one block.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// In how many tables it occurs.
    tables: u32,
    /// Its place in the tables.
    index: usize,
    /// How many of its positions the tables use.
    covered: u32,
    /// How many of the tables neither have published it nor await it from another.
    writers: u32,
}

/// # Errors
/// A sentence on the first invariant that does not hold.
pub(super) fn check(
    manager: &Manager,
    tables: &mut dyn Iterator<Item = &BlockTable>,
) -> Result<(), String> {
    manager.pool.check()?;
    let mut seen = vec![Seen::default(); manager.pool.capacity() as usize];
    for table in tables {
        check_table(manager, table)?;
        for (index, &block) in table.blocks().iter().enumerate() {
            count(manager, &mut seen, table, index, block)?;
        }
    }
    for (block, seen) in (0..).map(BlockId).zip(&seen) {
        let (refs, pinned) = (manager.pool.refs(block), manager.pool.is_pinned(block));
        if refs != seen.tables + u32::from(pinned) {
            return Err(format!("block {block} has {refs} refs and is in {} tables", seen.tables));
        }
        if pinned && manager.pool.hash(block).is_none() {
            return Err(format!("block {block} is pinned but cannot be found"));
        }
        let (label, writers) = (manager.pool.label(block), seen.writers);
        if matches!(label, Label::Promised(_)) && writers != 1 {
            return Err(format!("block {block} is promised but {writers} tables may write to it"));
        }
        let full = seen.covered == manager.block_size;
        if seen.tables > 0 && !full && label != Label::Blank {
            return Err(format!("block {block} is findable but a table may still write to it"));
        }
    }
    check_index(manager)?;
    check_kin(manager)
}

/// What can be said of a table by itself.
fn check_table(manager: &Manager, table: &BlockTable) -> Result<(), String> {
    let &BlockTable { ref blocks, len, cached, chain, .. } = table;
    if blocks.len() != manager.blocks_for(len) as usize {
        return Err(format!("a table of {len} positions has {} blocks", blocks.len()));
    }
    if cached > len {
        return Err(format!("{cached} positions of a table of {len} are cached"));
    }
    let Some(chain) = chain else { return Ok(()) };
    if chain.blocks > len / manager.block_size {
        return Err(format!("{} blocks are published of a table of {len} positions", chain.blocks));
    }
    if table.expected(0).count() != table.ahead.len() {
        return Err(format!("more blocks are expected of a table of {len} positions than it has"));
    }
    if chain.blocks < table.awaited && cached != chain.blocks * manager.block_size {
        return Err(format!(
            "a table waits behind {} blocks but {cached} are cached",
            chain.blocks
        ));
    }
    let last = chain.blocks.checked_sub(1).and_then(|last| blocks.get(last as usize));
    // Where the chain begins, its hash is not that of a block.
    if let Some(&block) = last.filter(|_| table.root != Some(chain))
        && manager.pool.hash(block).is_some_and(|hash| hash != chain.hash)
    {
        return Err(format!("block {block} was published under another hash"));
    }
    Ok(())
}

/// Tables may share a block only at the same place and, if it is partial, only while none has grown: the first that
/// grows gets a copy.
fn count(
    manager: &Manager,
    seen: &mut [Seen],
    table: &BlockTable,
    index: usize,
    block: BlockId,
) -> Result<(), String> {
    let Some(seen) = seen.get_mut(block.index()) else {
        return Err(format!("block {block} is in a table but does not exist"));
    };
    let start = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(manager.block_size);
    let covered = table.len().saturating_sub(start).min(manager.block_size);
    let writers = u32::from(index >= table.awaited.max(table.published()) as usize);
    if seen.tables == 0 {
        *seen = Seen { tables: 1, index, covered, writers };
        return Ok(());
    }
    if seen.index != index {
        return Err(format!("block {block} is in tables at {} and at {index}", seen.index));
    }
    if seen.covered != covered {
        let other = seen.covered;
        return Err(format!(
            "block {block} is shared: {other} of it by one table, {covered} by another"
        ));
    }
    seen.tables += 1;
    seen.writers += writers;
    Ok(())
}

/// An entry exists exactly while its block carries the hash.
fn check_index(manager: &Manager) -> Result<(), String> {
    let mut indexed = 0;
    for (hash, block) in manager.prefix.iter() {
        if block.0 >= manager.pool.capacity() || carries(manager, block) != Some(hash) {
            return Err(format!("block {block} is in the index but does not carry its hash"));
        }
        indexed += 1;
    }
    let hashed = (0..manager.pool.capacity())
        .filter(|&block| carries(manager, BlockId(block)).is_some())
        .count();
    if hashed != indexed {
        return Err(format!("{hashed} blocks carry a hash, {indexed} are in the index"));
    }
    Ok(())
}

/// What can be found continues the past that it is listed under, and contains the tokens that were noted.
fn check_kin(manager: &Manager) -> Result<(), String> {
    let Some(hasher) = manager.hasher else { return Ok(()) };
    let mut findable = 0;
    for block in (0..manager.pool.capacity()).map(BlockId) {
        let (label, parent) = (manager.pool.label(block), manager.kin.parent(block));
        findable += usize::from(matches!(label, Label::Ready(_) | Label::Partial(_)));
        let right = match (label, parent) {
            (Label::Blank | Label::Promised(_), parent) => parent.is_none(),
            (Label::Partial(_), Some(_)) => manager.pool.refs(block) == 0,
            (Label::Ready(hash), Some(parent)) => {
                let chain = Chain { blocks: 0, hash: parent };
                hasher.extend(chain, manager.kin.tokens(block)).hash == hash
            }
            (Label::Ready(_) | Label::Partial(_), None) => false,
        };
        if !right {
            return Err(format!("block {block} is {label:?} but was listed after {parent:?}"));
        }
    }
    let listed = manager.kin.check()?;
    if listed != findable {
        return Err(format!("{findable} blocks are findable, {listed} are listed by their past"));
    }
    Ok(())
}

fn carries(manager: &Manager, block: BlockId) -> Option<BlockHash> {
    match manager.pool.label(block) {
        Label::Blank | Label::Partial(_) => None,
        Label::Promised(hash) | Label::Ready(hash) => Some(hash),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Claim, Config, KvMemory};
    use super::*;
    use crate::ids::{Salt, Token};

    /// Two forks of a sequence of ten positions, in blocks of four, of which the first two are published.
    fn two_forks() -> (Manager, [BlockTable; 2]) {
        let config = Config { block_size: 4, capacity: 9, prefix_caching: true, secret: 1 };
        let mut manager = Manager::new(config).unwrap();
        let tokens: Vec<Token> = (0..10).map(Token).collect();
        let claim = Claim {
            tokens: &tokens,
            salt: Salt(0),
            use_prefix_cache: true,
            beside: 0,
            sequences: 2,
            longest: 10,
        };
        let mut table = manager.admit(&claim, &mut Vec::new()).unwrap();
        manager.publish(&mut table, &tokens);
        let fork = manager.fork(&table);
        (manager, [table, fork])
    }

    #[test]
    fn every_damage_is_reported() {
        type Damage = fn(&mut Manager, &mut [BlockTable; 2]);
        let damages: [(Damage, &str); 12] = [
            (|manager, _| manager.pool.hold(BlockId(1)), "block 1 has 3 refs and is in 2 tables"),
            (|manager, _| manager.pool.release(BlockId(1)), "block 1 has 1 refs and is in 2"),
            (|_, tables| tables[0].len += 4, "a table of 14 positions has 3 blocks"),
            (|_, tables| tables[0].len += 1, "block 2 is shared: 3 of it by one table, 2 by"),
            (|_, tables| tables[0].blocks.swap(0, 2), "block 0 is in tables at 2 and at 0"),
            (|_, tables| tables[0].blocks[2] = BlockId(1), "block 1 is in tables at 1 and at 2"),
            (|_, tables| tables[0].blocks[2] = BlockId(9), "block 9 is in a table but does not"),
            (|_, tables| tables[0].cached = 12, "12 positions of a table of 10 are cached"),
            (
                |_, tables| tables[0].chain.as_mut().unwrap().blocks = 3,
                "3 blocks are published of a table of 10 positions",
            ),
            (
                |_, tables| tables[0].chain.as_mut().unwrap().blocks = 1,
                "block 0 was published under another hash",
            ),
            (
                |manager, tables| manager.prefix.forget(tables[0].chain.unwrap().hash),
                "2 blocks carry a hash, 1 are in the index",
            ),
            (
                |manager, tables| {
                    let hash = tables[0].chain.unwrap().hash;
                    manager.prefix.forget(hash);
                    manager.prefix.insert(hash, BlockId(3));
                },
                "block 3 is in the index but does not carry its hash",
            ),
        ];
        for (damage, report) in damages {
            let (mut manager, mut tables) = two_forks();
            assert_eq!(manager.check(&mut tables.iter()), Ok(()));
            damage(&mut manager, &mut tables);
            let error = manager.check(&mut tables.iter()).unwrap_err();
            assert!(error.contains(report), "{error:?} does not say {report:?}");
            for table in tables {
                let _ = table.into_blocks();
            }
        }
    }

    #[test]
    fn a_published_block_with_room_is_reported() {
        let (mut manager, tables) = two_forks();
        let tail = tables[0].blocks[2];
        let chain = tables[0].chain.unwrap();
        let hash = super::super::hash::BlockHasher::new(9).extend(chain, &[Token(0)]).hash;
        manager.pool.set(tail, Label::Ready(hash));
        manager.prefix.insert(hash, tail);
        let error = manager.check(&mut tables.iter()).unwrap_err();
        assert!(error.contains("block 2 is findable but a table may still write to it"), "{error}");
        for table in tables {
            manager.free(table);
        }
    }

    #[test]
    fn every_damage_to_what_can_be_found_is_reported() {
        type Damage = fn(&mut Manager, &mut [BlockTable; 3]);
        let damages: [(Damage, &str); 6] = [
            (|manager, _| manager.pool.pin(BlockId(2)), "block 2 is pinned but cannot be found"),
            (|manager, _| manager.kin.disown(BlockId(1)), "block 1 is Ready"),
            (|manager, _| manager.kin.note(BlockId(1), 3, &[Token(99)]), "block 1 is Ready"),
            (|_, tables| tables[2].awaited = 2, "block 3 is promised but 2 tables may write to it"),
            (|_, tables| tables[2].cached = 9, "a table waits behind 2 blocks but 9 are cached"),
            (
                |_, tables| tables[2].ahead.resize(3, tables[2].chain.unwrap().hash),
                "more blocks are expected of a table of 13 positions than it has",
            ),
        ];
        for (damage, report) in damages {
            let (mut manager, [first, second]) = two_forks();
            // A third goes on otherwise after two blocks, and a fourth like the third.
            let tokens: Vec<Token> = (0..8).chain(20..25).map(Token).collect();
            let claim = Claim {
                tokens: &tokens,
                salt: Salt(0),
                use_prefix_cache: true,
                beside: 0,
                sequences: 1,
                longest: 13,
            };
            let third = manager.admit(&claim, &mut Vec::new()).unwrap();
            let fourth = manager.admit(&claim, &mut Vec::new()).unwrap();
            let mut tables = [first, second, fourth];
            let all = |tables: &[BlockTable; 3], manager: &Manager| {
                manager.check(&mut tables.iter().chain([&third]))
            };
            assert_eq!(all(&tables, &manager), Ok(()));
            damage(&mut manager, &mut tables);
            let error = all(&tables, &manager).unwrap_err();
            assert!(error.contains(report), "{error:?} does not say {report:?}");
            for table in tables.into_iter().chain([third]) {
                let _ = table.into_blocks();
            }
        }
    }

    #[test]
    fn a_table_that_nobody_shows_is_a_leak() {
        let (mut manager, [first, second]) = two_forks();
        let error = manager.check(&mut [&first].into_iter()).unwrap_err();
        assert_eq!(error, "block 0 has 2 refs and is in 1 tables");
        manager.free(second);
        assert_eq!(manager.check(&mut [&first].into_iter()), Ok(()));
        manager.free(first);
        assert_eq!(manager.check(&mut std::iter::empty()), Ok(()));
    }
}
