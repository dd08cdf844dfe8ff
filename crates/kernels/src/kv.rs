//! The paged KV cache of all layers, and the batch that says which sequence's tokens live in which blocks.
//!
//! Layout: `[layer][block][K|V][kv head]` of runs `[slot][head_dim]`, head_dim padded with zeros to whole vectors; of int8, the
//! scales of its slots end a run. Rows of keys are contiguous, so appending, sharing and copying blocks is trivial at any block
//! size, and one (block, kv head) is one run of memory. Block ids are checked once per call, where a batch enters.

use std::ops::Range;

use crate::context::Context;
use crate::kv_dtype::{KvDtype, KvElement, with_kv_element};
use crate::lanes::LANES;
use crate::memory::{AllocError, Pages, Parts};
use crate::view::View;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Blocks in the pool.
    pub blocks: usize,
    /// Positions in a block.
    pub block_size: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Numbers in a head; a multiple of 8.
    pub head_dim: usize,
    /// How they are stored.
    pub dtype: KvDtype,
}

impl KvShape {
    /// Numbers from slot to slot.
    pub(crate) fn row(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Bytes of the keys or values of one head in one block: its slots, then their scales.
    pub(crate) fn run_bytes(&self) -> Option<usize> {
        let row = self.head_dim.checked_next_multiple_of(LANES)?.checked_mul(self.dtype.bytes())?;
        row.checked_add(self.dtype.scale_bytes())?.checked_mul(self.block_size)
    }

    /// Bytes in one block of one layer.
    pub(crate) fn layer_block_bytes(&self) -> Option<usize> {
        self.run_bytes()?.checked_mul(self.kv_heads)?.checked_mul(2)
    }

    /// Memory of one position in all layers, without what pads a head to whole vectors; `None` when the number does not fit.
    #[must_use]
    pub fn position_bytes(&self) -> Option<usize> {
        let head = self.head_dim.checked_mul(self.dtype.bytes())?;
        let both = head.checked_add(self.dtype.scale_bytes())?.checked_mul(2)?;
        both.checked_mul(self.kv_heads)?.checked_mul(self.layers)
    }

    /// Memory of one block in all layers, padding included; `None` when the number does not fit.
    #[must_use]
    pub fn block_bytes(&self) -> Option<usize> {
        self.layer_block_bytes()?.checked_mul(self.layers)
    }

    /// Memory of the whole cache; `None` when the number does not fit.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        self.block_bytes()?.checked_mul(self.blocks)
    }

    /// First byte of a run. `value` is 0 for keys, 1 for values. Nothing can overflow for ids inside the shape, because
    /// [`KvCache::new`] has allocated all of it.
    pub(crate) fn run(&self, layer: usize, block: usize, value: usize, kv_head: usize) -> usize {
        (((layer * self.blocks + block) * 2 + value) * self.kv_heads + kv_head)
            * self.run_bytes().unwrap_or(0)
    }

    /// Where in a run the scales begin.
    pub(crate) fn scales(&self) -> usize {
        self.block_size * self.row() * self.dtype.bytes()
    }

    /// Where one layer of a block lies in the cache's memory.
    fn bytes_of(&self, layer: usize, block: usize) -> Range<usize> {
        let start = self.run(layer, block, 0, 0);
        start..start + self.layer_block_bytes().unwrap_or(0)
    }

    fn check_transfer(&self, block: usize, bytes: usize) {
        assert!(block < self.blocks, "block {block} of {}", self.blocks);
        assert_eq!(Some(bytes), self.block_bytes(), "room for one block of all layers");
    }
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// Position of the first token in its sequence.
    pub start: usize,
    /// Rows of q, k, v and out that are these tokens; the i-th has position `start + i`.
    pub tokens: Range<usize>,
    /// The sequence's block table, a range of [`Batch::blocks`].
    pub blocks: Range<usize>,
}

/// The tokens of one step. Ranges of tokens ascend and do not overlap.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The sequences.
    pub rows: &'a [BatchRow],
    /// Their block tables, one after the other: position `p` is in entry `p / block_size`, slot `p % block_size`.
    pub blocks: &'a [u32],
}

