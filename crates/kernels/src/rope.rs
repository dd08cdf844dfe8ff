//! Rotary position embedding. Every way of scaling it is a table of cosines and sines that the caller has computed.

use crate::context::Context;
use crate::lanes::Lanes;
use crate::memory::Parts;
use crate::view::ViewMut;

/// Which two numbers of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `x[i]` and `x[i + dims / 2]` (Llama, NeoX).
    Half,
    /// `x[2 i]` and `x[2 i + 1]` (GPT-J).
    Interleaved,
}

/// A rotation for every position.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// What is paired.
    pub style: RopeStyle,
    /// Numbers per head.
    pub head_dim: usize,
    /// How many at the start of a head are rotated; even, at most `head_dim`.
    pub dims: usize,
    /// `[positions, dims / 2]`
    pub cos: &'a [f32],
    /// `[positions, dims / 2]`
    pub sin: &'a [f32],
}

impl Rope<'_> {
    fn check(&self) {
        let Self { head_dim, dims, cos, sin, .. } = self;
        assert!(
            *dims > 0 && dims.is_multiple_of(2) && dims <= head_dim,
            "{dims} rotated of {head_dim} numbers: must be even, at least 2 and at most the head"
        );
        assert_eq!(cos.len(), sin.len(), "as many cosines as sines");
        assert!(
            cos.len().is_multiple_of(dims / 2),
            "{} cosines are not rows of {}",
            cos.len(),
            dims / 2
        );
    }

    /// How many positions the tables hold.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cos.len() / (self.dims / 2)
    }
}

/// Rotates all heads of one row.
#[inline(always)]
pub(crate) fn row<L: Lanes>(_: L, rope: &Rope<'_>, position: usize, x: &mut [f32]) {
    let half = rope.dims / 2;
    let cos = &rope.cos[position * half..][..half];
    let sin = &rope.sin[position * half..][..half];
    for head in x.chunks_exact_mut(rope.head_dim) {
        match rope.style {
            RopeStyle::Half => {
                let (a, b) = head[..rope.dims].split_at_mut(half);
                for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    (*a, *b) = turn(*a, *b, *cos, *sin);
                }
            }
            RopeStyle::Interleaved => {
                let (pairs, _) = head[..rope.dims].as_chunks_mut::<2>();
                for (([a, b], cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                    (*a, *b) = turn(*a, *b, *cos, *sin);
                }
            }
        }
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin))
}

/// Rotates every head of every row in place; row `i` is at `positions[i]`.
///
/// # Panics
/// When the columns are not whole heads, there are not as many positions as rows, or a position is beyond the tables.
pub fn rope(ctx: &Context, rope: &Rope<'_>, positions: &[u32], x: ViewMut<'_>) {
    let isa = ctx.isa();
    rope.check();
    let (rows, width) = (x.rows(), x.width());
    assert_eq!(positions.len(), rows, "one position per row");
    assert!(
        width.is_multiple_of(rope.head_dim),
        "{width} columns are not heads of {}",
        rope.head_dim
    );
    let ViewMut { data, stride, columns } = x;
    let data = Parts::new(data);
    ctx.over_rows(rows, width, |first, count| {
        for (row, position) in (first..).zip(&positions[first..first + count]) {
            let position = *position as usize;
            let last = rope.positions();
            assert!(
                position < last,
                "position {position} is beyond the {last} of the rotary tables"
            );
            // SAFETY: the columns of different rows do not overlap, and each row is given to one thread.
            let x = unsafe { data.part(row * stride + columns.0, width) };
            isa.rope_row(rope, position, x);
        }
    });
}
