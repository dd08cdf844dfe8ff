//! The block manager: the paper's verbs, and nothing that is not about blocks.
//!
//! **Operations and their hazards.** What `admit`, `append`, `swap_out` and `swap_in` queue is executed before the step's
//! forward pass, strictly in the order of the queue; meanwhile planning goes on, and blocks and slots change hands. Nothing
//! that happens later in planning can spoil an operation:
//!
//! - *The source is given up* and handed out again in the same step: the shared block by its remaining holders, a block that
//!   is swapped out by `swap_out` itself, a slot by `swap_in`, a cached block that nobody holds after `admit`. As the destination of an operation it is overwritten by one that stands later in the queue; as a new
//!   block of a row it is overwritten in the forward pass. Both are after it was read.
//! - *The destination is given up* (its sequence is preempted in the step that un-shared it) and handed out again. Whoever
//!   gets it writes later, by the same argument, and a late write into a block that nobody holds does no harm: such a block
//!   is blank, for taking it removed its label, and a new one comes only from what was published, after the step.
//! - *The destination is swapped out in the same step*: its `SwapOut` stands later in the queue. So the operations of a table
//!   that is swapped out must stay in the queue; those of a table that is freed may be cut off, if none follow.
//! - *The last holder writes in place* without a copy: in the forward pass, when all copies of the block have been made.
//! - *A source is read before it was written?* Only if a table is forked, published or swapped out while positions that
//!   count as computed are still to be computed by the coming step. The rules of [`KvMemory`] forbid that.
//!
//! What never happens is a write to a block whose contents can be found: only full blocks are published, half-filled ones
//! only when they are given up, rows write only positions that were not computed, and `append` makes writable only positions
//! after the last. A block that is only promised is written by the table that promised it (see [`super::promise`]).
//!
//! When a step fails, its operations may not have been made: every table that was admitted, appended to or swapped in for it
//! must be freed, and every table that was swapped out for it be forgotten.

use super::hash::{BlockHasher, Chain};
use super::kin::Kin;
use super::lookup::{Found, Start};
use super::pool::{Label, Pool, Taken};
use super::prefix::PrefixIndex;
use super::swap::{self, SwapSpace};
use super::{
    BadConfig, BlockTable, Change, Claim, Computed, Config, KvMemory, KvStats, MAX_BLOCK_SIZE,
    MAX_CAPACITY, Short, SwappedTable, check, most_paged_blocks,
};
use crate::count;
use crate::ids::{BlockId, Token};
use crate::plan::CacheOp;

