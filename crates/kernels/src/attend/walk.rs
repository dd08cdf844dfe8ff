//! Finds keys and values through the block table. This is where paging is paid for.

use std::ops::Range;

use super::unit::Unified;
use crate::kv::KvCache;
use crate::lanes::{LANES, Lanes};

/// Where the keys and values of a sequence lie in one layer.
pub(super) struct Places<'a> {
    table: &'a [u32],
    /// Block 0 of the layer.
    layer: *const u8,
    block_stride: usize,
    value_stride: usize,
    head_stride: usize,
    block_size: usize,
    pub(super) row_bytes: usize,
    /// Where in a run scales begin, and how large one is.
    scales: usize,
    scale_bytes: usize,
}

impl<'a> Places<'a> {
    pub(super) fn new(cache: &KvCache, layer: usize, table: &'a [u32]) -> Self {
        let shape = cache.shape();
        let head_stride = shape.run_bytes().unwrap_or(0);
        Self {
            table,
            layer: cache.bytes()[shape.run(layer, 0, 0, 0)..].as_ptr(),
            block_stride: shape.layer_block_bytes().unwrap_or(0),
            value_stride: shape.kv_heads * head_stride,
            head_stride,
            block_size: shape.block_size,
            row_bytes: shape.row() * shape.dtype.bytes(),
            scales: shape.scales(),
            scale_bytes: shape.dtype.scale_bytes(),
        }
    }
}

/// Walks one head's keys or values from a position on, through the block table.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    places: &'a Places<'a>,
    /// The run of block 0.
    base: *const u8,
    /// Entry of the table and slot of the next position.
    entry: usize,
    slot: usize,
}

impl<'a> Walk<'a> {
    /// Of the first head. `value` is 0 for keys, 1 for values.
    #[inline(always)]
    pub(super) fn new(u: &'a Unified<'_>, value: usize, position: usize) -> Self {
        let places = &u.places;
        let run = value * places.value_stride + u.heads.start * places.head_stride;
        Self {
            places,
            base: places.layer.wrapping_add(run),
            entry: position / places.block_size,
            slot: position % places.block_size,
        }
    }

    /// Where the row of the next position is.
    #[inline(always)]
    fn at(&self) -> *const u8 {
        let block = self.places.table[self.entry] as usize;
        let run = self.base.wrapping_add(block * self.places.block_stride);
        run.wrapping_add(self.slot * self.places.row_bytes)
    }

    /// The same positions of a head that comes later.
    #[inline(always)]
    pub(super) fn later_head(self, by: usize) -> Self {
        Self { base: self.base.wrapping_add(by * self.places.head_stride), ..self }
    }

    /// Goes on over as many of the positions `left`, which are the next, as one block holds in whole groups of sixteen, or sixteen
    /// where blocks are smaller; takes them from `left` and returns where they begin. All heads' rows of them lie together.
    #[inline(always)]
    pub(super) fn stretch(&mut self, left: &mut Range<usize>) -> Option<(Self, Range<usize>)> {
        if left.start >= left.end {
            return None;
        }
        let whole = (self.places.block_size - self.slot) / LANES * LANES;
        let count = whole.max(LANES).min(left.len());
        let (from, positions) = (*self, left.start..left.start + count);
        left.start = positions.end;
        self.slot += count;
        while self.slot >= self.places.block_size {
            self.entry += 1;
            self.slot -= self.places.block_size;
        }
        Some((from, positions))
    }

    /// Asks for the scales of the next sixteen positions, as far as they are in one block, if there are scales.
    #[inline(always)]
    pub(super) fn prefetch_scales<L: Lanes>(&self, l: L) {
        let Places { scales, scale_bytes, row_bytes, .. } = *self.places;
        if scale_bytes > 0 {
            let run = self.at().wrapping_sub(self.slot * row_bytes);
            l.prefetch(run.wrapping_add(scales + self.slot * scale_bytes));
        }
    }

    /// Rows of the next positions, which must be in the table: where the first is, and how many (at least one, at most `most`)
    /// follow one another in its block.
    #[inline(always)]
    pub(super) fn run(&mut self, most: usize) -> (*const u8, usize) {
        let at = self.at();
        let count = most.min(self.places.block_size - self.slot);
        self.slot += count;
        if self.slot == self.places.block_size {
            self.slot = 0;
            self.entry += 1;
        }
        (at, count)
    }

    /// Rows of the next sixteen positions, if they are in one block.
    #[inline(always)]
    pub(super) fn whole(&mut self) -> Option<*const u8> {
        (self.places.block_size - self.slot >= LANES).then(|| self.run(LANES).0)
    }

    /// Rows of the next sixteen positions, one after the other, of which the first `count` must be in the table; what the others
    /// hold is of no meaning. Where blocks are too small for that, they are put together in `gathered`, a row for each position.
    ///
    /// # Safety
    /// The first `count` positions must have blocks inside the cache.
    #[inline(always)]
    pub(super) unsafe fn group(&mut self, count: usize, gathered: &mut [f32]) -> *const u8 {
        if let Some(at) = self.whole() {
            return at;
        }
        let gathered: &mut [u8] = bytemuck::cast_slice_mut(gathered);
        let mut rest = &mut gathered[..LANES * self.places.row_bytes];
        let mut left = count;
        while left > 0 {
            let (at, run) = self.run(left);
            let (now, later) = rest.split_at_mut(run * self.places.row_bytes);
            // SAFETY: the rows of a run follow one another inside a block.
            now.copy_from_slice(unsafe { std::slice::from_raw_parts(at, now.len()) });
            (rest, left) = (later, left - run);
        }
        gathered.as_ptr()
    }

    /// Asks for the cache lines of the next `count` positions, which must be in the table.
    #[inline(always)]
    pub(super) fn prefetch<L: Lanes>(&mut self, l: L, mut count: usize) {
        while count > 0 {
            let (at, run) = self.run(count);
            for line in (0..run * self.places.row_bytes).step_by(LINE) {
                l.prefetch(at.wrapping_add(line));
            }
            count -= run;
        }
    }
}

/// Bytes in a cache line.
pub(super) const LINE: usize = 64;

/// Copies the scales of a head's keys or values of `out.len()` positions from `position` on, which must be in the table.
pub(super) fn scales(
    u: &Unified<'_>,
    value: usize,
    kv_head: usize,
    position: usize,
    out: &mut [f32],
) {
    let shape = u.job.cache.shape();
    let (first, size) = (shape.scales(), shape.dtype.scale_bytes());
    let (mut entry, mut slot) = (position / shape.block_size, position % shape.block_size);
    let mut rest = out;
    while !rest.is_empty() {
        let count = rest.len().min(shape.block_size - slot);
        let run = shape.run(u.job.layer, u.places.table[entry] as usize, value, kv_head);
        let (now, later) = rest.split_at_mut(count);
        let from = &u.job.cache.bytes()[run + first + slot * size..][..count * size];
        bytemuck::cast_slice_mut::<f32, u8>(now).copy_from_slice(from);
        (entry, slot, rest) = (entry + 1, 0, later);
    }
}
