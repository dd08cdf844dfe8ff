//! What this machine can do at most: reading memory, multiplying floats of 32 and of 16 bits, multiplying integers.
//!
//! Why here: a kernel's speed says little by itself; its share of these limits, measured on the same threads in the same run,
//! says whether there is anything left to gain. Best times are what a busy machine can be judged by.

use std::hint::black_box;
use std::time::Instant;

use half::bf16;

use crate::context::Context;
use crate::isa::Isa;
use crate::lanes::dots::{DotKernel, Dots};
use crate::lanes::integers::{CODES, Integers, STEPS};
use crate::lanes::pairs::{PairKernel, Pairs};
use crate::lanes::{LANES, Lanes};
use crate::memory::{AllocError, Pages};

/// Floats that are read: far more than any cache holds.
const FLOATS: usize = 128 << 20;
/// Streams that a thread reads at once.
const STREAMS: usize = 8;
/// How far ahead of reading memory is asked for.
const AHEAD: usize = 1024;
/// Times a limit is measured; the best counts.
const RUNS: usize = 10;
/// Rounds of arithmetic in one measurement.
const ROUNDS: usize = 1 << 20;

/// Bytes per second that all threads read together from memory, in several streams each. Takes half a gibibyte of memory
/// while it measures.
///
/// # Errors
/// When there is not that much memory.
pub fn read_bandwidth(ctx: &Context) -> Result<f64, AllocError> {
    let mut data = Pages::<f32>::zeroed(FLOATS)?;
    // Pages that were never written all are one page of zeros.
    data.as_mut_slice().fill(1.0);
    let (data, isa, threads) = (data.as_slice(), ctx.isa(), ctx.team().threads());
    let share = FLOATS / threads / (STREAMS * LANES) * STREAMS * LANES;
    let seconds = best(ctx, |thread| {
        black_box(isa.read_streams(&data[thread * share..][..share]));
    });
    Ok(float(threads * share * size_of::<f32>()) / seconds)
}

/// Floating-point operations per second of fused multiply-adds of f32 in registers, all threads together; a fused one is two.
#[must_use]
pub fn f32_peak(ctx: &Context) -> f64 {
    peak(ctx, Isa::float_chains)
}

/// Operations per second of products of bf16, summed in f32, as linear layers multiply them, all threads together; a product and
/// its sum are two. About those of f32 where the CPU has no instructions for it.
#[must_use]
pub fn bf16_peak(ctx: &Context) -> f64 {
    peak(ctx, Isa::pair_chains)
}

/// Operations per second of products of eight-bit integers, summed in 32 bits, in registers, all threads together; a product
/// and its sum are two. Codes are small ones: those of eight bits take more where the CPU has no instructions for it.
#[must_use]
pub fn int8_peak(ctx: &Context) -> f64 {
    peak(ctx, Isa::integer_chains)
}

/// Operations per second of all threads together; `chains` computes so many rounds and tells how many operations one has.
fn peak(ctx: &Context, chains: impl Fn(Isa, usize) -> (f32, usize) + Sync) -> f64 {
    let (isa, threads) = (ctx.isa(), ctx.team().threads());
    let (_, operations) = chains(isa, 0);
    let seconds = best(ctx, |_| {
        black_box(chains(isa, black_box(ROUNDS)));
    });
    float(threads * operations * ROUNDS) / seconds
}

#[expect(clippy::cast_precision_loss, reason = "a rate is given in three digits")]
fn float(n: usize) -> f64 {
    n as f64
}

/// The best time of a job of all threads, in seconds.
fn best(ctx: &Context, job: impl Fn(usize) + Sync) -> f64 {
    let time = || {
        let begun = Instant::now();
        ctx.team().run(&job);
        begun.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| time()).fold(f64::INFINITY, f64::min)
}

/// Reads everything.
#[inline(always)]
pub(crate) fn read<L: Lanes>(l: L, data: &[f32]) -> f32 {
    let mut sums = [l.splat(0.0); STREAMS];
    let (lines, _) = data.as_chunks::<LANES>();
    let each = lines.len() / STREAMS;
    let streams: [&[[f32; LANES]]; STREAMS] =
        std::array::from_fn(|stream| &lines[stream * each..][..each]);
    for i in 0..each {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            l.prefetch(
                stream.as_ptr().cast::<u8>().wrapping_add(i * size_of::<[f32; LANES]>() + AHEAD),
            );
            *sum = l.add(*sum, l.load(&stream[i]));
        }
    }
    l.fold_add(sums.into_iter().fold(l.splat(0.0), |a, b| l.add(a, b)))
}

