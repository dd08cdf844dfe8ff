//! Weights as the kernels want them: panels of sixteen output channels, at the width they are stored in.
//!
//! Why packed once at load: a panel is one contiguous stream in which each cache line holds the next step of sixteen channels, so
//! few-row products run at memory bandwidth and many-row products need no re-packing. One layout serves every
//! instruction set.
//!
//! Layout: the segments one after the other, of each its panels one after the other, panel `p` being outputs `16 p .. 16 p + 16` of the
//! segment; what a panel holds is said in `format`. Missing outputs of a last panel are zero. Numbers are little-endian. A gated matrix
//! is two segments, the gate and up, whose panels are worked on in pairs.

use std::ops::Range;
use std::sync::Arc;

use crate::codes::{CodeRow, CodeSource};
use crate::context::Context;
use crate::dtype::{Element, Raw, with_element};
use crate::format::{Grouping, Panel, Segment, WeightFormat};
use crate::lanes::LANES;
use crate::map::MappedFile;
use crate::memory::{AllocError, Pages, Parts};
use crate::pack_codes;
use crate::pack_floats::PanelJob;

/// A weight matrix of `outputs` rows by `inputs` columns, packed for [`crate::linear`].
#[derive(Debug)]
pub struct PackedMatrix {
    data: Data,
    shape: Shape,
}

#[derive(Debug)]
enum Data {
    Owned(Pages<u8>),
    Mapped(Arc<MappedFile>, Range<usize>),
}

/// Bytes of a file are not the matrix they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappedError {
    /// Panels lie at multiples of a cache line.
    #[error("a packed matrix starts at byte {0}, which is not a multiple of 64")]
    Unaligned(usize),
    /// The file is too short, or the shape too large.
    #[error("a packed matrix from byte {start} on takes {}, but the file has {file} bytes",
        .bytes.map_or("more bytes than can be counted".to_owned(), |b| format!("{b} bytes")))]
    Short {
        /// Where it starts.
        start: usize,
        /// How many bytes it takes.
        bytes: Option<usize>,
        /// How many bytes the file has.
        file: usize,
    },
}

/// What decides where a weight lies.
#[derive(Clone, Debug)]
struct Shape {
    inputs: usize,
    outputs: usize,
    gated: bool,
    places: Vec<Place>,
    /// The different ways in which segments want activations quantised.
    groupings: Vec<Grouping>,
    bytes: usize,
}

/// Where a segment is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) segment: Segment,
    pub(crate) panel: Panel,
    pub(crate) panels: usize,
    pub(crate) first_output: usize,
    /// Which of the groupings.
    pub(crate) grouping: Option<usize>,
    /// Where its first panel starts.
    start: usize,
}

impl Shape {
    fn new(segments: &[Segment], inputs: usize, gated: bool) -> Option<Self> {
        let (mut outputs, mut bytes) = (0usize, 0usize);
        let (mut places, mut groupings) = (Vec::new(), Vec::new());
        for segment in segments {
            let panel = Panel::new(segment.format, inputs)?;
            let panels = segment.outputs.div_ceil(LANES);
            let grouping = match &panel {
                Panel::Float { .. } => None,
                Panel::Codes(codes) => Some(find_or_push(&mut groupings, codes.grouping)),
            };
            let (segment, first_output, start) = (*segment, outputs, bytes);
            places.push(Place { segment, panel, panels, first_output, grouping, start });
            outputs = outputs.checked_add(segment.outputs)?;
            bytes = bytes.checked_add(panel.bytes().checked_mul(panels)?)?;
        }
        Some(Self { inputs, outputs, gated, places, groupings, bytes })
    }
}

