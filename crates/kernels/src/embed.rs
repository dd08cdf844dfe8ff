//! Embedding lookup: rows of a packed table by token, widened.

use crate::context::Context;
use crate::memory::Parts;
use crate::pack::PackedMatrix;

/// Rows `ids` of a packed matrix, in parallel when there are many. The table may be the output projection that a model ties to its
/// embedding.
///
/// # Panics
/// When the matrix is gated, `out` is not `[ids, inputs]`, or an id is beyond the matrix.
pub fn embed_packed(ctx: &Context, table: &PackedMatrix, ids: &[u32], out: &mut [f32]) {
    assert!(!table.is_gated(), "an embedding is not a gated matrix");
    let (rows, width) = (table.outputs(), table.inputs());
    assert_eq!(Some(out.len()), ids.len().checked_mul(width), "room for one row per id");
    let out = Parts::new(out);
    ctx.over_rows(ids.len(), width, |first, count| {
        for (i, id) in (first..).zip(&ids[first..first + count]) {
            let row = *id as usize;
            assert!(row < rows, "id {id} is beyond the table's {rows} rows");
            // SAFETY: rows do not overlap, and each is given to one thread.
            table.read_row(row, unsafe { out.part(i * width, width) });
        }
    });
}