/// Twelve chains of fused multiply-adds; with how many operations a round has.
#[inline(always)]
pub(crate) fn float_chains<L: Lanes>(l: L, rounds: usize) -> (f32, usize) {
    const CHAINS: usize = 12;
    let (a, b) = (l.splat(black_box(0.5)), l.splat(black_box(0.25)));
    // As many registers as the chains of two-register vectors leave.
    let used = if L::ROWS < CHAINS { CHAINS / 2 } else { CHAINS };
    let start = black_box([1.0f32; CHAINS]);
    let sum = if used == CHAINS {
        float_rounds::<L, CHAINS>(l, rounds, start.map(|x| l.splat(x)), a, b)
    } else {
        let start = std::array::from_fn(|i| l.splat(start[i]));
        float_rounds::<L, { CHAINS / 2 }>(l, rounds, start, a, b)
    };
    (sum, used * LANES * 2)
}

#[inline(always)]
fn float_rounds<L: Lanes, const N: usize>(
    l: L,
    rounds: usize,
    mut sums: [L::V; N],
    a: L::V,
    b: L::V,
) -> f32 {
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = l.fma(*sum, a, b);
        }
    }
    l.fold_add(sums.into_iter().fold(l.splat(0.0), |a, b| l.add(a, b)))
}

/// Chains of products of pairs of bf16; with how many operations a round has.
#[inline(always)]
pub(crate) fn pair_chains<L: Lanes>(l: L, rounds: usize) -> (f32, usize) {
    l.with_pairs(PairChains { rounds })
}

struct PairChains {
    rounds: usize,
}

impl PairKernel for PairChains {
    type Output = (f32, usize);

    #[inline(always)]
    fn run<M: Pairs>(self, m: M) -> (f32, usize) {
        const CHAINS: usize = 12;
        m.call(
            #[inline(always)]
            || {
                if M::Lanes::ROWS < CHAINS {
                    pair_rounds::<M, { CHAINS / 2 }, 1>(m, self.rounds)
                } else {
                    pair_rounds::<M, CHAINS, 2>(m, self.rounds)
                }
            },
        )
    }
}

#[inline(always)]
fn pair_rounds<M: Pairs, const R: usize, const P: usize>(m: M, rounds: usize) -> (f32, usize) {
    let l = m.lanes();
    let weights = [bf16::from_f32_const(0.25); 2 * LANES];
    let x = [m.pair(0.5, -0.5); R];
    let mut sums = [[l.splat(black_box(1.0)); P]; R];
    for _ in 0..rounds {
        m.add_products([black_box(&weights); P], black_box(&x), &mut sums);
    }
    let sum = sums.into_iter().flatten().fold(l.splat(0.0), |a, b| l.add(a, b));
    (l.fold_add(sum), R * P * LANES * 4)
}

/// Chains of products of small codes; with how many operations a round has.
#[inline(always)]
pub(crate) fn integer_chains<L: Integers>(l: L, rounds: usize) -> (f32, usize) {
    l.with_dots(IntegerChains { rounds })
}

struct IntegerChains {
    rounds: usize,
}

impl DotKernel for IntegerChains {
    type Output = (f32, usize);

    #[inline(always)]
    fn run<D: Dots>(self, d: D) -> (f32, usize) {
        const CHAINS: usize = 12;
        d.call(
            #[inline(always)]
            || {
                if D::Lanes::ROWS < CHAINS {
                    integer_rounds::<D, { CHAINS / 3 }>(d, self.rounds)
                } else {
                    integer_rounds::<D, CHAINS>(d, self.rounds)
                }
            },
        )
    }
}

#[inline(always)]
fn integer_rounds<D: Dots, const N: usize>(d: D, rounds: usize) -> (f32, usize) {
    let l = d.lanes();
    let codes = l.load_codes(&black_box([3; CODES]));
    let steps = black_box([[5; STEPS]; N]).map(|steps| l.splat_steps(&steps));
    let mut sums = black_box([0; N]).map(|sum| l.splat_integer(sum));
    for _ in 0..rounds {
        // What a compiler knows to be the same in every round it would compute once.
        let codes = black_box([codes; 2]);
        for (sum, steps) in sums.iter_mut().zip(steps) {
            *sum = d.dot_two(*sum, codes, [steps; 2]);
        }
    }
    let sum = sums.into_iter().fold(l.splat(0.0), |a, b| l.add(a, l.to_float(b)));
    (l.fold_add(sum), N * 2 * CODES * 2)
}