fn find_or_push(all: &mut Vec<Grouping>, one: Grouping) -> usize {
    all.iter().position(|other| *other == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

/// The two segments of a gated matrix.
fn gated_segments(formats: [WeightFormat; 2], half: usize) -> [Segment; 2] {
    formats.map(|format| Segment { format, outputs: half })
}

impl PackedMatrix {
    /// Starts a matrix of `segments`, top to bottom, by `inputs` columns.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// When there is no such format: see [`crate::CodeFormat`].
    pub fn builder(segments: &[Segment], inputs: usize) -> Result<PackedBuilder, AllocError> {
        PackedBuilder::new(Shape::new(segments, inputs, false))
    }

    /// Starts two matrices of `half` rows each, for [`crate::Epilogue::Gated`]: the gate is outputs `0 .. half`, up is
    /// outputs `half .. 2 half`.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// As [`PackedMatrix::builder`].
    pub fn gated_builder(
        formats: [WeightFormat; 2],
        half: usize,
        inputs: usize,
    ) -> Result<PackedBuilder, AllocError> {
        PackedBuilder::new(Shape::new(&gated_segments(formats, half), inputs, true))
    }

    /// The matrix of `segments` by `inputs` whose [`PackedMatrix::bytes`] lie in `file` from `start` on; with `gated`, the two
    /// segments are a gate and an up matrix of as many outputs. Any bytes are some matrix, though perhaps one of nonsense.
    ///
    /// # Errors
    /// When the file is too short, or `start` is not a multiple of 64.
    ///
    /// # Panics
    /// When there is no such format, or a gated matrix has not two segments of as many outputs.
    pub fn from_mapped(
        file: &Arc<MappedFile>,
        start: usize,
        segments: &[Segment],
        inputs: usize,
        gated: bool,
    ) -> Result<Self, MappedError> {
        let pair = matches!(segments, [gate, up] if gate.outputs == up.outputs);
        assert!(!gated || pair, "a gated matrix has two segments of as many outputs");
        if !start.is_multiple_of(64) {
            return Err(MappedError::Unaligned(start));
        }
        let shape = Shape::new(segments, inputs, gated);
        let bytes = shape.as_ref().map(|shape| shape.bytes);
        let end = bytes.and_then(|bytes| start.checked_add(bytes));
        match (shape, end) {
            (Some(shape), Some(end)) if end <= file.len() => {
                Ok(Self { data: Data::Mapped(Arc::clone(file), start..end), shape })
            }
            _ => Err(MappedError::Short { start, bytes, file: file.len() }),
        }
    }

    /// A matrix of finite weights, whatever the formats, to measure with.
    ///
    /// # Errors
    /// When there is not enough memory.
    ///
    /// # Panics
    /// As [`PackedMatrix::builder`].
    pub fn sample(segments: &[Segment], inputs: usize) -> Result<Self, AllocError> {
        let PackedBuilder { mut data, shape, .. } = Self::builder(segments, inputs)?;
        // A number about 1 or 0.01 as f16, bf16 or f32, and some code as a code.
        data.as_mut_slice().fill(0x3C);
        Ok(Self { data: Data::Owned(data), shape })
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

    /// Its parts, top to bottom.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment> {
        self.shape.places.iter().map(|place| place.segment)
    }

    /// All of it, in the layout that [`PackedMatrix::from_mapped`] reads. The layout is folio's own and may change with its version.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Owned(pages) => pages.as_slice(),
            Data::Mapped(file, range) => &file[range.clone()],
        }
    }

    /// Whether it is a gate and an up matrix.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.shape.gated
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.shape.places
    }

    pub(crate) fn groupings(&self) -> &[Grouping] {
        &self.shape.groupings
    }

    /// Some panels of a segment.
    pub(crate) fn panels(&self, place: &Place, first: usize, panels: usize) -> &[u8] {
        let size = place.panel.bytes();
        &self.bytes()[place.start + first * size..][..panels * size]
    }

    /// One row, widened.
    pub(crate) fn read_row(&self, output: usize, out: &mut [f32]) {
        let holds = |place: &&Place| {
            (place.first_output..place.first_output + place.segment.outputs).contains(&output)
        };
        let Some(place) = self.shape.places.iter().find(holds) else {
            unreachable!("output {output} of {}", self.shape.outputs)
        };
        let output = output - place.first_output;
        let bytes = self.panels(place, output / LANES, 1);
        match &place.panel {
            Panel::Float { dtype, .. } => with_element!(*dtype, E => {
                let panel: &[E] = bytemuck::cast_slice(bytes);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = panel[E::panel_index(k, output % LANES)].to_f32();
                }
            }),
            Panel::Codes(panel) => pack_codes::read(panel, output % LANES, bytes, out),
        }
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
    fn new(shape: Option<Shape>) -> Result<Self, AllocError> {
        let shape = shape.ok_or(AllocError { bytes: None })?;
        let data = Pages::zeroed(shape.bytes)?;
        Ok(Self { data, filled: vec![false; shape.outputs], shape })
    }

    /// Fills outputs `first_output ..` from `source`, a row-major `[rows, inputs]` matrix: converted if its type differs, and
    /// quantised where the matrix holds codes.
    ///
    /// # Panics
    /// When `source` is not whole rows, or an output is beyond the matrix or was filled before, or would be quantised to a nested
    /// scaling.
    pub fn fill(&mut self, ctx: &Context, first_output: usize, source: Raw<'_>) {
        let inputs = self.shape.inputs;
        assert!(
            inputs > 0 && source.len().is_multiple_of(inputs),
            "{} weights are not whole rows of {inputs}",
            source.len()
        );
        let rows = source.len() / inputs;
        let floats = Floats { source, first: 0, row: inputs, step: 1 };
        self.fill_from(ctx, first_output, rows, &Source::Floats(floats));
    }

    /// Fills outputs `first_output ..` from `columns` of `source`, a row-major `[inputs, source_outputs]` matrix.
    ///
    /// # Panics
    /// When `source` has another shape, and as [`PackedBuilder::fill`].
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
        let floats = Floats { source, first: columns.start, row: 1, step: source_outputs };
        self.fill_from(ctx, first_output, columns.len(), &Source::Floats(floats));
    }

    /// Fills outputs `first_output ..` from `rows` of `source`, exactly.
    ///
    /// # Panics
    /// When the source has other inputs, fewer rows, or another format than the matrix has there, and when an output is beyond
    /// the matrix or was filled before.
    pub fn fill_codes(
        &mut self,
        ctx: &Context,
        first_output: usize,
        source: &dyn CodeSource,
        rows: Range<usize>,
    ) {
        assert_eq!(source.inputs(), self.shape.inputs, "columns of the source");
        let inside = rows.start <= rows.end && rows.end <= source.outputs();
        assert!(inside, "rows {rows:?} of {}", source.outputs());
        self.fill_from(ctx, first_output, rows.len(), &Source::Codes(source, rows.start));
    }

    fn fill_from(&mut self, ctx: &Context, start: usize, rows: usize, source: &Source<'_>) {
        let end = start.checked_add(rows).filter(|end| *end <= self.shape.outputs);
        let end = end.unwrap_or_else(|| {
            panic!("{rows} outputs from {start} of a matrix of {}", self.shape.outputs)
        });
        for (output, filled) in (start..).zip(&mut self.filled[start..end]) {
            assert!(!std::mem::replace(filled, true), "output {output} is filled twice");
        }
        let (isa, data) = (ctx.isa(), Parts::new(self.data.as_mut_slice()));
        for place in &self.shape.places {
            let first = place.first_output;
            // The outputs to fill, as the segment numbers them.
            let from = start.max(first) - first;
            let until = end.min(first + place.segment.outputs).saturating_sub(first);
            if from >= until {
                continue;
            }
            let first_panel = from / LANES;
            ctx.team().for_each(until.div_ceil(LANES) - first_panel, |_, panel| {
                let panel = first_panel + panel;
                let size = place.panel.bytes();
                let outputs = from.max(panel * LANES)..until.min((panel + 1) * LANES);
                // The row of the source that is output 0 of the segment may be before its first.
                let row = |output: usize| first + output - start;
                // SAFETY: panels do not overlap, and each is given to one thread.
                let out = unsafe { data.part(place.start + panel * size, size) };
                match (source, &place.panel) {
                    (Source::Floats(floats), Panel::Float { dtype, .. }) => {
                        let mut starts = [None; LANES];
                        for output in outputs {
                            starts[output % LANES] = Some(floats.first + row(output) * floats.row);
                        }
                        let inputs = self.shape.inputs;
                        let (source, step) = (floats.source, floats.step);
                        let job = PanelJob { dtype: *dtype, inputs, source, starts, step };
                        isa.pack_panel(&job, out);
                    }
                    (Source::Floats(floats), Panel::Codes(codes)) => {
                        let mut values = vec![0.0; self.shape.inputs];
                        let mut coded = CodeRow::default();
                        for output in outputs {
                            floats.read(row(output), &mut values);
                            isa.quantise_row(codes, &values, &mut coded);
                            pack_codes::put(codes, output % LANES, &coded, out);
                        }
                    }
                    (Source::Codes(source, first_row), Panel::Codes(codes)) => {
                        assert_eq!(source.format(), codes.format, "the format of the source");
                        let mut rows = vec![CodeRow::default(); outputs.len()];
                        source.read(first_row + row(outputs.start), &mut rows);
                        for (output, coded) in outputs.zip(&rows) {
                            pack_codes::put(codes, output % LANES, coded, out);
                        }
                    }
                    (Source::Codes(source, _), Panel::Float { dtype, .. }) => {
                        panic!("{:?} cannot fill a matrix of {dtype}", source.format())
                    }
                }
            });
        }
    }

    /// The finished matrix.
    ///
    /// # Panics
    /// When an output was never filled.
    #[must_use]
    pub fn finish(self) -> PackedMatrix {
        let missing = self.filled.iter().position(|filled| !filled);
        assert_eq!(missing, None, "an output of the matrix was never filled");
        PackedMatrix { data: Data::Owned(self.data), shape: self.shape }
    }
}

enum Source<'a> {
    Floats(Floats<'a>),
    /// With its first row.
    Codes(&'a dyn CodeSource, usize),
}

/// Step `k` of row `r` is element `first + r * row + k * step`.
struct Floats<'a> {
    source: Raw<'a>,
    first: usize,
    row: usize,
    step: usize,
}

impl Floats<'_> {
    /// One row, widened.
    fn read(&self, row: usize, out: &mut [f32]) {
        let start = self.first + row * self.row;
        if self.step == 1 {
            return self.source.slice(start..start + out.len()).widen_into(out);
        }
        for (k, out) in out.iter_mut().enumerate() {
            let at = start + k * self.step;
            self.source.slice(at..at + 1).widen_into(std::slice::from_mut(out));
        }
    }
}
