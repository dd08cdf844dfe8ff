//! Weights as the kernels want them: panels of sixteen output channels, at the width they are stored in.
//!
//! Why packed once at load: a panel is one contiguous stream in which each cache line holds the next step of sixteen channels, so
//! few-row products run at memory bandwidth and many-row products need no re-packing. One layout serves every
//! instruction set.
//!
//! Layout: panel `p` holds `steps = inputs` rounded up to even; f32 and f16 as `[steps][16]`, bf16 as `[steps / 2][16][2]`. Missing
//! channels of the last panel and the missing odd step are zero. In a gated matrix panel `2 i` holds sixteen gate channels
//! and panel `2 i + 1` the up channels of the same numbers, so that a task has both in hand when it applies the gate.

use std::ops::Range;

use half::{bf16, f16};

use crate::context::Context;
use crate::dtype::{Dtype, Element, Raw, with_element};
use crate::lanes::{LANES, Lanes};
use crate::memory::{AllocError, Pages, Parts};

/// A weight matrix of `outputs` rows by `inputs` columns, packed for [`crate::linear`].
#[derive(Debug)]
pub struct PackedMatrix {
    data: Pages<u8>,
    shape: Shape,
}

/// What decides where a weight lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    dtype: Dtype,
    outputs: usize,
    inputs: usize,
    gated: bool,
}

impl Shape {
    /// Output channels that are numbered through the panels together: all, or those of one half.
    fn channels(&self) -> usize {
        if self.gated { self.outputs / 2 } else { self.outputs }
    }

    fn panels(&self) -> usize {
        self.channels().div_ceil(LANES) * if self.gated { 2 } else { 1 }
    }

    fn panel_elements(&self) -> Option<usize> {
        self.inputs.checked_next_multiple_of(2)?.checked_mul(LANES)
    }

    fn bytes(&self) -> Option<usize> {
        self.panel_elements()?.checked_mul(self.panels())?.checked_mul(self.dtype.bytes())
    }

    /// Which output a lane of a panel holds.
    fn output(&self, panel: usize, lane: usize) -> Option<usize> {
        let (half, panel) = if self.gated { (panel % 2, panel / 2) } else { (0, panel) };
        let channel = panel * LANES + lane;
        (channel < self.channels()).then(|| half * self.channels() + channel)
    }

    /// The panel and lane of an output.
    fn place(&self, output: usize) -> (usize, usize) {
        let (half, channel) = (output / self.channels(), output % self.channels());
        let panel = channel / LANES;
        (if self.gated { 2 * panel + half } else { panel }, channel % LANES)
    }
}

impl PackedMatrix {
    /// Starts a matrix of `outputs` rows by `inputs` columns.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn builder(
        dtype: Dtype,
        outputs: usize,
        inputs: usize,
    ) -> Result<PackedBuilder, AllocError> {
        PackedBuilder::new(Shape { dtype, outputs, inputs, gated: false })
    }

    /// Starts two matrices of `half` rows each, for [`crate::Epilogue::Gated`]: the gate is outputs `0 .. half`, up is
    /// outputs `half .. 2 half`.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn gated_builder(
        dtype: Dtype,
        half: usize,
        inputs: usize,
    ) -> Result<PackedBuilder, AllocError> {
        let outputs = half.checked_mul(2).ok_or(AllocError { bytes: None })?;
        PackedBuilder::new(Shape { dtype, outputs, inputs, gated: true })
    }

    /// Memory that a matrix takes; `None` when the number does not fit.
    #[must_use]
    pub fn packed_bytes(dtype: Dtype, outputs: usize, inputs: usize) -> Option<usize> {
        Shape { dtype, outputs, inputs, gated: false }.bytes()
    }

    /// Memory that a gated pair takes; `None` when the number does not fit.
    #[must_use]
    pub fn gated_bytes(dtype: Dtype, half: usize, inputs: usize) -> Option<usize> {
        Shape { dtype, outputs: half.checked_mul(2)?, inputs, gated: true }.bytes()
    }

    /// Rows; of a gated pair those of both.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.shape.outputs
    }

    /// Columns.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.shape.inputs
    }

    /// How weights are stored.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.shape.dtype
    }

    /// Memory it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.as_slice().len()
    }

    /// Whether it is a gate and an up matrix.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.shape.gated
    }

    /// How many panels.
    pub(crate) fn panels(&self) -> usize {
        self.shape.panels()
    }

    /// All panels one after the other.
    pub(crate) fn elements<E: Element>(&self) -> &[E] {
        assert_eq!(E::DTYPE, self.dtype(), "a panel is read as what it is");
        bytemuck::cast_slice(self.data.as_slice())
    }

    /// Elements in a panel.
    pub(crate) fn panel_elements(&self) -> usize {
        self.shape.panel_elements().unwrap_or(0)
    }

    /// One row, widened.
    pub(crate) fn read_row(&self, output: usize, out: &mut [f32]) {
        let (panel, lane) = self.shape.place(output);
        let size = self.panel_elements();
        with_element!(self.dtype(), E => {
            let panel = &self.elements::<E>()[panel * size..][..size];
            for (k, out) in out.iter_mut().enumerate() {
                *out = panel[E::panel_index(k, lane)].to_f32();
            }
        });
    }
}

