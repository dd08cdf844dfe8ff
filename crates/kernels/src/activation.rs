//! Elementwise functions: activations, soft-caps, scaling, adding.

use crate::context::Context;
use crate::lanes::{LANES, Lanes, map_lanes};
use crate::math::{erf, exp, tanh};
use crate::memory::Parts;

/// What a feed-forward layer applies between its projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^-x)
    Silu,
    /// x (1 + erf(x / √2)) / 2
    Gelu,
    /// x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
    GeluTanh,
    /// max(x, 0)
    Relu,
}

/// The activation of sixteen numbers. Absolute error below 1e-6 for |x| ≤ 10.
#[inline(always)]
pub(crate) fn apply<L: Lanes>(l: L, activation: Activation, x: L::V) -> L::V {
    let one = l.splat(1.0);
    match activation {
        Activation::Silu => l.div(x, l.add(one, exp(l, l.sub(l.splat(0.0), x)))),
        Activation::Gelu => {
            let e = erf(l, l.mul(x, l.splat(std::f32::consts::FRAC_1_SQRT_2)));
            l.mul(l.mul(x, l.splat(0.5)), l.add(one, e))
        }
        Activation::GeluTanh => {
            // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
            let cube = l.mul(l.mul(x, x), x);
            let u = l.fma(cube, l.splat(0.044_715), x);
            let e = exp(l, l.mul(u, l.splat(-2.0 * 0.797_884_6)));
            l.div(x, l.add(one, e))
        }
        // Zero first: a NaN stays a NaN.
        Activation::Relu => l.max(l.splat(0.0), x),
    }
}

#[inline(always)]
pub(crate) fn softcap_all<L: Lanes>(l: L, cap: f32, x: &mut [f32]) {
    let cap = l.splat(cap);
    map_lanes!(l, x, |v| l.mul(cap, tanh(l, l.div(v, cap))));
}

#[inline(always)]
pub(crate) fn scale_all<L: Lanes>(l: L, factor: f32, x: &mut [f32]) {
    let factor = l.splat(factor);
    map_lanes!(l, x, |v| l.mul(factor, v));
}

#[inline(always)]
pub(crate) fn add_all<L: Lanes>(_: L, delta: &[f32], x: &mut [f32]) {
    for (x, delta) in x.iter_mut().zip(delta) {
        *x += *delta;
    }
}

/// Runs `job` on pieces of `x`, in parallel when it is large.
fn over_pieces(ctx: &Context, x: &mut [f32], job: impl Fn(usize, &mut [f32]) + Sync) {
    // Pieces begin at whole vectors so that no vector is cut.
    let vectors = x.len().div_ceil(LANES);
    let len = x.len();
    let parts = Parts::new(x);
    ctx.over_rows(vectors, LANES, |first, count| {
        let at = first * LANES;
        // SAFETY: pieces of `over_rows` do not overlap.
        job(at, unsafe { parts.part(at, (count * LANES).min(len - at)) });
    });
}

/// `x = cap * tanh(x / cap)`: keeps logits within ± cap.
///
/// # Panics
/// When `cap` is not a positive number.
pub fn softcap(ctx: &Context, cap: f32, x: &mut [f32]) {
    let isa = ctx.isa();
    assert!(cap > 0.0 && cap.is_finite(), "a soft-cap is a positive number, not {cap}");
    over_pieces(ctx, x, |_, x| isa.softcap_all(cap, x));
}

/// `x *= factor`.
pub fn scale(ctx: &Context, factor: f32, x: &mut [f32]) {
    let isa = ctx.isa();
    over_pieces(ctx, x, |_, x| isa.scale_all(factor, x));
}

/// `x += delta`.
///
/// # Panics
/// When the lengths differ.
pub fn add(ctx: &Context, delta: &[f32], x: &mut [f32]) {
    let isa = ctx.isa();
    assert_eq!(delta.len(), x.len(), "what is added has the same length");
    over_pieces(ctx, x, |at, x| isa.add_all(&delta[at..at + x.len()], x));
}
