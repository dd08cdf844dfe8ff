//! What is done by whom: units of work, so that long contexts are split and what rows share is read once.
//!
//! A partition's result is the same whoever computes it and whatever else the unit computes. So units are only a matter of speed.
//! Results of partitions that were computed on their own (*pieces*) wait in the call's scratch; the unit that finishes a row
//! merges them first to last and goes on with the row's other partitions.

use std::ops::Range;

use super::{AttendSpec, PARTITION, Sizes, visible};
use crate::kv::{Batch, BatchRow, KvShape};

/// Units per thread, at least, where there is enough to do: with fewer, threads wait for the one that has more.
const UNITS_PER_THREAD: usize = 4;
/// (token, head) pairs that keys and values are laid out for, at least, where there are so many.
const FEWEST_ROWS: usize = 32;
/// Shared partitions in a piece, at most, where there is enough to do.
const PIECE: usize = 4;
/// Floats that pieces may take; where more would be needed, less is shared and less is split.
pub(super) const MOST_PIECES: usize = 4 << 20;

/// A piece of work: all query heads of some kv heads, for some tokens and partitions.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(super) tokens: Tokens,
    /// Several where tokens are few: their keys lie together in a block, so memory is read in longer runs.
    pub(super) kv_heads: Range<usize>,
    pub(super) partitions: Range<usize>,
    /// Whether the results of the partitions are pieces; otherwise the unit finishes its row.
    pub(super) piece: bool,
}

/// Tokens that see the same blocks, as far as the partitions of the unit go.
#[derive(Clone, Debug)]
pub(super) enum Tokens {
    /// Some of one row of the batch.
    Chunk {
        /// Index of the batch's row.
        row: usize,
        /// Of the row's tokens.
        tokens: Range<usize>,
    },
    /// Of several rows of one token each, that see all of the partitions: a range of [`Plan::order`].
    Shared(Range<usize>),
}

impl Tokens {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Chunk { tokens, .. } => tokens.len(),
            Self::Shared(range) => range.len(),
        }
    }
}

/// Where the pieces of a row wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    pub(super) partitions: Range<usize>,
    at: usize,
}

impl Pieces {
    /// Where the result of a partition is, if it is a piece; a result has `size` floats.
    pub(super) fn at(&self, kv_head: usize, partition: usize, size: usize) -> usize {
        let Range { start, end } = self.partitions;
        self.at + (kv_head * (end - start) + partition - start) * size
    }
}

/// All of a call.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Units that can be done at once.
    pub(super) first: Vec<Unit>,
    /// Units that finish what has pieces.
    pub(super) then: Vec<Unit>,
    /// Rows of the batch that share partitions, neighbours having the most in common.
    pub(super) order: Vec<usize>,
    /// For each row of the batch.
    pub(super) pieces: Vec<Pieces>,
    /// Floats of all pieces.
    pub(super) floats: usize,
    /// Floats of scratch that a unit takes, at most.
    pub(super) scratch: usize,
}

/// What is asked for.
pub(super) struct Demand<'a> {
    pub(super) spec: &'a AttendSpec,
    pub(super) shape: &'a KvShape,
    pub(super) batch: &'a Batch<'a>,
    pub(super) sizes: Sizes,
}

impl Demand<'_> {
    /// Floats in the results of a token's partition, of all heads.
    fn result(&self) -> usize {
        self.shape.kv_heads * self.sizes.partial(self.sizes.group)
    }

    fn is_single(&self, row: usize) -> bool {
        self.batch.rows[row].tokens.len() == 1
    }
}

/// How work is cut up, so that every thread has some.
struct Portions {
    /// Tokens of a chunk.
    tokens: usize,
    /// Partitions that several rows share.
    shared: usize,
    /// Partitions of a token that is the only one of its row.
    partitions: usize,
    /// Kv heads, where tokens are few.
    kv_heads: usize,
}