/// A matrix whose outputs are being filled in.
#[derive(Debug)]
pub struct PackedBuilder {
    data: Pages<u8>,
    shape: Shape,
    filled: Vec<bool>,
}

impl PackedBuilder {
    fn new(shape: Shape) -> Result<Self, AllocError> {
        let bytes = shape.bytes().ok_or(AllocError { bytes: None })?;
        Ok(Self { data: Pages::zeroed(bytes)?, shape, filled: vec![false; shape.outputs] })
    }

    /// Fills outputs `first_output ..` from `source`, a row-major `[rows, inputs]` matrix, converted if its type differs.
    ///
    /// # Panics
    /// When `source` is not whole rows, or an output is beyond the matrix or was filled before.
    pub fn fill(&mut self, ctx: &Context, first_output: usize, source: Raw<'_>) {
        let inputs = self.shape.inputs;
        assert!(
            inputs > 0 && source.len().is_multiple_of(inputs),
            "{} weights are not whole rows of {inputs}",
            source.len()
        );
        let rows = source.len() / inputs;
        self.fill_from(ctx, first_output..first_output + rows, source, (inputs, 1), 0);
    }

    /// Fills outputs `first_output ..` from `columns` of `source`, a row-major `[inputs, source_outputs]` matrix.
    ///
    /// # Panics
    /// When `source` has another shape, or an output is beyond the matrix or was filled before.
    pub fn fill_transposed(
        &mut self,
        ctx: &Context,
        first_output: usize,
        source: Raw<'_>,
        source_outputs: usize,
        columns: Range<usize>,
    ) {
        let inputs = self.shape.inputs;
        assert_eq!(
            Some(source.len()),
            inputs.checked_mul(source_outputs),
            "a transposed source is [{inputs}, {source_outputs}]"
        );
        let inside = columns.start <= columns.end && columns.end <= source_outputs;
        assert!(inside, "columns {columns:?} of {source_outputs}");
        let outputs = first_output..first_output + columns.len();
        self.fill_from(ctx, outputs, source, (1, source_outputs), columns.start);
    }

    /// Fills `outputs`; step `k` of output number `o` of them is element `first + o * strides.0 + k * strides.1`.
    fn fill_from(
        &mut self,
        ctx: &Context,
        outputs: Range<usize>,
        source: Raw<'_>,
        strides: (usize, usize),
        first: usize,
    ) {
        let isa = ctx.isa();
        let shape = self.shape;
        let (start, end) = (outputs.start, outputs.end);
        assert!(end <= shape.outputs, "outputs {start}..{end} of a matrix of {}", shape.outputs);
        for (output, filled) in (start..).zip(&mut self.filled[outputs.clone()]) {
            assert!(!std::mem::replace(filled, true), "output {output} is filled twice");
        }
        let panel_bytes = shape.panel_elements().unwrap_or(0) * shape.dtype.bytes();
        let data = Parts::new(self.data.as_mut_slice());
        ctx.team().for_each(shape.panels(), |_, panel| {
            let starts = std::array::from_fn(|lane| {
                let output = shape.output(panel, lane).filter(|o| outputs.contains(o))?;
                Some(first + (output - start) * strides.0)
            });
            if starts == [None; LANES] {
                return;
            }
            let job = PanelJob {
                dtype: shape.dtype,
                inputs: shape.inputs,
                source,
                starts,
                step: strides.1,
            };
            // SAFETY: panels do not overlap, and each is given to one thread.
            isa.pack_panel(&job, unsafe { data.part(panel * panel_bytes, panel_bytes) });
        });
    }

    /// The finished matrix.
    ///
    /// # Panics
    /// When an output was never filled.
    #[must_use]
    pub fn finish(self) -> PackedMatrix {
        let missing = self.filled.iter().position(|filled| !filled);
        assert_eq!(missing, None, "an output of the matrix was never filled");
        PackedMatrix { data: self.data, shape: self.shape }
    }
}

/// Where one panel's weights come from.
pub(crate) struct PanelJob<'a> {
    dtype: Dtype,
    inputs: usize,
    source: Raw<'a>,
    /// First element of each lane; a lane without one is left alone.
    starts: [Option<usize>; LANES],
    /// From one step to the next.
    step: usize,
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
