//! GGUF files made in code, so that there is one of every kind, and that they can be made wrong.

use folio_model::gguf::Kind;

use crate::driver::Random;
use crate::folder::TempFolder;

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    /// A kind of any number, and what follows it.
    Any(u32, Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

/// Kinds with their numbers.
pub(crate) const KINDS: &[(u32, Kind)] = &[
    (0, Kind::F32),
    (1, Kind::F16),
    (30, Kind::BF16),
    (8, Kind::Q8_0),
    (2, Kind::Q4_0),
    (3, Kind::Q4_1),
    (6, Kind::Q5_0),
    (7, Kind::Q5_1),
    (12, Kind::Q4_K),
    (13, Kind::Q5_K),
    (14, Kind::Q6_K),
];

pub(crate) fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.bytes());
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let mut list = |kind: u32, count: usize| {
            out.extend(9_u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::Texts(texts) => list(8, texts.len()),
            Self::Ints(ints) => list(5, ints.len()),
            _ => {}
        }
        match self {
            Self::U32(n) => out.extend([4_u32.to_le_bytes(), n.to_le_bytes()].concat()),
            Self::F32(x) => out.extend([6_u32.to_le_bytes(), x.to_le_bytes()].concat()),
            Self::Flag(flag) => {
                out.extend(7_u32.to_le_bytes());
                out.push(u8::from(*flag));
            }
            Self::Text(value) => {
                out.extend(8_u32.to_le_bytes());
                text(out, value);
            }
            Self::Texts(texts) => texts.iter().for_each(|value| text(out, value)),
            Self::Ints(ints) => out.extend(ints.iter().flat_map(|n| n.to_le_bytes())),
            Self::Any(kind, bytes) => {
                out.extend(kind.to_le_bytes());
                out.extend(bytes);
            }
        }
    }
}

impl File {
    pub(crate) fn new(architecture: &str) -> Self {
        let mut file =
            Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() };
        file.set("general.architecture", Value::Text(architecture.to_owned()));
        file
    }

    /// Sets or replaces a value.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), kind: 0, bytes });
    }

    pub(crate) fn random(
        &mut self,
        name: &str,
        shape: [usize; 2],
        number: u32,
        random: &mut Random,
    ) {
        let kind = KINDS.iter().find(|(n, _)| *n == number).unwrap().1;
        let bytes = random_blocks(random, kind, shape[0] * shape[1]);
        let tensor = Tensor { name: name.to_owned(), shape: shape.to_vec(), kind: number, bytes };
        self.tensors.push(tensor);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut at = 0_usize;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                out.extend((*size as u64).to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend((at as u64).to_le_bytes());
            at = (at + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    /// A folder with this file in it.
    pub(crate) fn write(&self) -> TempFolder {
        let folder = TempFolder::new();
        folder.write("model.gguf", self.bytes());
        folder
    }
}

/// Elements of any kind: random bits, with scales that make weights of an ordinary size.
pub(crate) fn random_blocks(random: &mut Random, kind: Kind, elements: usize) -> Vec<u8> {
    let (block, size) = kind.block();
    let mut out = Vec::new();
    for _ in 0..elements / block {
        let start = out.len();
        match kind {
            Kind::F32 => out.extend((random.float() / 8.0).to_le_bytes()),
            Kind::F16 => out.extend(half::f16::from_f32(random.float() / 8.0).to_le_bytes()),
            Kind::BF16 => out.extend(half::bf16::from_f32(random.float() / 8.0).to_le_bytes()),
            _ => {
                out.extend((0..size).map(|_| (random.next() & 0xFF) as u8));
                let halves: &[(usize, f32)] = match kind {
                    Kind::Q8_0 => &[(0, 0.001)],
                    Kind::Q4_0 | Kind::Q5_0 => &[(0, 0.01)],
                    Kind::Q4_1 | Kind::Q5_1 => &[(0, 0.01), (2, 0.05)],
                    Kind::Q4_K | Kind::Q5_K => &[(0, 0.0003), (2, 0.001)],
                    _ => &[(208, 0.00003)],
                };
                for &(at, size) in halves {
                    let value = half::f16::from_f32(size * random.float()).to_le_bytes();
                    out[start + at..start + at + 2].copy_from_slice(&value);
                }
            }
        }
    }
    out
}

/// A Llama of one layer whose matrices are of `kind`, and every second one of `other`, as far as their rows fill blocks.
pub(crate) fn tiny(kind: u32, other: u32, tied: bool) -> File {
    let random = &mut Random(u64::from(kind) * 7 + u64::from(other) + 1);
    let (hidden, ffn, vocab, kv) = (256, 256, 40, 64);
    let mut file = File::new("llama");
    let counts = [
        ("context_length", 64),
        ("embedding_length", hidden),
        ("block_count", 1),
        ("feed_forward_length", ffn),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 2),
    ];
    for (name, count) in counts {
        file.set(&format!("llama.{name}"), Value::U32(count as u32));
    }
    file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    for name in ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        // No two alike: products with few different weights would often lie in the very middle of two steps.
        let values: Vec<f32> = (0..hidden).map(|_| 1.0 + random.float() / 6.0).collect();
        file.floats(name, &[hidden], &values);
    }
    let matrices = [
        ("token_embd", [vocab, hidden]),
        ("blk.0.attn_q", [hidden, hidden]),
        ("blk.0.attn_k", [kv, hidden]),
        ("blk.0.attn_v", [kv, hidden]),
        ("blk.0.attn_output", [hidden, hidden]),
        ("blk.0.ffn_gate", [ffn, hidden]),
        ("blk.0.ffn_up", [ffn, hidden]),
        ("blk.0.ffn_down", [hidden, ffn]),
        ("output", [vocab, hidden]),
    ];
    for (number, (name, shape)) in matrices.into_iter().enumerate() {
        if name != "output" || !tied {
            let kind = if number % 2 == 0 { kind } else { other };
            file.random(&format!("{name}.weight"), shape, kind, random);
        }
    }
    file
}
