//! Four-bit weights packed into 32-bit words of a safetensors file: AWQ and GPTQ.
//!
//! Both keep a scale and a zero per group of inputs. AWQ's `qweight` is `[inputs, outputs / 8]` with the eight outputs of a
//! word in an order of its own; GPTQ's is `[inputs / 8, outputs]`, eight inputs to a word in order. Zeros lie eight outputs
//! to a word in both; GPTQ's first format stores them less one.

use folio_kernels::{Bits, CodeFormat, CodeRow, CodeSource, Dtype, Raw, Scaling};
use half::f16;
use safetensors::Dtype as StoredDtype;

use super::files::check_shape;
use super::safetensors::Plain;
use super::stored::Elements;
use crate::error::ModelError;
use crate::fields::Fields;
use crate::spec::bounds;

/// Codes in a word.
const PER_WORD: usize = 8;
const WORD_BYTES: usize = 4;
/// The most inputs that may share a scale.
pub(crate) const MOST_GROUP: usize = 1 << 16;
/// Which of eight outputs each nibble of an AWQ word is, from the lowest.
const AWQ_ORDER: [usize; PER_WORD] = [0, 2, 4, 6, 1, 3, 5, 7];
const IN_ORDER: [usize; PER_WORD] = [0, 1, 2, 3, 4, 5, 6, 7];
const SUPPORTED: &str = "4-bit AWQ (version gemm) and 4-bit GPTQ are, and so are float weights";

const AWQ: &str = "AWQ int4";
const GPTQ: &str = "GPTQ int4";

/// How the quantised layers of a folder are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    method: Method,
    /// Inputs that share a scale; `None`: all.
    group: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Awq,
    /// What is added to a stored zero.
    Gptq(u8),
}

/// Finds the tensors of a layer by what follows its name.
type Lookup<'a, 'b> = dyn Fn(&str) -> Result<Option<Plain<'a>>, ModelError> + 'b;

impl Scheme {
    /// What the kinds of matrices are called.
    pub(crate) const NAMES: [&str; 2] = [AWQ, GPTQ];

    /// Reads `quantization_config` of a `config.json`; `None` where there is none.
    ///
    /// # Errors
    /// When it asks for what is not served, by name.
    pub fn read(config: &Fields) -> Result<Option<Self>, ModelError> {
        let Some(fields) = config.object("quantization_config", "quantization_config.")? else {
            return Ok(None);
        };
        let method = fields.required("quant_method", fields.text("quant_method")?)?;
        let refuse = |field: &str, value: &str| {
            fields.bad(field, format!("is `{value}`, which is not supported; {SUPPORTED}"))
        };
        let method = match method {
            "awq" => {
                let version = fields.text("version")?.unwrap_or("gemm");
                if !version.eq_ignore_ascii_case("gemm") {
                    return Err(refuse("version", version));
                }
                Method::Awq
            }
            "gptq" => match fields.text("checkpoint_format")?.unwrap_or("gptq") {
                "gptq" => Method::Gptq(1),
                "gptq_v2" => Method::Gptq(0),
                other => return Err(refuse("checkpoint_format", other)),
            },
            other => return Err(refuse("quant_method", other)),
        };
        let bits = fields.count("bits", 1..=64)?;
        if fields.required("bits", bits)? != 4 {
            return Err(refuse("bits", &bits.unwrap_or_default().to_string()));
        }
        if fields.flag("zero_point")? == Some(false) && method == Method::Awq {
            return Err(refuse("zero_point", "false"));
        }
        let whole = fields.number("group_size", -1.0..=-1.0).is_ok_and(|size| size.is_some());
        let group = if whole {
            None
        } else {
            let size = fields.count("group_size", 1..=bounds::WIDTH)?;
            Some(fields.required("group_size", size)?)
        };
        Ok(Some(Self { method, group }))
    }

    /// The tensor that tells that a layer is stored this way.
    pub(super) fn codes_name(&self, layer: &str) -> String {
        format!("{layer}.qweight")
    }

    fn name(self) -> &'static str {
        match self.method {
            Method::Awq => AWQ,
            Method::Gptq(_) => GPTQ,
        }
    }

    /// A layer's weights.
    pub(super) fn elements<'a>(
        &self,
        tensor: &Lookup<'a, '_>,
        outputs: usize,
        inputs: usize,
    ) -> Result<Elements<'a>, ModelError> {
        let group = self.group.unwrap_or(inputs).min(inputs);
        let groups = inputs.div_ceil(group);
        let words =
            |suffix: &str, shape: [usize; 2]| needed(tensor, suffix, StoredDtype::I32, &shape);
        if group > MOST_GROUP {
            return Err(ModelError::Unsupported(format!(
                "config.json: `quantization_config.group_size` lets {group} inputs share a scale; at most {MOST_GROUP} may"
            )));
        }
        let codes = match self.method {
            Method::Awq => words("qweight", [inputs, outputs / PER_WORD])?,
            Method::Gptq(_) => words("qweight", [inputs / PER_WORD, outputs])?,
        };
        let packed = if self.method == Method::Awq { outputs } else { inputs };
        if !packed.is_multiple_of(PER_WORD) || !outputs.is_multiple_of(PER_WORD) {
            return Err(ModelError::tensor(
                codes.file,
                &codes.name,
                format!(
                    "holds {outputs} x {inputs} weights, which do not fill words of {PER_WORD}"
                ),
            ));
        }
        let zeros = words("qzeros", [groups, outputs / PER_WORD])?;
        let scales = needed(tensor, "scales", StoredDtype::F16, &[groups, outputs])?;
        if let Some(order) = tensor("g_idx")? {
            in_order(&order, inputs, group)?;
        }
        let source = PackedWords {
            method: self.method,
            outputs,
            inputs,
            group,
            codes: codes.bytes,
            zeros: zeros.bytes,
            scales: Raw::new(Dtype::F16, scales.bytes),
        };
        Ok(Elements::Codes { source: Box::new(source), name: self.name() })
    }
}

