//! The arithmetic of attention for one unit of work.
//!
//! Few rows are worked on straight from the cache (see `few`). For many, keys of 64 positions at a time are widened and
//! transposed into panels of 16 positions, values into panels of 16 numbers of the head; then both products are those of linear
//! layers and use the same register tiles. The work of laying out is shared by all tokens of the unit and all query heads of
//! the group.
//!
//! Bits, whichever way: a score is one chain of fused multiply-adds over the head in order; the sum of weights runs in sixteen
//! lanes over positions modulo 16; an output is one chain over positions in order, begun anew in each partition. Of int8, scores
//! are multiplied by the key's scale after the chain, weights by the value's before theirs.

use std::ops::Range;

use super::ahead::Ahead;
use super::plan::Tokens;
use super::softmax::{Softmax, softmax};
use super::stage::{stage_keys, stage_values};
use super::walk::Places;
use super::{Job, PARTITION, STAGE, STAGED_SLACK, Sizes, Unit, few, padded, visible};
use crate::kv_dtype::with_kv_element;
use crate::lanes::{LANES, Lanes};
use crate::tile::{Deal, Dealt, RowMajor, StepMajor, Tile, size_within, tiles};

/// Scratch of one unit, cut up.
pub(super) struct Scratch<'a> {
    /// Register tiles of queries, `[head_dim][rows of the tile]` each.
    pub(super) queries: &'a mut [f32],
    /// `[rows][PARTITION]`
    pub(super) scores: &'a mut [f32],
    /// Of the partition's keys, then of its values.
    pub(super) scales: &'a mut [f32],
    /// Keys as `[STAGE / 16][row][16]`, values as `[row / 16][STAGE][16]`.
    staged: &'a mut [f32],
    /// Sixteen keys or values, where blocks are smaller than that.
    pub(super) gathered: &'a mut [f32],
    /// Of the current partition.
    pub(super) partition: Softmax<'a>,
    /// Of all partitions so far.
    total: Softmax<'a>,
}

impl<'a> Scratch<'a> {
    fn new(floats: &'a mut [f32], heads: usize, head_rows: usize, sizes: Sizes) -> Self {
        let rows = heads * head_rows;
        let (queries, rest) = floats.split_at_mut(heads * padded(head_rows) * sizes.head_dim);
        let (scores, rest) = rest.split_at_mut(heads * padded(head_rows) * PARTITION);
        let (scales, rest) = rest.split_at_mut(2 * PARTITION);
        let (staged, rest) = rest.split_at_mut(STAGE * sizes.row + STAGED_SLACK);
        let (gathered, rest) = rest.split_at_mut(LANES * sizes.row);
        let (partition, total) = rest.split_at_mut(sizes.partial(rows));
        let partition = Softmax::new(partition, rows, sizes);
        let total = Softmax::new(total, rows, sizes);
        Self { queries, scores, scales, staged, gathered, partition, total }
    }
}

/// What the steps of a unit have in common. Its rows are (token, query head) pairs: of the first kv head those of the first token,
/// of the second token and so on, then of the next kv head.
pub(super) struct Unified<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) unit: &'a Unit,
    /// Kv heads that are worked on together, of the unit's.
    pub(super) heads: Range<usize>,
    pub(super) sizes: Sizes,
    pub(super) places: Places<'a>,
}

impl<'a> Unified<'a> {
    fn new(job: &'a Job<'a>, unit: &'a Unit, heads: Range<usize>) -> Self {
        let first = match &unit.tokens {
            Tokens::Chunk { row, .. } => *row,
            Tokens::Shared(rows) => job.plan.order[rows.start],
        };
        let table = job.batch.table(&job.batch.rows[first]);
        let places = Places::new(job.cache, job.layer, table);
        Self { job, unit, heads, sizes: job.sizes, places }
    }

    pub(super) fn tokens(&self) -> usize {
        self.unit.tokens.len()
    }

    /// Rows of a kv head.
    pub(super) fn head_rows(&self) -> usize {
        self.tokens() * self.sizes.group
    }

    pub(super) fn rows(&self) -> usize {
        self.heads.len() * self.head_rows()
    }