impl Batch<'_> {
    /// Panics unless every token is one of `tokens` and has its block in the cache.
    pub(crate) fn check(&self, shape: &KvShape, tokens: usize) {
        let mut next = 0;
        for (i, row) in self.rows.iter().enumerate() {
            let BatchRow { start, tokens: range, blocks } = row;
            assert!(
                range.start >= next && range.end >= range.start,
                "row {i}: tokens {range:?} do not ascend"
            );
            next = range.end;
            assert!(next <= tokens, "row {i}: tokens {range:?} of {tokens}");
            let table = self.table(row);
            let need = (start + range.len()).div_ceil(shape.block_size);
            assert!(
                table.len() >= need,
                "row {i}: {} blocks of {need} for its positions",
                blocks.len()
            );
            let bad = table[..need].iter().find(|block| **block as usize >= shape.blocks);
            assert_eq!(bad, None, "row {i}: a block is not one of the cache's {}", shape.blocks);
        }
    }

    pub(crate) fn table(&self, row: &BatchRow) -> &[u32] {
        &self.blocks[row.blocks.clone()]
    }
}

/// The keys and values of all sequences.
#[derive(Debug)]
pub struct KvCache {
    data: Pages<u8>,
    shape: KvShape,
}

impl KvCache {
    /// A cache of zeros. Memory is taken by the system when a block is first written.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// When `head_dim` is not a multiple of 8, or anything but the number of blocks is zero.
    pub fn new(shape: KvShape) -> Result<Self, AllocError> {
        let KvShape { layers, block_size, kv_heads, head_dim, .. } = shape;
        assert!(layers > 0 && block_size > 0 && kv_heads > 0, "a KV cache of nothing: {shape:?}");
        assert!(
            head_dim > 0 && head_dim.is_multiple_of(8),
            "a head of {head_dim} numbers: must be a multiple of 8"
        );
        let bytes = shape.bytes().ok_or(AllocError { bytes: None })?;
        Ok(Self { data: Pages::zeroed(bytes)?, shape })
    }

    /// What it holds.
    #[must_use]
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// Writes the keys and values of the batch's tokens in one layer; `k` and `v` are `[tokens, kv_heads * head_dim]`.
    ///
    /// # Panics
    /// When shapes do not fit, there is no such layer, or a token has no block.
    pub fn store(
        &mut self,
        ctx: &Context,
        layer: usize,
        batch: &Batch<'_>,
        k: View<'_>,
        v: View<'_>,
    ) {
        let shape = self.shape;
        assert!(layer < shape.layers, "layer {layer} of {}", shape.layers);
        assert_eq!(k.rows(), v.rows(), "as many keys as values");
        for (name, view) in [("k", &k), ("v", &v)] {
            assert_eq!(
                view.width(),
                shape.kv_heads * shape.head_dim,
                "{name} has kv_heads * head_dim columns"
            );
        }
        batch.check(&shape, k.rows());
        let tokens: usize = batch.rows.iter().map(|row| row.tokens.len()).sum();
        with_kv_element!(shape.dtype, E => {
            let data = Parts::new(self.data.as_mut_slice());
            // One piece of work is a head's keys or values of all tokens: pieces lie apart in every block, so no two threads
            // write the same memory even if two rows name the same block.
            ctx.over_rows(2 * shape.kv_heads, tokens * shape.head_dim, |first, count| {
                for piece in first..first + count {
                    let (value, head) = (piece % 2, piece / 2);
                    let source = if value == 0 { k } else { v };
                    store_head::<E>(&shape, layer, batch, source, value, head, &data);
                }
            });
        });
    }

    /// Takes the memory of one layer of these blocks from the system before they are written. What they hold stays.
    ///
    /// # Panics
    /// When there is no such layer or block.
    pub fn populate(&mut self, layer: usize, blocks: Range<usize>) {
        let shape = self.shape;
        assert!(layer < shape.layers, "layer {layer} of {}", shape.layers);
        let inside = blocks.start <= blocks.end && blocks.end <= shape.blocks;
        assert!(inside, "blocks {blocks:?} of {}", shape.blocks);
        let start = shape.run(layer, blocks.start, 0, 0);
        self.data.populate(start..shape.run(layer, blocks.end, 0, 0));
    }