fn needed<'a>(
    tensor: &Lookup<'a, '_>,
    suffix: &str,
    dtype: StoredDtype,
    shape: &[usize],
) -> Result<Plain<'a>, ModelError> {
    let found = tensor(suffix)?.ok_or_else(|| {
        ModelError::Unsupported(format!("a layer has `qweight` but no `{suffix}`"))
    })?;
    if found.dtype != dtype {
        return Err(ModelError::tensor(
            found.file,
            &found.name,
            format!("is stored as {:?}; {dtype:?} is needed", found.dtype),
        ));
    }
    check_shape(found.file, &found.name, found.shape, shape)?;
    Ok(found)
}

/// Refuses groups that are scattered over the inputs.
fn in_order(order: &Plain<'_>, inputs: usize, group: usize) -> Result<(), ModelError> {
    check_shape(order.file, &order.name, order.shape, &[inputs])?;
    let (words, _) = order.bytes.as_chunks::<WORD_BYTES>();
    let stored = words.iter().map(|word| usize::try_from(i32::from_le_bytes(*word)));
    if order.dtype == StoredDtype::I32
        && stored.enumerate().all(|(input, of)| of == Ok(input / group))
    {
        return Ok(());
    }
    Err(ModelError::tensor(
        order.file,
        &order.name,
        "scatters groups over the inputs (desc_act with a real order), which is not supported; use a checkpoint made with \
         desc_act false",
    ))
}

/// `[outputs, inputs]` codes in words.
struct PackedWords<'a> {
    method: Method,
    outputs: usize,
    inputs: usize,
    group: usize,
    codes: &'a [u8],
    zeros: &'a [u8],
    /// `[groups, outputs]`
    scales: Raw<'a>,
}

fn word(words: &[u8], at: usize) -> u32 {
    let bytes = &words[at * WORD_BYTES..][..WORD_BYTES];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn nibble(word: u32, place: usize) -> u8 {
    let [low, ..] = (word >> (4 * place)).to_le_bytes();
    low & 0xF
}

impl PackedWords<'_> {
    /// The place in its word of the nibble of an output.
    fn place(&self, output: usize) -> usize {
        let order = match self.method {
            Method::Awq => AWQ_ORDER,
            Method::Gptq(_) => IN_ORDER,
        };
        // The orders are permutations, so there is one.
        order.iter().position(|&o| o == output % PER_WORD).unwrap_or_default()
    }

    /// Appends the codes of outputs `first ..`.
    fn codes(&self, first: usize, rows: &mut [CodeRow]) {
        let places: Vec<_> =
            (first..).take(rows.len()).map(|output| (output, self.place(output))).collect();
        // Inputs outside, so that what lies side by side in the file is read once.
        for input in 0..self.inputs {
            for (row, (output, place)) in rows.iter_mut().zip(&places) {
                row.codes.push(match self.method {
                    Method::Awq => {
                        let at = input * (self.outputs / PER_WORD) + output / PER_WORD;
                        nibble(word(self.codes, at), *place)
                    }
                    Method::Gptq(_) => {
                        let at = input / PER_WORD * self.outputs + output;
                        nibble(word(self.codes, at), input % PER_WORD)
                    }
                });
            }
        }
    }

    fn zero(&self, output: usize, group: usize) -> u8 {
        let at = group * (self.outputs / PER_WORD) + output / PER_WORD;
        let stored = nibble(word(self.zeros, at), self.place(output));
        match self.method {
            Method::Awq => stored,
            Method::Gptq(added) => stored + added,
        }
    }
}

impl CodeSource for PackedWords<'_> {
    fn format(&self) -> CodeFormat {
        let group = (self.group < self.inputs).then_some(self.group);
        CodeFormat { bits: Bits::Four, group, scaling: Scaling::Zeros }
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn read(&self, first: usize, rows: &mut [CodeRow]) {
        let groups = self.inputs.div_ceil(self.group);
        for row in &mut *rows {
            *row = CodeRow::default();
        }
        self.codes(first, rows);
        for (output, row) in (first..).zip(rows) {
            for group in 0..groups {
                let at = group * self.outputs + output;
                let scale = self.scales.slice(at..at + 1).to_f32();
                row.scales.extend(scale.into_iter().map(f16::from_f32));
                row.zeros.push(self.zero(output, group));
            }
        }
    }
}