    /// The token of a row, counted in the unit.
    pub(super) fn token(&self, row: usize) -> usize {
        row % self.head_rows() / self.sizes.group
    }

    pub(super) fn kv_head(&self, row: usize) -> usize {
        self.heads.start + row / self.head_rows()
    }

    /// The query head of a row.
    pub(super) fn head(&self, row: usize) -> usize {
        self.kv_head(row) * self.sizes.group + row % self.sizes.group
    }

    /// Index of the batch's row that a token of the unit is in, and which of its tokens it is.
    fn row_of(&self, token: usize) -> (usize, usize) {
        match &self.unit.tokens {
            Tokens::Chunk { row, tokens } => (*row, tokens.start + token),
            Tokens::Shared(rows) => (self.job.plan.order[rows.start + token], 0),
        }
    }

    pub(super) fn position(&self, token: usize) -> usize {
        let (row, token) = self.row_of(token);
        self.job.batch.rows[row].start + token
    }

    /// Positions from here on need not be in the table.
    pub(super) fn end(&self) -> usize {
        match &self.unit.tokens {
            Tokens::Chunk { .. } => self.position(self.tokens() - 1) + 1,
            Tokens::Shared(_) => self.unit.partitions.end * PARTITION,
        }
    }

    /// Positions that token `token` of the unit sees in a partition; maybe none.
    pub(super) fn seen(&self, token: usize, partition: usize) -> Range<usize> {
        intersect(visible(self.job.spec, self.position(token)), partition * PARTITION, PARTITION)
    }

    /// Positions of a partition that any token of the unit sees.
    pub(super) fn seen_by_any(&self, partition: usize) -> Range<usize> {
        let (first, last) = (self.seen(0, partition), self.seen(self.tokens() - 1, partition));
        first.start.min(last.start)..last.end.max(first.end)
    }

    /// The row of q and out of a token.
    fn place(&self, token: usize) -> usize {
        let (row, token) = self.row_of(token);
        self.job.batch.rows[row].tokens.start + token
    }

    /// Where the result of a token and kv head of a partition waits to be merged.
    fn piece(&self, token: usize, kv_head: usize, partition: usize) -> Softmax<'a> {
        let group = self.sizes.group;
        let size = self.sizes.partial(group);
        let at = self.job.plan.pieces[self.row_of(token).0].at(kv_head, partition, size);
        // SAFETY: each has its own place, where one unit writes before one other reads.
        Softmax::new(unsafe { self.job.pieces.part(at, size) }, group, self.sizes)
    }
}

/// What of `range` lies in `start .. start + length`; empty ranges begin and end at the nearer border.
fn intersect(range: Range<usize>, start: usize, length: usize) -> Range<usize> {
    let end = start + length;
    range.start.clamp(start, end)..range.end.clamp(start, end)
}

/// Attends for one unit: finishes its rows, or leaves pieces.
#[inline(always)]
pub(crate) fn unit<L: Lanes>(l: L, job: &Job<'_>, unit: &Unit, scratch: &mut [f32]) {
    let few = is_few::<L>(unit, job.sizes);
    let together = if few { unit.kv_heads.len() } else { 1 };
    for first in unit.kv_heads.clone().step_by(together) {
        let u = Unified::new(job, unit, first..first + together);
        let s = Scratch::new(scratch, together, u.head_rows(), u.sizes);
        heads(l, &u, few, s);
    }
}

/// Whether all tokens see the same positions, and are so few that they are worked on straight from the cache.
fn is_few<L: Lanes>(unit: &Unit, sizes: Sizes) -> bool {
    // Without vector instructions nothing is gained.
    if L::ROWS <= 4 {
        return false;
    }
    let rows = unit.tokens.len() * sizes.group;
    let alike = unit.tokens.len() == 1 || matches!(unit.tokens, Tokens::Shared(_));
    alike && rows <= few::MOST && few::padded(rows) <= L::ROWS
}

