//! Embedding lookup: rows of a table by token, widened.

use crate::context::Context;
use crate::dtype::Raw;
use crate::memory::Parts;
use crate::pack::PackedMatrix;

/// Runs `read(row, out)` for every id, in parallel when there are many.
fn gather(
    ctx: &Context,
    rows: usize,
    width: usize,
    ids: &[u32],
    out: &mut [f32],
    read: impl Fn(usize, &mut [f32]) + Sync,
) {
    assert_eq!(Some(out.len()), ids.len().checked_mul(width), "room for one row per id");
    let out = Parts::new(out);
    ctx.over_rows(ids.len(), width, |first, count| {
        for (i, id) in (first..).zip(&ids[first..first + count]) {
            let row = *id as usize;
            assert!(row < rows, "id {id} is beyond the table's {rows} rows");
            // SAFETY: rows do not overlap, and each is given to one thread.
            read(row, unsafe { out.part(i * width, width) });
        }
    });
}

/// Rows `ids` of a row-major `[rows, width]` table.
///
/// # Panics
/// When the table is not whole rows, `out` is not `[ids, width]`, or an id is beyond the table.
pub fn embed(ctx: &Context, table: Raw<'_>, width: usize, ids: &[u32], out: &mut [f32]) {
    assert!(
        width > 0 && table.len().is_multiple_of(width),
        "{} numbers are not rows of {width}",
        table.len()
    );
    gather(ctx, table.len() / width, width, ids, out, |row, out| {
        table.slice(row * width..(row + 1) * width).widen_into(out);
    });
}

/// Rows `ids` of a packed matrix: the embedding of a model whose output projection is tied to it.
///
/// # Panics
/// When the matrix is gated, `out` is not `[ids, inputs]`, or an id is beyond the matrix.
pub fn embed_packed(ctx: &Context, table: &PackedMatrix, ids: &[u32], out: &mut [f32]) {
    assert!(!table.is_gated(), "an embedding is not a gated matrix");
    gather(ctx, table.outputs(), table.inputs(), ids, out, |row, out| table.read_row(row, out));
}
