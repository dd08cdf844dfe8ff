//! What is done by whom: units of work, so that long contexts are split and what rows share is read once.
//!
//! A partition's result is the same whoever computes it and whatever else the unit computes. So units are only a matter of speed.
//! Results of partitions that were computed on their own (*pieces*) wait in the call's scratch; the unit that finishes a row
//! merges them first to last and goes on with the row's other partitions.

use std::ops::Range;

use super::{AttendSpec, PARTITION, Sizes, visible};
use crate::kv::{Batch, BatchRow, KvShape};

/// Units below this many per thread leave threads idle, so that long contexts are split.
pub(super) const UNITS_PER_THREAD: usize = 2;
/// (token, head) pairs that keys and values are laid out for, at least, where there are so many.
const FEWEST_ROWS: usize = 32;
/// Shared partitions in a piece, at most, where there is enough to do.
const PIECE: usize = 4;
/// Floats that the results of shared partitions may take; what would take more is not shared.
pub(super) const MOST_SHARED: usize = 4 << 20;

/// A piece of work: all query heads of one kv head, for some tokens and partitions.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(super) tokens: Tokens,
    pub(super) kv_head: usize,
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
    /// The most tokens in a unit.
    pub(super) most_tokens: usize,
}

impl Plan {
    pub(super) fn new(
        spec: &AttendSpec,
        shape: &KvShape,
        batch: &Batch<'_>,
        sizes: Sizes,
        threads: usize,
    ) -> Self {
        let mut plan =
            Self { pieces: vec![Pieces::default(); batch.rows.len()], ..Self::default() };
        let shared = plan.share(spec, shape, batch, sizes);
        let each = tokens_each(shape, batch, sizes, threads);
        let busy = threads == 1 || units(shape, batch, each) >= threads * UNITS_PER_THREAD;
        for unit in shared {
            let Range { start, end } = unit.partitions;
            let piece = if busy { PIECE } else { 1 };
            for first in (start..end).step_by(piece) {
                let partitions = first..(first + piece).min(end);
                plan.first.push(Unit { partitions, ..unit.clone() });
            }
        }
        for row in 0..batch.rows.len() {
            plan.add_row(spec, shape, batch, row, Sizes { tokens: each, ..sizes }, !busy);
        }
        let tokens = plan.first.iter().chain(&plan.then).map(|unit| unit.tokens.len());
        plan.most_tokens = tokens.max().unwrap_or(1);
        let work = |unit: &Unit| std::cmp::Reverse(unit.partitions.len() * unit.tokens.len());
        plan.first.sort_by_key(work);
        plan.then.sort_by_key(work);
        plan
    }

    /// Adds what a row has not shared. A single token's partitions are taken apart where that is asked for.
    fn add_row(
        &mut self,
        spec: &AttendSpec,
        shape: &KvShape,
        batch: &Batch<'_>,
        row: usize,
        sizes: Sizes,
        split: bool,
    ) {
        let BatchRow { start, tokens, .. } = &batch.rows[row];
        let heads = 0..shape.kv_heads;
        for first in (0..tokens.len()).step_by(sizes.tokens) {
            let chunk = first..(first + sizes.tokens).min(tokens.len());
            let ready = self.pieces[row].partitions.clone();
            let seen = visible(spec, start + chunk.start).start / PARTITION;
            let mut left = seen.max(ready.end)..(start + chunk.end).div_ceil(PARTITION);
            let part = Tokens::Chunk { row, tokens: chunk };
            let unit = |kv_head, partitions, piece| Unit {
                tokens: part.clone(),
                kv_head,
                partitions,
                piece,
            };
            if split && tokens.len() == 1 && left.len() > 1 {
                for partition in left.clone() {
                    let pieces =
                        heads.clone().map(|head| unit(head, partition..partition + 1, true));
                    self.first.extend(pieces);
                }
                let from = if ready.is_empty() { left.start } else { ready.start };
                self.pieces[row].partitions = from..left.end;
                left.start = left.end;
            }
            let pieces = &mut self.pieces[row];
            let list = if pieces.partitions.is_empty() { &mut self.first } else { &mut self.then };
            pieces.at = self.floats;
            self.floats += pieces.partitions.len() * shape.kv_heads * sizes.partial(sizes.group);
            list.extend(heads.clone().map(|head| unit(head, left.clone(), false)));
        }
    }

    /// Finds the rows that share whole partitions; returns a unit for every kv head, set of rows and partitions they share.
    fn share(
        &mut self,
        spec: &AttendSpec,
        shape: &KvShape,
        batch: &Batch<'_>,
        sizes: Sizes,
    ) -> Vec<Unit> {
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
            let need = rows.len() * (shared - done) * shape.kv_heads * sizes.partial(sizes.group);
            if floats + need > MOST_SHARED {
                continue;
            }
            floats += need;
            if shared > done {
                for row in &self.order[rows.clone()] {
                    self.pieces[*row].partitions = 0..shared;
                }
                for first in rows.clone().step_by(sizes.stacked()) {
                    let tokens = Tokens::Shared(first..(first + sizes.stacked()).min(rows.end));
                    units.extend((0..shape.kv_heads).map(|kv_head| Unit {
                        tokens: tokens.clone(),
                        kv_head,
                        partitions: done..shared,
                        piece: true,
                    }));
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

/// Units of up to `each` tokens.
fn units(shape: &KvShape, batch: &Batch<'_>, each: usize) -> usize {
    batch.rows.iter().map(|row| row.tokens.len().div_ceil(each) * shape.kv_heads).sum()
}

/// Tokens in a unit: many, so that keys and values are read and laid out seldom, but not so many that threads are idle.
fn tokens_each(shape: &KvShape, batch: &Batch<'_>, sizes: Sizes, threads: usize) -> usize {
    let enough = threads * UNITS_PER_THREAD * 2;
    let mut each = sizes.tokens;
    while each * sizes.group > 2 * FEWEST_ROWS && units(shape, batch, each) < enough {
        each = each.div_ceil(2);
    }
    each
}