    /// Copies a block in all layers, keys and values.
    ///
    /// # Panics
    /// When a block is not in the cache.
    pub fn copy_block(&mut self, source: u32, destination: u32) {
        let shape = self.shape;
        let (source, destination) = (source as usize, destination as usize);
        let inside = source < shape.blocks && destination < shape.blocks;
        assert!(
            inside,
            "copy of block {source} to {destination} in a cache of {} blocks",
            shape.blocks
        );
        let data = self.data.as_mut_slice();
        for layer in 0..shape.layers {
            let to = shape.bytes_of(layer, destination).start;
            data.copy_within(shape.bytes_of(layer, source), to);
        }
    }

    /// Copies a block of all layers out, as it lies in memory: one run of keys and values per layer, layer after layer.
    ///
    /// # Panics
    /// When the block is not in the cache, or `out` is not [`KvShape::block_bytes`] long.
    pub fn read_block(&self, block: u32, out: &mut [u8]) {
        let (shape, block) = (self.shape, block as usize);
        shape.check_transfer(block, out.len());
        let data = self.data.as_slice();
        for (layer, run) in out.chunks_exact_mut(shape.layer_block_bytes().unwrap_or(1)).enumerate()
        {
            run.copy_from_slice(&data[shape.bytes_of(layer, block)]);
        }
    }

    /// Overwrites a block of all layers with what [`KvCache::read_block`] gave.
    ///
    /// # Panics
    /// When the block is not in the cache, or `bytes` is not [`KvShape::block_bytes`] long.
    pub fn write_block(&mut self, block: u32, bytes: &[u8]) {
        let (shape, block) = (self.shape, block as usize);
        shape.check_transfer(block, bytes.len());
        let data = self.data.as_mut_slice();
        for (layer, run) in bytes.chunks_exact(shape.layer_block_bytes().unwrap_or(1)).enumerate() {
            data[shape.bytes_of(layer, block)].copy_from_slice(run);
        }
    }

    /// The key and value of one slot, widened: for tests and inspection.
    ///
    /// # Panics
    /// When there is no such slot, or `k` or `v` is not `head_dim` long.
    pub fn read(
        &self,
        layer: usize,
        block: u32,
        slot: usize,
        kv_head: usize,
        k: &mut [f32],
        v: &mut [f32],
    ) {
        let shape = self.shape;
        let block = block as usize;
        let inside = layer < shape.layers && block < shape.blocks;
        assert!(
            inside && slot < shape.block_size && kv_head < shape.kv_heads,
            "no such slot in {shape:?}"
        );
        with_kv_element!(shape.dtype, E => {
            for (value, out) in [k, v].into_iter().enumerate() {
                assert_eq!(out.len(), shape.head_dim, "room for one head");
                let run = &self.bytes()[shape.run(layer, block, value, kv_head)..];
                let scale = if shape.dtype.scale_bytes() == 0 {
                    1.0
                } else {
                    bytemuck::pod_read_unaligned(&run[shape.scales() + slot * 4..][..4])
                };
                let row = &run[slot * shape.row() * size_of::<E>()..];
                for (out, x) in out.iter_mut().zip(row.chunks_exact(size_of::<E>())) {
                    *out = bytemuck::pod_read_unaligned::<E>(x).to_f32() * scale;
                }
            }
        });
    }
}

/// Writes one head's keys or values of all tokens.
fn store_head<E: KvElement>(
    shape: &KvShape,
    layer: usize,
    batch: &Batch<'_>,
    source: View<'_>,
    value: usize,
    head: usize,
    data: &Parts<'_, u8>,
) {
    let (dim, scale_bytes) = (shape.head_dim, shape.dtype.scale_bytes());
    for row in batch.rows {
        let table = batch.table(row);
        for (position, token) in (row.start..).zip(row.tokens.clone()) {
            let block = table[position / shape.block_size] as usize;
            let run = shape.run(layer, block, value, head);
            let slot = position % shape.block_size;
            let at = run + slot * shape.row() * size_of::<E>();
            // SAFETY: only this thread touches this head's keys (or values), and one slot at a time.
            let (row, place) = unsafe {
                (
                    data.part(at, dim * size_of::<E>()),
                    data.part(run + shape.scales() + slot * scale_bytes, scale_bytes),
                )
            };
            let scale =
                E::narrow(&source.row(token)[head * dim..][..dim], bytemuck::cast_slice_mut(row));
            if scale_bytes > 0 {
                place.copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}