/// The paged memory of the paper: fixed-size blocks, tables, sharing and copy-on-write.
///
/// | verb | what it does |
/// |---|---|
/// | [`match_prefix`](Self::match_prefix) | asks how much of a prompt is already computed |
/// | [`admit`](KvMemory::admit) | a table for a prompt: cached blocks first, new ones after |
/// | [`await_prefix`](KvMemory::await_prefix) | asks whether another table is still computing blocks that this one shares |
/// | [`append`](KvMemory::append) | room for more positions; un-shares the last block, *returning* the copy to make |
/// | [`fork`](KvMemory::fork) | a second table over the same blocks |
/// | [`extend_cached`](KvMemory::extend_cached) | the cached blocks in which a sequence goes on that was computed before |
/// | [`publish`](KvMemory::publish) | full blocks become findable, once their KV has been written |
/// | [`swap_out`](KvMemory::swap_out), [`swap_in`](KvMemory::swap_in) | a whole group leaves the device and comes back, sharing as before |
/// | [`pin`](KvMemory::pin) | full blocks stay for good, and serve every salt |
/// | [`free`](KvMemory::free) | the blocks go back, the last one first; those with a hash keep it until they are needed |
///
/// It moves no data: copies are [`CacheOp`]s for an executor. Each verb succeeds, or returns [`Short`] having changed nothing.
/// `cargo run -p folio-core --example paging` drives the verbs without a model and prints what they do.
///
/// ```
/// use folio_core::ids::{Salt, Token};
/// use folio_core::kv::{Claim, Config, KvMemory, Manager};
/// use folio_core::plan::CacheOp;
///
/// let config = Config { block_size: 4, capacity: 8, prefix_caching: true, secret: 1 };
/// let mut memory = Manager::new(config)?;
/// let mut ops = Vec::new();
/// let mut tokens: Vec<Token> = (0..6).map(Token).collect();
/// let claim = |tokens| Claim {
///     tokens,
///     salt: Salt(0),
///     use_prefix_cache: true,
///     beside: 0,
///     sequences: 2,
///     longest: 7,
/// };
///
/// // A prompt of six tokens takes two blocks; once computed, the full one can be found by others.
/// let mut first = memory.admit(&claim(&tokens), &mut ops)?;
/// assert_eq!((first.blocks().len(), first.cached()), (2, 0));
/// memory.publish(&mut first, &tokens);
///
/// // A second sample shares both blocks. The first to write gets its own copy of the partial one ...
/// let mut second = memory.fork(&first);
/// memory.append(&mut first, 7, &mut ops)?;
/// let [CacheOp::Copy { source, destination }] = ops[..] else { panic!("one copy") };
/// assert_eq!((source, destination), (second.blocks()[1], first.blocks()[1]));
///
/// // ... and the last one writes in place.
/// memory.append(&mut second, 7, &mut ops)?;
/// assert_eq!(ops.len(), 1);
/// assert_eq!(memory.stats().used, 3);
///
/// // When both are gone, the same prompt finds its first block again.
/// memory.free(first);
/// memory.free(second);
/// assert_eq!(memory.free_blocks(), 8);
/// assert_eq!(memory.match_prefix(&tokens, Salt(0)), 4);
/// tokens.truncate(4); // of a prompt that is cached whole, the last block is left to compute
/// assert_eq!(memory.match_prefix(&tokens, Salt(0)), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Manager {
    pub(super) block_size: u32,
    pub(super) pool: Pool,
    pub(super) prefix: PrefixIndex,
    pub(super) kin: Kin,
    /// Absent when blocks are not to be found by what they contain.
    pub(super) hasher: Option<BlockHasher>,
    prefix_queries: u64,
    prefix_hits: u64,
    evictions: u64,
    copies: u64,
    partial_hits: u64,
    pub(super) swap: SwapSpace,
    /// What nobody has taken yet; absent when nobody is going to.
    pub(super) changes: Option<Vec<Change>>,
    pub(super) swapped_out: u64,
    pub(super) swapped_in: u64,
    pub(super) swap_reused: u64,
}

impl Manager {
    /// Memory in which all blocks are free.
    ///
    /// # Errors
    /// When a size is out of bounds; see [`Config`].
    pub fn new(config: Config) -> Result<Self, BadConfig> {
        let Config { block_size, capacity, prefix_caching, secret } = config;
        if !(1..=MAX_BLOCK_SIZE).contains(&block_size) {
            return Err(BadConfig::BlockSize(block_size));
        }
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(BadConfig::Capacity(capacity));
        }
        Ok(Self {
            block_size,
            pool: Pool::new(capacity),
            prefix: PrefixIndex::default(),
            kin: Kin::new(block_size, if prefix_caching { capacity } else { 0 }),
            hasher: prefix_caching.then(|| BlockHasher::new(secret)),
            prefix_queries: 0,
            prefix_hits: 0,
            evictions: 0,
            copies: 0,
            partial_hits: 0,
            swap: SwapSpace::default(),
            changes: None,
            swapped_out: 0,
            swapped_in: 0,
            swap_reused: 0,
        })
    }

    /// The same memory with room for `slots` blocks outside the device. Without it nothing can be swapped.
    #[must_use]
    pub fn with_swap_space(mut self, slots: u32) -> Self {
        self.swap = SwapSpace::new(slots);
        self
    }

    pub(super) fn blocks_for(&self, positions: u32) -> u32 {
        positions.div_ceil(self.block_size)
    }

    pub(super) fn room_for(&self, need: u32) -> Result<(), Short> {
        let have = self.pool.free();
        if need > have { Err(Short { need, have }) } else { Ok(()) }
    }

    /// Takes a block that [`Self::room_for`] has promised.
    pub(super) fn take(&mut self) -> BlockId {
        let Taken { block, evicted } = self.pool.take().expect("the free blocks were counted");
        match evicted {
            Label::Ready(hash) => {
                self.prefix.forget(hash);
                self.tell_removed(hash);
            }
            Label::Partial(_) => {}
            Label::Blank | Label::Promised(_) => return block,
        }
        self.kin.disown(block);
        self.evictions += 1;
        block
    }

    /// The last block, if it has room for more positions and others hold it, too.
    fn shared_tail(&self, table: &BlockTable) -> Option<BlockId> {
        if table.len.is_multiple_of(self.block_size) {
            return None;
        }
        let tail = table.blocks.last().copied()?;
        debug_assert!(
            self.pool.label(tail) == Label::Blank,
            "block {tail} is published but not full"
        );
        (self.pool.refs(tail) > 1).then_some(tail)
    }
}

