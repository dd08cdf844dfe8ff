//! Random numbers, contexts and comparisons for the other modules.

use folio_kernels::{
    Activation, Context, Dtype, Epilogue, Isa, KvDtype, PackedMatrix, Raw, Segment, WeightFormat,
    linear,
};
use half::{bf16, f16};

/// A small random number generator (splitmix64): the same numbers on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// From -1 to 1.
    pub(crate) fn number(&mut self) -> f32 {
        let bits = u16::try_from(self.next() >> 48).unwrap();
        f32::from(bits) / 32768.0 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

pub(crate) fn context(isa: Isa, threads: usize) -> Context {
    Context::new(threads, isa).expect("threads")
}

/// The fastest instruction set on one thread.
pub(crate) fn alone() -> Context {
    context(Isa::detect(), 1)
}

/// Every instruction set on one thread, and the fastest on two and three.
pub(crate) fn contexts() -> Vec<Context> {
    let mut all: Vec<Context> =
        Isa::all_available().into_iter().map(|isa| context(isa, 1)).collect();
    all.extend([2, 3].map(|threads| context(Isa::detect(), threads)));
    all
}

/// Runs `f` on every context; all must give the bits of the first, which are returned.
pub(crate) fn same_everywhere(f: impl Fn(&Context) -> Vec<f32>) -> Vec<f32> {
    let contexts = contexts();
    let expected = f(&contexts[0]);
    for ctx in &contexts[1..] {
        assert_same_bits(&expected, &f(ctx), &format!("{ctx:?}"));
    }
    expected
}

#[track_caller]
pub(crate) fn assert_same_bits(expected: &[f32], got: &[f32], what: &str) {
    assert_eq!(expected.len(), got.len(), "{what}");
    let differs = expected.iter().zip(got).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs.map(|i| (i, expected[i], got[i])), None, "{what}");
}

/// Every number within `absolute + relative * |expected|`.
#[track_caller]
pub(crate) fn assert_close(
    expected: &[f64],
    got: &[f32],
    absolute: f64,
    relative: f64,
    what: &str,
) {
    assert_eq!(expected.len(), got.len(), "{what}");
    for (i, (want, got)) in expected.iter().zip(got).enumerate() {
        let error = (f64::from(*got) - want).abs();
        let bound = absolute + relative * want.abs();
        assert!(
            error <= bound,
            "{what}: number {i} is {got}, not {want} (off by {error:e} > {bound:e})"
        );
    }
}

pub(crate) const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Numbers as a file would hold them.
pub(crate) fn encode(dtype: Dtype, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::Bf16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

/// What is left of numbers that were stored.
pub(crate) fn rounded(dtype: Dtype, numbers: &[f32]) -> Vec<f32> {
    Raw::new(dtype, &encode(dtype, numbers)).to_f32()
}

pub(crate) fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|x| f64::from(*x)).collect()
}

/// A whole matrix of floats.
pub(crate) fn floats(dtype: Dtype, outputs: usize) -> Segment {
    Segment { format: WeightFormat::Float(dtype), outputs }
}

/// What is left of keys or values, heads of `dim` numbers, that were stored in a cache.
pub(crate) fn kept(dtype: KvDtype, dim: usize, numbers: &[f32]) -> Vec<f32> {
    let rounded_to = |dtype| rounded(dtype, numbers);
    match dtype {
        KvDtype::F32 => rounded_to(Dtype::F32),
        KvDtype::F16 => rounded_to(Dtype::F16),
        KvDtype::Bf16 => rounded_to(Dtype::Bf16),
        KvDtype::Int8 => numbers.chunks(dim).flat_map(whole_127ths).collect(),
    }
}

/// A head as int8 keeps it.
fn whole_127ths(head: &[f32]) -> Vec<f32> {
    let largest = head.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let (scale, inverse) = (largest / 127.0, 127.0 / largest);
    head.iter()
        .map(|x| match x {
            _ if !head.iter().all(|x| x.is_finite()) => f32::NAN,
            _ if largest < 1e-35 => 0.0,
            // There is no negative zero among whole numbers.
            x => (x * inverse).round_ties_even() * scale + 0.0,
        })
        .collect()
}

/// The activation of every number: what a linear layer whose weights are 1 ends with.
pub(crate) fn activate(ctx: &Context, activation: Activation, x: &mut [f32]) {
    const OUTPUTS: usize = 16;
    let mut builder = PackedMatrix::builder(&[floats(Dtype::F32, OUTPUTS)], 1).unwrap();
    builder.fill(ctx, 0, Raw::from_f32(&[1.0; OUTPUTS]));
    let mut y = vec![0.0; x.len() * OUTPUTS];
    linear(ctx, x, &builder.finish(), None, Epilogue::Activate(activation), &mut y);
    // Each from another lane than the one before.
    for (i, x) in x.iter_mut().enumerate() {
        *x = y[i * OUTPUTS + i % OUTPUTS];
    }
}
