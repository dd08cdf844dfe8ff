//! What sampling needs of one row of logits. These take an [`Isa`], not a context: callers thread over rows.

use crate::isa::Isa;
use crate::lanes::{LANES, Lanes, load_tail, store_tail};
use crate::math::exp;

#[inline(always)]
pub(crate) fn max_of<L: Lanes>(l: L, row: &[f32]) -> f32 {
    let (vectors, tail) = row.as_chunks::<LANES>();
    let mut best = l.splat(f32::NEG_INFINITY);
    for vector in vectors {
        // The new one first: where it is NaN the old one stays.
        best = l.max(l.load(vector), best);
    }
    l.fold_max(l.max(load_tail(l, tail, f32::NEG_INFINITY), best))
}

#[inline(always)]
pub(crate) fn argmax_of<L: Lanes>(l: L, row: &[f32]) -> usize {
    let best = max_of(l, row);
    row.iter().position(|x| *x == best).unwrap_or(0)
}

#[inline(always)]
pub(crate) fn finite<L: Lanes>(_: L, row: &[f32]) -> bool {
    // An exponent of all ones is what infinities and NaN have; no early exit, so that it vectorises.
    row.iter().fold(true, |good, x| good & (x.to_bits() & 0x7F80_0000 != 0x7F80_0000))
}

/// Σ exp(x - subtract), stored or not: both add in the same order.
#[inline(always)]
pub(crate) fn exp_sum<L: Lanes>(l: L, subtract: f32, row: &[f32]) -> f32 {
    let shift = l.splat(subtract);
    let (vectors, tail) = row.as_chunks::<LANES>();
    let mut sum = l.splat(0.0);
    for vector in vectors {
        sum = l.add(sum, exp(l, l.sub(l.load(vector), shift)));
    }
    let last = exp(l, l.sub(load_tail(l, tail, f32::NEG_INFINITY), shift));
    l.fold_add(l.add(sum, last))
}

#[inline(always)]
pub(crate) fn exp_store<L: Lanes>(l: L, subtract: f32, row: &mut [f32]) -> f32 {
    let shift = l.splat(subtract);
    let (vectors, tail) = row.as_chunks_mut::<LANES>();
    let mut sum = l.splat(0.0);
    for vector in vectors {
        let e = exp(l, l.sub(l.load(vector), shift));
        l.store(e, vector);
        sum = l.add(sum, e);
    }
    let last = exp(l, l.sub(load_tail(l, tail, f32::NEG_INFINITY), shift));
    store_tail(l, last, tail);
    l.fold_add(l.add(sum, last))
}

/// The largest number; NaN are passed over. Negative infinity when there is none.
#[must_use]
pub fn max(isa: Isa, row: &[f32]) -> f32 {
    isa.max_of(row)
}

/// Index of the first of the largest numbers; NaN never wins unless all are.
///
/// # Panics
/// When the row is empty.
#[must_use]
pub fn argmax(isa: Isa, row: &[f32]) -> usize {
    assert!(!row.is_empty(), "the largest of no numbers");
    isa.argmax_of(row)
}

/// Whether no number is infinite or NaN.
#[must_use]
pub fn all_finite(isa: Isa, row: &[f32]) -> bool {
    isa.finite(row)
}

/// `ln Σ e^x`: subtracting it from a logit gives its natural log-probability.
#[must_use]
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f32 {
    let max = isa.max_of(row);
    // The logarithm in f64, so that what the platform's library rounds differently stays far below an f32.
    let ln = f64::from(isa.exp_sum(max, row)).ln();
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
    let sum = (f64::from(max) + ln) as f32;
    sum
}

/// `row = e^(row - subtract)`; returns the sum. With the maximum subtracted and the sum divided by, a softmax.
pub fn exp_in_place(isa: Isa, subtract: f32, row: &mut [f32]) -> f32 {
    isa.exp_store(subtract, row)
}