impl KvMemory for Manager {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn capacity(&self) -> u32 {
        self.pool.capacity()
    }

    fn free_blocks(&self) -> u32 {
        self.pool.free()
    }

    fn most_blocks(&self, prompt: u32, longest: u32, sequences: u32) -> u32 {
        most_paged_blocks(self.block_size, prompt, longest, sequences)
    }

    fn admit(&mut self, claim: &Claim<'_>, ops: &mut Vec<CacheOp>) -> Result<BlockTable, Short> {
        let Ok(len) = u32::try_from(claim.tokens.len()) else {
            return Err(Short { need: u32::MAX, have: self.pool.free() });
        };
        let found = self.lookup(claim);
        let known = found.as_ref().map_or(&[][..], |found| &found.blocks);
        // A cached block that nobody holds is one of the free ones, and counts as taken like a new one.
        let held = known.iter().filter(|&&block| self.pool.refs(block) > 0).count();
        let need = self.blocks_for(len) - u32::try_from(held).unwrap_or(u32::MAX);
        self.room_for(need.saturating_add(claim.beside))?;
        let start = found.as_ref().and_then(|found| self.start(claim, found));
        // The block that is copied is held meanwhile, too: without room for that it is not worth it.
        let start = start.filter(|start| {
            need + u32::from(self.pool.refs(start.source) == 0) <= self.pool.free()
        });

        // The cached ones first, so that none of them is evicted to make a new one.
        for block in known.iter().copied().chain(start.map(|start| start.source)) {
            self.pool.hold(block);
        }
        let new = self.blocks_for(len) - count(known);
        let mut table = BlockTable::from_parts(Vec::new(), len, 0);
        if let Some(Found { blocks, chain, ahead, root }) = found {
            table.awaited = count(&blocks);
            table.cached = chain.blocks * self.block_size;
            table.noted = table.cached;
            (table.blocks, table.ahead) = (blocks, ahead);
            (table.chain, table.root) = (Some(chain), Some(root));
        }
        let known = table.blocks.len();
        table.blocks.extend((0..new).map(|_| self.take()));
        self.promise_own(&table, table.awaited);
        let mut hits = table.awaited * self.block_size;
        if let (Some(Start { source, alike }), Some(&destination)) =
            (start, table.blocks.get(known))
        {
            self.pool.release(source);
            ops.push(CacheOp::Copy { source, destination });
            table.cached += alike;
            hits += alike;
            self.partial_hits += 1;
        }
        if table.chain.is_some() && claim.use_prefix_cache {
            self.prefix_queries += u64::from(len);
            self.prefix_hits += u64::from(hits);
        }
        Ok(table)
    }

    fn await_prefix(&mut self, table: &mut BlockTable) -> bool {
        self.await_promises(table)
    }

    fn append(
        &mut self,
        table: &mut BlockTable,
        upto: u32,
        ops: &mut Vec<CacheOp>,
    ) -> Result<(), Short> {
        if upto <= table.len {
            return Ok(());
        }
        let new = self.blocks_for(upto) - self.blocks_for(table.len);
        let shared = self.shared_tail(table);
        self.room_for(new + u32::from(shared.is_some()))?;

        if let (Some(source), Some(tail)) = (shared, table.blocks.last_mut()) {
            let destination = self.take();
            *tail = destination;
            table.noted = table.noted.min(table.len - table.len % self.block_size);
            self.pool.release(source);
            ops.push(CacheOp::Copy { source, destination });
            self.copies += 1;
        }
        table.blocks.extend((0..new).map(|_| self.take()));
        table.len = upto;
        Ok(())
    }