impl Plan {
    pub(super) fn new(demand: &Demand<'_>, threads: usize) -> Self {
        let Demand { batch, sizes, .. } = *demand;
        let mut plan =
            Self { pieces: vec![Pieces::default(); batch.rows.len()], ..Self::default() };
        let shared = plan.share(demand);
        let taken: usize = plan.pieces.iter().map(|row| row.partitions.len()).sum();
        let mut spare = MOST_PIECES - taken * demand.result();
        let portions = plan.portions(demand, threads, &shared);
        for unit in shared {
            let few = sizes.is_few(unit.tokens.len());
            let each = if few { portions.kv_heads } else { 1 };
            for partitions in cut(unit.partitions.clone(), portions.shared) {
                for kv_heads in cut(unit.kv_heads.clone(), each) {
                    let (tokens, partitions) = (unit.tokens.clone(), partitions.clone());
                    plan.first.push(Unit { tokens, kv_heads, partitions, piece: true });
                }
            }
        }
        for row in 0..batch.rows.len() {
            if demand.is_single(row) {
                plan.add_token(demand, row, &portions, &mut spare);
            } else {
                plan.add_chunks(demand, row, portions.tokens);
            }
        }
        let scratch = |unit: &Unit| match unit.tokens.len() {
            few if sizes.is_few(few) => sizes.scratch(few, unit.kv_heads.len()),
            many => sizes.scratch(many, 1),
        };
        plan.scratch = plan.first.iter().chain(&plan.then).map(scratch).max().unwrap_or(0);
        let work = |unit: &Unit| {
            let Unit { tokens, kv_heads, partitions, .. } = unit;
            std::cmp::Reverse(partitions.len() * tokens.len() * kv_heads.len())
        };
        plan.first.sort_by_key(work);
        plan.then.sort_by_key(work);
        plan
    }

    fn portions(&self, demand: &Demand<'_>, threads: usize, shared: &[Unit]) -> Portions {
        let Demand { shape, batch, .. } = *demand;
        let enough = if threads == 1 { 1 } else { threads * UNITS_PER_THREAD };
        let tokens = tokens_each(demand, enough);
        let single = || {
            let rows = (0..batch.rows.len()).filter(|row| demand.is_single(*row));
            rows.map(|row| self.left(demand, row).len())
        };
        let partitions = (single().sum::<usize>() / enough).max(1);
        let shared_partitions: usize = shared.iter().map(|unit| unit.partitions.len()).sum();
        let shared = if shared_partitions / PIECE >= enough { PIECE } else { 1 };
        let many = batch.rows.iter().filter(|row| row.tokens.len() > 1);
        let chunks: usize = many.map(|row| row.tokens.len().div_ceil(tokens)).sum();
        let units = single().map(|left| left.div_ceil(partitions)).sum::<usize>()
            + shared_partitions / shared
            + chunks * shape.kv_heads;
        let mut kv_heads = shape.kv_heads;
        while kv_heads > 1 && units * shape.kv_heads.div_ceil(kv_heads) < enough {
            kv_heads = kv_heads.div_ceil(2);
        }
        Portions { tokens, shared, partitions, kv_heads }
    }

    /// Partitions of a row's only token that are not shared.
    fn left(&self, demand: &Demand<'_>, row: usize) -> Range<usize> {
        let start = demand.batch.rows[row].start;
        let seen = visible(demand.spec, start).start / PARTITION;
        seen.max(self.pieces[row].partitions.end)..(start + 1).div_ceil(PARTITION)
    }

    /// Adds what a row's only token has not shared, taken apart where it is much and the pieces have room.
    fn add_token(
        &mut self,
        demand: &Demand<'_>,
        row: usize,
        portions: &Portions,
        spare: &mut usize,
    ) {
        let heads = 0..demand.shape.kv_heads;
        let mut left = self.left(demand, row);
        let need = left.len() * demand.result();
        let long = left.len() > portions.partitions;
        let split = long && need <= *spare;
        let few = demand.sizes.is_few(1) && (split || !long);
        let each = if few { portions.kv_heads } else { 1 };
        let unit = |kv_heads, partitions, piece| {
            let tokens = Tokens::Chunk { row, tokens: 0..1 };
            Unit { tokens, kv_heads, partitions, piece }
        };
        if split {
            *spare -= need;
            for partitions in cut(left.clone(), portions.partitions) {
                let heads = cut(heads.clone(), each);
                self.first.extend(heads.map(|heads| unit(heads, partitions.clone(), true)));
            }
            let pieces = &mut self.pieces[row].partitions;
            let from = if pieces.start == pieces.end { left.start } else { pieces.start };
            *pieces = from..left.end;
            left.start = left.end;
        }
        let pieces = &mut self.pieces[row];
        pieces.at = self.floats;
        self.floats += pieces.partitions.len() * demand.result();
        let list = if pieces.partitions.is_empty() { &mut self.first } else { &mut self.then };
        // What is only to be merged is not read in runs.
        let each = if split { 1 } else { each };
        list.extend(cut(heads, each).map(|heads| unit(heads, left.clone(), false)));
    }

