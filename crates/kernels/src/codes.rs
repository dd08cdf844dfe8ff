//! Quantised weights as every source of them hands them over: codes of a few bits, in groups along the inputs, and what makes
//! numbers of them again.
//!
//! Why one form: GGUF blocks, AWQ and GPTQ checkpoints and quantisation on load differ in how they lie in files, not in what
//! they mean. A source reads itself into [`CodeRow`]s, exactly; packing lays those out for the kernels.

use half::f16;

/// Bits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bits {
    /// 0 to 15.
    Four,
    /// 0 to 31.
    Five,
    /// 0 to 63.
    Six,
    /// 0 to 255.
    Eight,
}

/// How a code becomes a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// `scale · (code − 2^(bits − 1))`, a scale per group.
    Centred,
    /// `scale · (code − zero)`, a scale and a zero per group.
    Zeros,
    /// `scale · code + minimum`, both per group.
    Minima,
    /// `(scale · group scale) · (code − 2^(bits − 1))`: a scale per superblock, a group scale of eight signed bits per group.
    NestedCentred,
    /// `(scale · group scale) · code − (minimum · group minimum)`: a scale and a minimum per superblock, a group scale and a
    /// group minimum of eight bits per group.
    NestedMinima,
}

/// Inputs of a superblock of the nested scalings.
pub const SUPERBLOCK: usize = 256;

/// How quantised weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeFormat {
    /// Bits of a code.
    pub bits: Bits,
    /// Inputs that share a scale; `None`: all of an output. The last group may be shorter. With a nested scaling it divides
    /// [`SUPERBLOCK`].
    pub group: Option<usize>,
    /// How codes become weights.
    pub scaling: Scaling,
}

/// One output's codes, and what makes weights of them. What the scaling does not have stays empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CodeRow {
    /// `[inputs]`
    pub codes: Vec<u8>,
    /// Per group, or per superblock when nested.
    pub scales: Vec<f16>,
    /// [`Scaling::Minima`]: per group; [`Scaling::NestedMinima`]: per superblock.
    pub minima: Vec<f16>,
    /// [`Scaling::Zeros`]: per group.
    pub zeros: Vec<u8>,
    /// Nested: per group. Scales of [`Scaling::NestedMinima`] are never negative.
    pub group_scales: Vec<i8>,
    /// [`Scaling::NestedMinima`]: per group.
    pub group_minima: Vec<u8>,
}

/// A stored matrix of quantised weights.
pub trait CodeSource: Sync {
    /// How it is stored.
    fn format(&self) -> CodeFormat;
    /// Rows.
    fn outputs(&self) -> usize;
    /// Columns.
    fn inputs(&self) -> usize;
    /// Reads outputs `first .. first + rows.len()`, overwriting `rows` (at most sixteen: what is stored sixteen outputs wide is
    /// read once).
    ///
    /// # Panics
    /// When there are no such outputs.
    fn read(&self, first: usize, rows: &mut [CodeRow]);
}