/// Attends for some heads of a unit.
#[inline(always)]
fn heads<L: Lanes>(l: L, u: &Unified<'_>, few: bool, mut s: Scratch<'_>) {
    let (unit, rows, group) = (u.unit, u.rows(), u.sizes.group);
    pack_queries(l, u, few, s.queries);
    s.total.clear();
    if !unit.piece {
        merge_pieces(l, u, &mut s);
    }
    let mut ahead = few.then(|| Ahead::new(l, u));
    for partition in unit.partitions.clone() {
        if let Some(ahead) = &mut ahead
            && L::ROWS > 4
        {
            few::scores(l, u, partition, ahead, &mut s);
        } else {
            scores(l, u, partition, &mut s);
        }
        l.call(
            #[inline(always)]
            || {
                softmax(l, u, partition, &mut s);
            },
        );
        if let Some(ahead) = &mut ahead
            && L::ROWS > 4
        {
            few::weigh(l, u, partition, ahead, &mut s);
        } else {
            weigh_values(l, u, partition, &mut s);
        }
        for row in 0..rows {
            let (token, kv_head) = (u.token(row), u.kv_head(row));
            if unit.piece {
                let mut piece = u.piece(token, kv_head, partition);
                piece.copy(row % group, &s.partition, row, u.sizes.row);
            } else if !u.seen(token, partition).is_empty() {
                s.total.merge(l, row, &s.partition, row, u.sizes.row);
            }
        }
    }
    if !unit.piece {
        write(u, &s.total);
    }
}

/// Merges what waits of the row that the unit finishes, first to last.
#[inline(always)]
fn merge_pieces<L: Lanes>(l: L, u: &Unified<'_>, s: &mut Scratch<'_>) {
    let (row, _) = u.row_of(0);
    for partition in u.job.plan.pieces[row].partitions.clone() {
        for row in 0..u.rows() {
            let piece = u.piece(0, u.kv_head(row), partition);
            s.total.merge(l, row, &piece, row % u.sizes.group, u.sizes.row);
        }
    }
}

/// Divides by the weights and writes the output.
#[inline(always)]
fn write(u: &Unified<'_>, total: &Softmax<'_>) {
    let Sizes { head_dim, row: width, .. } = u.sizes;
    for row in 0..u.rows() {
        let at = (u.place(u.token(row)) * u.job.spec.heads + u.head(row)) * head_dim;
        // SAFETY: each head of each token is finished by one unit.
        let out = unsafe { u.job.out.part(at, head_dim) };
        let inverse = 1.0 / total.weight[row];
        for (out, sum) in out.iter_mut().zip(&total.sums[row * width..]) {
            *out = sum * inverse;
        }
    }
}

#[inline(always)]
fn pack_queries<L: Lanes>(_: L, u: &Unified<'_>, few: bool, queries: &mut [f32]) {
    if few {
        let (rows, padded) = (u.head_rows(), few::padded(u.head_rows()));
        for head in 0..u.heads.len() {
            pack_tile(
                u,
                head * rows,
                rows,
                padded,
                &mut queries[head * padded * u.sizes.head_dim..],
            );
        }
        return;
    }
    let deal = Deal::new(u.rows(), L::ROWS);
    for i in 0..deal.tiles() {
        let Dealt { first, count, padded } = deal.tile(i);
        pack_tile(u, first, count, padded, &mut queries[first * u.sizes.head_dim..]);
    }
}

/// Queries of `count` rows from `first` on as `[head_dim][padded]`.
#[inline(always)]
fn pack_tile(u: &Unified<'_>, first: usize, count: usize, padded: usize, queries: &mut [f32]) {
    let head_dim = u.sizes.head_dim;
    let tile = &mut queries[..padded * head_dim];
    if count < padded {
        tile.fill(0.0);
    }
    for row in 0..count {
        let (token, head) = (u.token(first + row), u.head(first + row));
        let q = &u.job.q.row(u.place(token))[head * head_dim..][..head_dim];
        for (tile, q) in tile.chunks_exact_mut(padded).zip(q) {
            tile[row] = *q;
        }
    }
}