    /// Adds a row's tokens, `each` at a time.
    fn add_chunks(&mut self, demand: &Demand<'_>, row: usize, each: usize) {
        let BatchRow { start, tokens, .. } = &demand.batch.rows[row];
        for chunk in cut(0..tokens.len(), each) {
            let seen = visible(demand.spec, start + chunk.start).start / PARTITION;
            let partitions = seen..(start + chunk.end).div_ceil(PARTITION);
            let tokens = Tokens::Chunk { row, tokens: chunk };
            self.first.extend(cut(0..demand.shape.kv_heads, 1).map(|kv_heads| Unit {
                tokens: tokens.clone(),
                kv_heads,
                partitions: partitions.clone(),
                piece: false,
            }));
        }
    }

    /// Finds the rows that share whole partitions; returns a unit for every set of rows and partitions they share.
    fn share(&mut self, demand: &Demand<'_>) -> Vec<Unit> {
        let Demand { spec, shape, batch, sizes } = *demand;
        let alone = |row: &usize| {
            let row = &batch.rows[*row];
            // Whole partitions that the only token sees.
            row.tokens.len() == 1
                && row.start + 1 >= PARTITION
                && visible(spec, row.start).start == 0
        };
        let mut order: Vec<usize> = (0..batch.rows.len()).filter(alone).collect();
        let table = |row: usize| batch.table(&batch.rows[row]);
        order.sort_by(|&a, &b| table(a).cmp(table(b)));
        // Partitions that each row shares with the next one.
        let common: Vec<usize> = order
            .windows(2)
            .map(|pair| {
                let same = table(pair[0]).iter().zip(table(pair[1])).take_while(|(a, b)| a == b);
                let seen = pair.iter().map(|&row| batch.rows[row].start + 1).min().unwrap_or(0);
                (same.count() * shape.block_size).min(seen) / PARTITION
            })
            .collect();
        self.order = order;
        let mut units = Vec::new();
        // Runs of rows, and how many partitions of theirs are dealt with.
        let mut open = vec![(0..self.order.len(), 0)];
        let mut floats = 0;
        while let Some((rows, done)) = open.pop() {
            if rows.len() < 2 {
                continue;
            }
            let inner = &common[rows.start..rows.end - 1];
            let shared = inner.iter().copied().min().unwrap_or(0);
            let need = rows.len() * (shared - done) * demand.result();
            if floats + need > MOST_PIECES {
                continue;
            }
            floats += need;
            if shared > done {
                for row in &self.order[rows.clone()] {
                    self.pieces[*row].partitions = 0..shared;
                }
                for first in rows.clone().step_by(sizes.stacked()) {
                    let tokens = Tokens::Shared(first..(first + sizes.stacked()).min(rows.end));
                    let kv_heads = 0..shape.kv_heads;
                    units.push(Unit { tokens, kv_heads, partitions: done..shared, piece: true });
                }
            }
            let mut first = rows.start;
            for (i, &more) in (rows.start..).zip(inner) {
                if more == shared {
                    open.push((first..i + 1, shared));
                    first = i + 1;
                }
            }
            open.push((first..rows.end, shared));
        }
        units
    }
}

/// Tokens in a unit: many, so that keys and values are read and laid out seldom, but not so many that threads are idle.
fn tokens_each(demand: &Demand<'_>, enough: usize) -> usize {
    let units = |each| {
        let chunks = demand.batch.rows.iter().map(|row| row.tokens.len().div_ceil(each));
        chunks.sum::<usize>() * demand.shape.kv_heads
    };
    let Sizes { mut tokens, group, .. } = demand.sizes;
    while tokens * group > 2 * FEWEST_ROWS && units(tokens) < enough {
        tokens = tokens.div_ceil(2);
    }
    tokens
}

/// Ranges of up to `each` that make up `range`.
fn cut(range: Range<usize>, each: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(each).map(move |first| first..(first + each).min(end))
}