    fn fork(&mut self, table: &BlockTable) -> BlockTable {
        // All that the table was to compute has been published, or it was not to be forked yet.
        debug_assert!(
            !self.owes(table) && table.awaited <= table.published(),
            "a table is forked before it has been computed"
        );
        for &block in &table.blocks {
            self.pool.hold(block);
        }
        let &BlockTable { ref blocks, len, cached, chain, root, .. } = table;
        let mut fork = BlockTable::from_parts(blocks.clone(), len, cached);
        (fork.chain, fork.root, fork.noted) = (chain, root, table.noted);
        fork
    }

    fn extend_cached(&mut self, table: &mut BlockTable, tokens: &[Token]) {
        self.go_on_cached(table, tokens);
    }

    fn publish(&mut self, table: &mut BlockTable, computed: &[Token]) {
        let (Some(hasher), Some(mut chain)) = (self.hasher, table.chain) else { return };
        debug_assert!(computed.len() <= table.len as usize, "more was computed than there is");
        let block_size = self.block_size as usize;
        let computed = &computed[..computed.len().min(table.len as usize)];
        self.note(table, computed);
        let done = chain.blocks as usize;
        let unpublished = computed.get(done * block_size..).unwrap_or_default();
        for (&block, tokens) in
            table.blocks[done..].iter().zip(unpublished.chunks_exact(block_size))
        {
            debug_assert!(chain.blocks >= table.awaited, "{block} was promised by another table");
            let past = chain;
            // Whatever was promised has been hashed already.
            chain = match table.ahead.pop_front() {
                Some(hash) => Chain { blocks: chain.blocks + 1, hash },
                None => hasher.extend(chain, tokens),
            };
            match self.pool.label(block) {
                Label::Promised(_) => {}
                Label::Blank if self.prefix.get(chain.hash).is_none() => {
                    self.prefix.insert(chain.hash, block);
                }
                // Another sequence has computed the same, or is about to: the first is kept.
                Label::Blank | Label::Partial(_) => continue,
                // A fork has published the block.
                Label::Ready(own) => {
                    debug_assert!(own == chain.hash, "{block} changed");
                    continue;
                }
            }
            self.pool.set(block, Label::Ready(chain.hash));
            self.kin.adopt(past.hash, block);
            self.tell_stored(table, past, chain.hash, tokens);
        }
        table.chain = Some(chain);
    }

    fn free(&mut self, table: BlockTable) {
        self.withdraw(&table);
        self.offer_tail(&table);
        // From the last to the first: of a cached prefix the ends are lost before the start they hang on.
        for block in table.into_blocks().into_iter().rev() {
            self.pool.release(block);
        }
    }

    fn swap_out(
        &mut self,
        tables: Vec<Computed>,
        ops: &mut Vec<CacheOp>,
    ) -> Result<Vec<SwappedTable>, (Short, Vec<Computed>)> {
        swap::swap_out(self, tables, ops)
    }

    fn swap_in(
        &mut self,
        tables: Vec<SwappedTable>,
        ops: &mut Vec<CacheOp>,
    ) -> Result<Vec<BlockTable>, (Short, Vec<SwappedTable>)> {
        swap::swap_in(self, tables, ops)
    }

    fn forget_swapped(&mut self, table: SwappedTable) {
        swap::forget(self, table);
    }

    fn pin(&mut self, table: BlockTable) {
        self.pin_published(table);
    }

    fn take_changes(&mut self, into: &mut Vec<Change>) {
        if let Some(changes) = &mut self.changes {
            into.append(changes);
        }
    }

    fn stats(&self) -> KvStats {
        let (total, free) = (self.pool.capacity(), self.pool.free());
        KvStats {
            total,
            free,
            cached_free: self.pool.cached_free(),
            used: total - free,
            shared: self.pool.shared(),
            prefix_queries: self.prefix_queries,
            prefix_hits: self.prefix_hits,
            evictions: self.evictions,
            copies: self.copies,
            partial_hits: self.partial_hits,
            held: self.pool.held(),
            pinned: self.pool.pinned(),
            swap_total: self.swap.total(),
            swap_used: self.swap.total() - self.swap.free(),
            swapped_out: self.swapped_out,
            swapped_in: self.swapped_in,
            swap_reused: self.swap_reused,
        }
    }

    fn check(&self, tables: &mut dyn Iterator<Item = &BlockTable>) -> Result<(), String> {
        check::check(self, tables)
    }

    fn check_swapped(&self, tables: &mut dyn Iterator<Item = &SwappedTable>) -> Result<(), String> {
        swap::check(self, tables)
    }
}
