//! Quantised tensors of a GGUF file as codes, scales and minima, exactly as they are stored.
//!
//! Nibbles lie split in the file: of a run of `2 n` elements the first `n` are the low halves of `n` bytes, the others the high
//! halves. Fifth and sixth bits lie apart. See `ggml-quants.c` for the definitions.

use folio_kernels::{CodeFormat, CodeRow, CodeSource};
use half::f16;

use super::kind::Kind;

/// A quantised `[outputs, inputs]` tensor in a file.
#[derive(Clone, Copy, Debug)]
pub struct BlockMatrix<'a> {
    kind: Kind,
    format: CodeFormat,
    outputs: usize,
    inputs: usize,
    bytes: &'a [u8],
}

impl<'a> BlockMatrix<'a> {
    /// `None` for a kind without codes, or when `bytes` are not whole blocks of so many rows and columns.
    #[must_use]
    pub fn new(kind: Kind, outputs: usize, inputs: usize, bytes: &'a [u8]) -> Option<Self> {
        let (elements, size) = kind.block();
        let whole = inputs > 0 && inputs.is_multiple_of(elements);
        let expected = (inputs / elements).checked_mul(size)?.checked_mul(outputs)?;
        let format = kind.codes().filter(|_| whole && bytes.len() == expected)?;
        Some(Self { kind, format, outputs, inputs, bytes })
    }
}

impl CodeSource for BlockMatrix<'_> {
    fn format(&self) -> CodeFormat {
        self.format
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn read(&self, first: usize, rows: &mut [CodeRow]) {
        let (elements, size) = self.kind.block();
        let row_bytes = self.inputs / elements * size;
        for (output, row) in (first..).zip(rows) {
            assert!(output < self.outputs, "output {output} of {}", self.outputs);
            clear(row);
            for block in self.bytes[output * row_bytes..][..row_bytes].chunks_exact(size) {
                read_block(self.kind, block, row);
            }
        }
    }
}

fn clear(row: &mut CodeRow) {
    let CodeRow { codes, scales, minima, zeros, group_scales, group_minima } = row;
    codes.clear();
    scales.clear();
    minima.clear();
    zeros.clear();
    group_scales.clear();
    group_minima.clear();
}

/// Appends a block to its row.
fn read_block(kind: Kind, block: &[u8], row: &mut CodeRow) {
    match kind {
        Kind::F32 | Kind::F16 | Kind::BF16 => {}
        Kind::Q4_0 => {
            row.scales.push(half(block, 0));
            nibbles(&block[2..], row);
        }
        Kind::Q4_1 => {
            row.scales.push(half(block, 0));
            row.minima.push(half(block, 2));
            nibbles(&block[4..], row);
        }
        Kind::Q5_0 => {
            row.scales.push(half(block, 0));
            fives(&block[2..6], &block[6..], row);
        }
        Kind::Q5_1 => {
            row.scales.push(half(block, 0));
            row.minima.push(half(block, 2));
            fives(&block[4..8], &block[8..], row);
        }
        Kind::Q8_0 => {
            row.scales.push(half(block, 0));
            // Signed in the file; the centre is 128 here.
            row.codes.extend(block[2..].iter().map(|byte| byte ^ 0x80));
        }
        Kind::Q4_K => {
            nested_scales(block, row);
            block[16..].chunks_exact(32).for_each(|run| nibbles(run, row));
        }
        Kind::Q5_K => {
            nested_scales(block, row);
            let (fifth, low) = block[16..].split_at(32);
            for (run, low) in low.chunks_exact(32).enumerate() {
                let start = row.codes.len();
                nibbles(low, row);
                for (i, code) in row.codes[start..].iter_mut().enumerate() {
                    let bit = 2 * run + i / 32;
                    *code |= (fifth[i % 32] >> bit & 1) << 4;
                }
            }
        }
        Kind::Q6_K => sixes(block, row),
    }
}

fn half(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// All low halves, then all high halves.
fn nibbles(bytes: &[u8], row: &mut CodeRow) {
    row.codes.extend(bytes.iter().map(|byte| byte & 0xF));
    row.codes.extend(bytes.iter().map(|byte| byte >> 4));
}

/// 32 codes whose fifth bits are the bits of four bytes.
fn fives(fifth: &[u8], low: &[u8], row: &mut CodeRow) {
    let start = row.codes.len();
    nibbles(low, row);
    for (i, code) in row.codes[start..].iter_mut().enumerate() {
        *code |= (fifth[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Scale and minimum of a superblock, and eight scales and minima of six bits packed into twelve bytes.
fn nested_scales(block: &[u8], row: &mut CodeRow) {
    row.scales.push(half(block, 0));
    row.minima.push(half(block, 2));
    let packed = &block[4..16];
    for group in 0..4 {
        row.group_scales.push((packed[group] & 63).cast_signed());
        row.group_minima.push(packed[group + 4] & 63);
    }
    for group in 0..4 {
        let low = packed[group + 8];
        let (scale, minimum) = (packed[group] >> 6, packed[group + 4] >> 6);
        row.group_scales.push((low & 0xF | scale << 4).cast_signed());
        row.group_minima.push(low >> 4 | minimum << 4);
    }
}

/// Two halves of 128: 64 bytes of low bits, 32 of high bits each.
fn sixes(block: &[u8], row: &mut CodeRow) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    row.scales.push(half(scale, 0));
    row.group_scales.extend(scales.iter().map(|byte| byte.cast_signed()));
    for (low, high) in low.chunks_exact(64).zip(high.chunks_exact(32)) {
        let start = row.codes.len();
        nibbles(low, row);
        for (i, code) in row.codes[start..].iter_mut().enumerate() {
            *code |= (high[i % 32] >> (i / 32 * 2) & 3) << 4;
        }
    }
}