/// q·k of all rows and the positions of a partition that they see (and maybe some more).
#[inline(always)]
fn scores<L: Lanes>(l: L, u: &Unified<'_>, partition: usize, s: &mut Scratch<'_>) {
    let Sizes { group, head_dim, row: width, .. } = u.sizes;
    let seen = u.seen_by_any(partition);
    let origin = partition * PARTITION;
    for stage in (origin..origin + PARTITION).step_by(STAGE) {
        let here = intersect(seen.clone(), stage, STAGE);
        if here.is_empty() {
            continue;
        }
        let panels = (here.start - stage) / LANES..(here.end - stage).div_ceil(LANES);
        with_kv_element!(u.job.cache.shape().dtype, E => {
            let (panels, staged, gathered) = (panels.clone(), &mut *s.staged, &mut *s.gathered);
            l.call(#[inline(always)] || {
                stage_keys::<L, E>(l, u, stage, panels, here.end, staged, gathered);
            });
        });
        let deal = Deal::new(u.rows(), L::ROWS);
        for i in 0..deal.tiles() {
            let Dealt { first, count, padded } = deal.tile(i);
            // Its last row sees the most.
            let end = u.seen((first + count - 1) / group, partition).end;
            let end = end.saturating_sub(stage).div_ceil(LANES).min(panels.end);
            let column = stage - origin + panels.start * LANES;
            // SAFETY: the staged panels hold `width >= head_dim` steps (even: a multiple of 8), the queries of the tile
            // `head_dim * padded` floats, and the scores a row of PARTITION for each row and the padding.
            unsafe {
                let tile = Tile {
                    steps: head_dim,
                    first: true,
                    weights: s.staged[panels.start * width * LANES..].as_ptr(),
                    panel_stride: width * LANES,
                    x: s.queries[first * head_dim..].as_ptr(),
                    sums: s.scores[first * PARTITION + column..].as_mut_ptr(),
                    sums_stride: PARTITION,
                };
                let panels = end.saturating_sub(panels.start);
                tiles::<L, f32, StepMajor<false>>(l, &tile, padded, panels);
            }
        }
    }
}

/// Σ weight * value of all rows over the positions of a partition.
#[inline(always)]
fn weigh_values<L: Lanes>(l: L, u: &Unified<'_>, partition: usize, s: &mut Scratch<'_>) {
    let Sizes { group, row: width, .. } = u.sizes;
    let any = u.seen_by_any(partition);
    let origin = partition * PARTITION;
    for stage in (origin..origin + PARTITION).step_by(STAGE) {
        let here = intersect(any.clone(), stage, STAGE);
        if here.is_empty() {
            continue;
        }
        with_kv_element!(u.job.cache.shape().dtype, E => {
            l.call(#[inline(always)] || stage_values::<L, E>(l, u, stage, here, s.staged));
        });
        // Rows that see the same of it go together; only on the diagonal each token is on its own.
        let (first, last) = (u.seen(0, partition), u.seen(u.tokens() - 1, partition));
        let alike = first.start == last.start
            && intersect(first, stage, STAGE) == intersect(last, stage, STAGE);
        let (bands, rows) = if alike { (1, u.rows()) } else { (u.tokens(), group) };
        for band in 0..bands {
            let seen = u.seen(band, partition);
            let here = intersect(seen.clone(), stage, STAGE);
            if here.is_empty() {
                continue;
            }
            let mut done = 0;
            while done < rows {
                let row = band * group + done;
                let count = size_within(rows - done, L::ROWS);
                done += count;
                // SAFETY: positions `here` of each panel are staged, and one more may be read because of the slack; scores and
                // sums have a row for each row.
                unsafe {
                    let tile = Tile {
                        steps: here.len(),
                        first: here.start == seen.start,
                        weights: s.staged[(here.start - stage) * LANES..].as_ptr(),
                        panel_stride: STAGE * LANES,
                        x: s.scores[row * PARTITION + here.start - origin..].as_ptr(),
                        sums: s.partition.sums[row * width..].as_mut_ptr(),
                        sums_stride: width,
                    };
                    tiles::<L, f32, RowMajor<PARTITION>>(l, &tile, count, width / LANES);
                }
            }
        }
    }
}
