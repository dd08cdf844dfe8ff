//! Root-mean-square and layer normalisation, alone or fused with the residual stream.
//!
//! The sums run in four vectors, taken in turn, that are added up in a fixed order: it depends on the width alone.

use crate::context::Context;
use crate::lanes::{LANES, Lanes, load_tail};
use crate::memory::Parts;
use crate::view::ViewMut;

/// A normalisation and its weights; rows have as many numbers as `weight`.
#[derive(Clone, Copy, Debug)]
pub enum Norm<'a> {
    /// `x / sqrt(mean(x²) + eps) * (offset + weight)`
    Rms {
        /// Per column.
        weight: &'a [f32],
        /// 0, or 1 where the checkpoint stores the weight's distance from 1 (Gemma).
        offset: f32,
        /// Keeps the root away from zero.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer {
        /// Per column.
        weight: &'a [f32],
        /// Per column.
        bias: Option<&'a [f32]>,
        /// Keeps the root away from zero.
        eps: f32,
    },
}

impl Norm<'_> {
    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Rms { weight, .. } | Self::Layer { weight, .. } => weight.len(),
        }
    }

    /// Checks the weights and returns how many rows `len` numbers are.
    fn rows(&self, len: usize) -> usize {
        let width = self.width();
        assert!(width > 0, "a norm of no columns");
        if let Self::Layer { bias: Some(bias), .. } = self {
            assert_eq!(bias.len(), width, "bias and weight of a norm have the same length");
        }
        assert!(len.is_multiple_of(width), "{len} numbers are not whole rows of {width}");
        len / width
    }
}

/// Σ (x - mean)², or Σ x when `mean` is `None`.
#[inline(always)]
fn sum<L: Lanes>(l: L, x: &[f32], mean: Option<f32>) -> f32 {
    let mut sums = [l.splat(0.0); 4];
    let (fours, rest) = x.as_chunks::<{ 4 * LANES }>();
    for four in fours {
        let (vectors, _) = four.as_chunks::<LANES>();
        for i in 0..4 {
            sums[i] = accumulate(l, sums[i], l.load(&vectors[i]), mean);
        }
    }
    let (vectors, tail) = rest.as_chunks::<LANES>();
    for (sum, vector) in sums.iter_mut().zip(vectors) {
        *sum = accumulate(l, *sum, l.load(vector), mean);
    }
    if !tail.is_empty() {
        // What is missing of the last vector is filled so that it adds nothing.
        sums[3] = accumulate(l, sums[3], load_tail(l, tail, mean.unwrap_or(0.0)), mean);
    }
    l.fold_add(l.add(l.add(sums[0], sums[1]), l.add(sums[2], sums[3])))
}

#[inline(always)]
fn accumulate<L: Lanes>(l: L, sum: L::V, x: L::V, mean: Option<f32>) -> L::V {
    match mean {
        Some(mean) => {
            let centred = l.sub(x, l.splat(mean));
            l.fma(centred, centred, sum)
        }
        None => l.add(sum, x),
    }
}

/// What a normalised number is made of: `(x - shift) * factor`.
#[inline(always)]
fn moments<L: Lanes>(l: L, norm: &Norm<'_>, x: &[f32]) -> (f32, f32) {
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    let n = x.len() as f32;
    match norm {
        Norm::Rms { eps, .. } => (0.0, 1.0 / (sum(l, x, Some(0.0)) / n + eps).sqrt()),
        Norm::Layer { eps, .. } => {
            let mean = sum(l, x, None) / n;
            (mean, 1.0 / (sum(l, x, Some(mean)) / n + eps).sqrt())
        }
    }
}

/// Column `i` of the result, given `(x[i] - shift) * factor`.
#[inline(always)]
fn weigh(norm: &Norm<'_>, i: usize, centred: f32) -> f32 {
    match norm {
        Norm::Rms { weight, offset, .. } => centred * (offset + weight[i]),
        Norm::Layer { weight, bias: Some(bias), .. } => centred.mul_add(weight[i], bias[i]),
        Norm::Layer { weight, bias: None, .. } => centred * weight[i],
    }
}

#[inline(always)]
pub(crate) fn row<L: Lanes>(l: L, norm: &Norm<'_>, x: &[f32], out: &mut [f32]) {
    let (shift, factor) = moments(l, norm, x);
    for (i, (x, out)) in x.iter().zip(out).enumerate() {
        *out = weigh(norm, i, (x - shift) * factor);
    }
}

#[inline(always)]
pub(crate) fn in_place<L: Lanes>(l: L, norm: &Norm<'_>, x: &mut [f32]) {
    let (shift, factor) = moments(l, norm, x);
    for (i, x) in x.iter_mut().enumerate() {
        *x = weigh(norm, i, (*x - shift) * factor);
    }
}

#[inline(always)]
pub(crate) fn add_row<L: Lanes>(l: L, norm: &Norm<'_>, x: &[f32], residual: &mut [f32]) {
    let (shift, factor) = moments(l, norm, x);
    for (i, (x, residual)) in x.iter().zip(residual).enumerate() {
        *residual += weigh(norm, i, (x - shift) * factor);
    }
}

/// `out = norm(x)`, row by row.
///
/// # Panics
/// When `x` is not whole rows, or the shapes differ.
pub fn norm(ctx: &Context, norm: &Norm<'_>, x: &[f32], out: &mut [f32]) {
    let isa = ctx.isa();
    let (rows, width) = (norm.rows(x.len()), norm.width());
    assert_eq!(x.len(), out.len(), "a norm's output has the shape of its input");
    let out = Parts::new(out);
    ctx.over_rows(rows, width, |first, count| {
        for row in first..first + count {
            let at = row * width;
            // SAFETY: rows do not overlap, and each is given to one thread.
            isa.norm_row(norm, &x[at..at + width], unsafe { out.part(at, width) });
        }
    });
}

/// `residual += norm(x)`, row by row.
///
/// # Panics
/// When `x` is not whole rows, or the shapes differ.
pub fn norm_add(ctx: &Context, norm: &Norm<'_>, x: &[f32], residual: &mut [f32]) {
    let isa = ctx.isa();
    let (rows, width) = (norm.rows(x.len()), norm.width());
    assert_eq!(x.len(), residual.len(), "what is normalised has the residual's shape");
    let residual = Parts::new(residual);
    ctx.over_rows(rows, width, |first, count| {
        for row in first..first + count {
            let at = row * width;
            // SAFETY: rows do not overlap, and each is given to one thread.
            isa.norm_add_row(norm, &x[at..at + width], unsafe { residual.part(at, width) });
        }
    });
}

/// Normalises every head of every row in place; a head has as many numbers as the norm's weight.
///
/// # Panics
/// When the columns are not whole heads.
pub fn head_norm(ctx: &Context, norm: &Norm<'_>, x: ViewMut<'_>) {
    let isa = ctx.isa();
    let (heads, dim) = (norm.rows(x.width()), norm.width());
    let (rows, width) = (x.rows(), x.width());
    let ViewMut { data, stride, columns } = x;
    let data = Parts::new(data);
    ctx.over_rows(rows, width, |first, count| {
        for row in first..first + count {
            for head in 0..heads {
                let at = row * stride + columns.0 + head * dim;
                // SAFETY: heads do not overlap, and each row is given to one thread.
                isa.norm_in_place(norm, unsafe { data.part(at, dim) });
            }
        }
    });
}
