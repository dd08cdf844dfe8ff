//! Floats into panels of floats.

use half::{bf16, f16};

use crate::dtype::{Dtype, Element, Raw};
use crate::lanes::{LANES, Lanes};

/// Where one panel's weights come from.
pub(crate) struct PanelJob<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) inputs: usize,
    pub(crate) source: Raw<'a>,
    /// First element of each lane; a lane without one is left alone.
    pub(crate) starts: [Option<usize>; LANES],
    /// From one step to the next.
    pub(crate) step: usize,
}

/// Packs one panel.
#[inline(always)]
pub(crate) fn panel<L: Lanes>(l: L, job: &PanelJob<'_>, panel: &mut [u8]) {
    let done = match (job.dtype, job.source.dtype()) {
        (Dtype::F32, Dtype::F32) => words::<L, 1>(l, job, panel),
        (Dtype::Bf16, Dtype::Bf16) => words::<L, 2>(l, job, panel),
        _ => 0,
    };
    match job.dtype {
        Dtype::F32 => elements_to::<f32>(job, panel, done),
        Dtype::F16 => elements_to::<f16>(job, panel, done),
        Dtype::Bf16 => elements_to::<bf16>(job, panel, done),
    }
}

/// The fast way for whole panels that need no conversion: both layouts are 4-byte words of `PER_WORD` steps, transposed.
/// Returns how many steps it has done.
#[inline(always)]
fn words<L: Lanes, const PER_WORD: usize>(l: L, job: &PanelJob<'_>, panel: &mut [u8]) -> usize {
    const BLOCK: usize = LANES * size_of::<f32>();
    let mut starts = [0; LANES];
    for (start, given) in starts.iter_mut().zip(job.starts) {
        match given {
            Some(given) if job.step == 1 => *start = given * (4 / PER_WORD),
            _ => return 0,
        }
    }
    let blocks = job.inputs / PER_WORD / LANES;
    let (out, _) = bytemuck::cast_slice_mut::<u8, f32>(panel).as_chunks_mut::<LANES>();
    for block in 0..blocks {
        let mut rows = [l.splat(0.0); LANES];
        for (row, start) in rows.iter_mut().zip(starts) {
            let (bytes, _) = job.source.bytes()[start + block * BLOCK..][..BLOCK].as_chunks::<4>();
            let words: [f32; LANES] =
                std::array::from_fn(|i| f32::from_bits(u32::from_ne_bytes(bytes[i])));
            *row = l.load(&words);
        }
        l.transpose(&mut rows);
        for (out, row) in out[block * LANES..][..LANES].iter_mut().zip(rows) {
            l.store(row, out);
        }
    }
    blocks * LANES * PER_WORD
}

/// The general way, from step `first`.
fn elements_to<E: Element>(job: &PanelJob<'_>, panel: &mut [u8], first: usize) {
    let panel: &mut [E] = bytemuck::cast_slice_mut(panel);
    match job.source.dtype() {
        Dtype::F32 => elements::<f32, E>(job, panel, first),
        Dtype::F16 => elements::<f16, E>(job, panel, first),
        Dtype::Bf16 => elements::<bf16, E>(job, panel, first),
    }
}

fn elements<S: Element, E: Element>(job: &PanelJob<'_>, panel: &mut [E], first: usize) {
    /// Steps at a time, so that what is written stays in the cache from lane to lane.
    const STEPS: usize = 64;
    let bytes = job.source.bytes();
    for block in (first..job.inputs).step_by(STEPS) {
        for (lane, start) in job.starts.iter().enumerate() {
            let Some(start) = start else { continue };
            for k in block..(block + STEPS).min(job.inputs) {
                let value = S::read(&bytes[(start + k * job.step) * size_of::<S>()..]);
                panel[E::panel_index(k, lane)] = if S::DTYPE == E::DTYPE {
                    bytemuck::cast(value)
                } else {
                    E::from_f32(value.to_f32())
                };
            }
        }
    }
}
