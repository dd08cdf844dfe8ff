//! The oracle: every operation as plain loops in f64, weights rounded as they are stored, activations where the chosen rule
//! says, nothing else rounded.
//!
//! It shares no kernel with the CPU backend. Its attention gathers keys and values through the block table into one
//! contiguous list and takes an ordinary softmax over it.

use std::collections::HashMap;
use std::ops::Range;

use folio_core::exec::{Drawn, Score};
use folio_core::ids::Token;
use folio_core::plan::StepPlan;
use folio_kernels::{
    Activation, AttendSpec, Bits, CodeFormat, CodeRow, CodeSource, Epilogue, KvShape, SUPERBLOCK,
    Scaling,
};
use folio_model::backend::{Answer, Backend, Linear, Norm, Rotation, Step, Task, Want};
use folio_model::rope::RopeStyle;
use folio_model::spec::NormKind;
use folio_model::weights::{Elements, LinearTensors, MatrixLayout, Stored};
use folio_model::{Dtype, KvDtype, ModelError};

use crate::rounding::{Activations, eight_bits};

pub(crate) struct Naive(pub(crate) Activations);

/// Rows of equal width.
#[derive(Clone, Debug)]
pub(crate) struct Rows(pub(crate) Vec<Vec<f64>>);

/// Weights, and how many rows are kept in which way.
pub(crate) struct NaiveMatrix {
    rows: Vec<Vec<f64>>,
    parts: Vec<(usize, Stored)>,
}

/// All heads of one position.
type KeyValue = (Vec<f64>, Vec<f64>);

/// Keys and values by layer, block and slot.
pub(crate) struct NaiveCache {
    shape: KvShape,
    entries: HashMap<(usize, u32, usize), KeyValue>,
}

pub(crate) fn round(value: f32, dtype: Dtype) -> f64 {
    f64::from(match dtype {
        Dtype::F32 => value,
        Dtype::F16 => half::f16::from_f32(value).to_f32(),
        Dtype::Bf16 => half::bf16::from_f32(value).to_f32(),
    })
}

/// All heads of one position's keys or values, as they are stored.
fn kept(x: &[f64], head_dim: usize, dtype: KvDtype) -> Vec<f64> {
    let all = |dtype| x.iter().map(|&v| round(v as f32, dtype)).collect();
    match dtype {
        KvDtype::F32 => all(Dtype::F32),
        KvDtype::F16 => all(Dtype::F16),
        KvDtype::Bf16 => all(Dtype::Bf16),
        KvDtype::Int8 => x.chunks(head_dim).flat_map(|head| eight_bits(head, |x| x)).collect(),
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
    }
}

/// The error function: its power series near zero, where that converges fast, its continued fraction beyond.
fn erf(x: f64) -> f64 {
    let (t, scale) = (x.abs(), 2.0 / std::f64::consts::PI.sqrt());
    let value = if t < 3.0 {
        let (mut term, mut sum) = (t, t);
        for n in 1..100 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        scale * sum
    } else {
        let fraction = (1..60).rev().fold(0.0, |below, n| f64::from(n) / 2.0 / (t + below));
        1.0 - (-t * t).exp() * scale / 2.0 / (t + fraction)
    };
    value.copysign(x)
}

fn norm_row(norm: &Norm<Naive>, x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = match norm.spec.kind {
        NormKind::Layer => x.iter().sum::<f64>() / n,
        NormKind::Rms | NormKind::RmsUnitOffset => 0.0,
    };
    let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (square + f64::from(norm.spec.epsilon)).sqrt();
    let offset = if norm.spec.kind == NormKind::RmsUnitOffset { 1.0 } else { 0.0 };
    let bias = |i: usize| norm.bias.as_ref().map_or(0.0, |bias| bias[i]);
    let weighed = x.iter().zip(&norm.weight).enumerate();
    weighed.map(|(i, (v, w))| (v - mean) * factor * (w + offset) + bias(i)).collect()
}

fn rotate(style: RopeStyle, head: &mut [f64], dims: usize, cos: &[f32], sin: &[f32]) {
    let half = dims / 2;
    for i in 0..half {
        let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
        let (first, second) = match style {
            RopeStyle::Half => (i, i + half),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * c - b * s;
        head[second] = b * c + a * s;
    }
}

/// The code of zero where there are as many on both sides of it.
fn centre(bits: Bits) -> f32 {
    match bits {
        Bits::Four => 8.0,
        Bits::Five => 16.0,
        Bits::Six => 32.0,
        Bits::Eight => 128.0,
    }
}

/// What codes stand for: the published definitions, in f32 as their reference computes them.
pub(crate) fn weights(format: CodeFormat, row: &CodeRow) -> Vec<f32> {
    let group = format.group.unwrap_or(row.codes.len());
    let centre = centre(format.bits);
    let one = |(i, code): (usize, &u8)| {
        let (code, g, s) = (f32::from(*code), i / group, i / SUPERBLOCK);
        match format.scaling {
            Scaling::Centred => row.scales[g].to_f32() * (code - centre),
            Scaling::Zeros => row.scales[g].to_f32() * (code - f32::from(row.zeros[g])),
            Scaling::Minima => row.scales[g].to_f32() * code + row.minima[g].to_f32(),
            Scaling::NestedCentred => {
                row.scales[s].to_f32() * f32::from(row.group_scales[g]) * (code - centre)
            }
            Scaling::NestedMinima => {
                let scale = row.scales[s].to_f32() * f32::from(row.group_scales[g]);
                scale * code - row.minima[s].to_f32() * f32::from(row.group_minima[g])
            }
        }
    };
    row.codes.iter().enumerate().map(one).collect()
}

/// All rows of a matrix of codes.
pub(crate) fn read_weights(source: &dyn CodeSource, rows: Range<usize>) -> Vec<Vec<f32>> {
    let mut row = [CodeRow::default()];
    rows.map(|output| {
        source.read(output, &mut row);
        weights(source.format(), &row[0])
    })
    .collect()
}

/// A group of weights by the rule of quantisation on load: the largest gets the largest code that both signs have.
fn quantised(bits: Bits) -> impl Fn(&[f32]) -> Vec<f64> {
    let most = centre(bits) - 1.0;
    move |group| {
        let largest = group.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let scale = half::f16::from_f32(largest / most).to_f32();
        let code = |x: &f32| (x / scale).round_ties_even().clamp(-most - 1.0, most);
        let weight = |x| if scale > 0.0 { f64::from(scale * code(x)) } else { 0.0 };
        group.iter().map(weight).collect()
    }
}

impl Naive {
    /// A row times a matrix, plus bias.
    fn products(&self, l: &Linear<Self>, x: &[f64]) -> Vec<f64> {
        let (mut y, mut weights) = (Vec::new(), l.matrix.rows.iter());
        for &(outputs, stored) in &l.matrix.parts {
            let x = self.0.beside(stored, x);
            let dot = |w: &Vec<f64>| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
            y.extend(weights.by_ref().take(outputs).map(dot));
        }
        if let Some(bias) = &l.bias {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        y
    }
}

impl Backend for Naive {
    type Matrix = NaiveMatrix;
    type Vector = Vec<f64>;
    type Buffer = Rows;
    type Cache = NaiveCache;

    fn matrix(
        &self,
        t: &LinearTensors<'_>,
        layout: &MatrixLayout,
    ) -> Result<NaiveMatrix, ModelError> {
        let mut rows = Vec::new();
        for ((tensor, stored, range), (_, kept)) in t.parts.iter().zip(&layout.parts) {
            let values = match &tensor.elements {
                Elements::Floats(raw) => raw.to_f32(),
                Elements::Codes { source, .. } => {
                    let exact = read_weights(&**source, range.clone()).into_iter();
                    rows.extend(exact.map(|row| row.into_iter().map(f64::from).collect()));
                    continue;
                }
                Elements::Packed { .. } => {
                    return Err(ModelError::Machine(
                        "the oracle reads no packed weights".to_owned(),
                    ));
                }
            };
            for output in range.clone() {
                let at = |input: usize| match t.transposed {
                    true => values[input * stored + output],
                    false => values[output * t.inputs + input],
                };
                let floats = (0..t.inputs).map(at);
                rows.push(match kept {
                    Stored::Floats(dtype) => floats.map(|x| round(x, *dtype)).collect(),
                    Stored::Codes { format, .. } => {
                        let group = format.group.unwrap_or(t.inputs);
                        floats
                            .collect::<Vec<_>>()
                            .chunks(group)
                            .flat_map(quantised(format.bits))
                            .collect()
                    }
                });
            }
        }
        Ok(NaiveMatrix { rows, parts: layout.parts.clone() })
    }

    fn vector(&self, values: Vec<f32>) -> Vec<f64> {
        values.into_iter().map(f64::from).collect()
    }

    fn buffer(&self, rows: usize, width: usize) -> Result<Rows, ModelError> {
        Ok(Rows(vec![vec![0.0; width]; rows]))
    }

    fn cache(&self, shape: KvShape) -> Result<NaiveCache, ModelError> {
        Ok(NaiveCache { shape, entries: HashMap::new() })
    }

    fn look_up(&self, table: &NaiveMatrix, ids: &[u32], out: &mut Rows) {
        for (&id, out) in ids.iter().zip(&mut out.0) {
            out.clone_from(&table.rows[id as usize]);
        }
    }

    fn add_rows(&self, table: &NaiveMatrix, ids: &[u32], _: &mut Rows, x: &mut Rows) {
        for (&id, x) in ids.iter().zip(&mut x.0) {
            x.iter_mut().zip(&table.rows[id as usize]).for_each(|(x, t)| *x += t);
        }
    }

    fn scale(&self, factor: f32, rows: usize, x: &mut Rows) {
        x.0[..rows].iter_mut().flatten().for_each(|v| *v *= f64::from(factor));
    }

    fn norm(&self, norm: &Norm<Self>, rows: usize, x: &Rows, out: &mut Rows) {
        for (x, out) in x.0[..rows].iter().zip(&mut out.0) {
            *out = norm_row(norm, x);
        }
    }

    fn norm_add(&self, norm: &Norm<Self>, rows: usize, x: &Rows, residual: &mut Rows) {
        for (x, residual) in x.0[..rows].iter().zip(&mut residual.0) {
            residual.iter_mut().zip(norm_row(norm, x)).for_each(|(r, n)| *r += n);
        }
    }

    fn linear(&self, l: &Linear<Self>, epilogue: Epilogue, rows: usize, x: &Rows, out: &mut Rows) {
        for (x, out) in x.0[..rows].iter().zip(&mut out.0) {
            let y = self.products(l, x);
            match epilogue {
                Epilogue::Store => *out = y,
                Epilogue::Add => out.iter_mut().zip(y).for_each(|(o, y)| *o += y),
                Epilogue::Activate(a) => *out = y.into_iter().map(|y| activate(a, y)).collect(),
                Epilogue::Gated(a) => {
                    let (gate, up) = y.split_at(y.len() / 2);
                    *out = gate.iter().zip(up).map(|(g, u)| activate(a, *g) * u).collect();
                }
            }
        }
    }

    fn rotate_and_store(
        &self,
        r: &Rotation<'_, Self>,
        step: &Step,
        layer: usize,
        qkv: &mut Rows,
        cache: &mut NaiveCache,
    ) {
        let half = r.dims / 2;
        for (token, row) in qkv.0[..step.tokens.len()].iter_mut().enumerate() {
            for (head, x) in row.chunks_mut(r.head_dim).take(r.heads + r.kv_heads).enumerate() {
                if let Some((query, key)) = r.head_norms {
                    x.copy_from_slice(&norm_row(if head < r.heads { query } else { key }, x));
                }
                let from = step.position_rows[token] as usize * half;
                if r.dims > 0 {
                    rotate(
                        r.style,
                        x,
                        r.dims,
                        &step.cos[from..from + half],
                        &step.sin[from..from + half],
                    );
                }
            }
        }
        let KvShape { block_size, dtype, .. } = cache.shape;
        let (queries, kv) = (r.heads * r.head_dim, r.kv_heads * r.head_dim);
        let stored = |x: &[f64]| kept(x, r.head_dim, dtype);
        for sequence in &step.sequences {
            for (i, token) in sequence.tokens.clone().enumerate() {
                let position = sequence.start + i;
                let block = step.blocks[sequence.blocks.clone()][position / block_size];
                let (k, v) = qkv.0[token][queries..].split_at(kv);
                cache.entries.insert((layer, block, position % block_size), (stored(k), stored(v)));
            }
        }
    }

    fn attend(
        &self,
        spec: &AttendSpec,
        step: &Step,
        layer: usize,
        qkv: &Rows,
        cache: &NaiveCache,
        out: &mut Rows,
    ) {
        let KvShape { block_size, kv_heads, head_dim, .. } = cache.shape;
        for sequence in &step.sequences {
            let table = &step.blocks[sequence.blocks.clone()];
            for (i, token) in sequence.tokens.clone().enumerate() {
                let end = sequence.start + i + 1;
                let first = spec.window.map_or(0, |window| end.saturating_sub(window));
                let seen: Vec<_> = (first..end)
                    .map(|p| &cache.entries[&(layer, table[p / block_size], p % block_size)])
                    .collect();
                for head in 0..spec.heads {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let from = head / (spec.heads / kv_heads) * head_dim;
                    let kv = from..from + head_dim;
                    let query = self.0.query(&qkv.0[token][columns.clone()]);
                    let scores = seen.iter().map(|(k, _)| {
                        let dot: f64 = query.iter().zip(&k[kv.clone()]).map(|(q, k)| q * k).sum();
                        let score = dot * f64::from(spec.scale);
                        spec.softcap
                            .map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    });
                    let values: Vec<_> = seen.iter().map(|(_, v)| &v[kv.clone()]).collect();
                    let mixed = self.0.mix(&scores.collect::<Vec<_>>(), &values);
                    out.0[token][columns].copy_from_slice(&mixed);
                }
            }
        }
    }

    fn pick(&self, rows: &[usize], x: &Rows, out: &mut Rows) {
        for (&row, out) in rows.iter().zip(&mut out.0) {
            out.clone_from(&x.0[row]);
        }
    }

    fn soft_cap(&self, cap: f32, rows: usize, x: &mut Rows) {
        let cap = f64::from(cap);
        x.0[..rows].iter_mut().flatten().for_each(|v| *v = cap * (*v / cap).tanh());
    }

    /// Greedy draws only.
    fn answer(
        &mut self,
        logits: &Rows,
        plan: &StepPlan,
        tasks: &[Task],
        answers: &mut Vec<Answer>,
    ) {
        for task in tasks {
            let row = &logits.0[task.row];
            let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let mut ids: Vec<usize> = (0..row.len()).collect();
            ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let entry = |id: usize| (Token(u32::try_from(id).unwrap()), (row[id] - total) as f32);
            let score = |id: usize, k: usize| Score {
                logprob: entry(id).1,
                top: ids.iter().take(k).map(|&id| entry(id)).collect(),
            };
            answers.push(match task.want {
                Want::Draw(number) => {
                    let sampling = &plan.samplings[plan.draws[number].sampling];
                    assert!(sampling.temperature == 0.0 && !sampling.needs_history());
                    let logprobs = sampling.logprobs.map(|k| score(ids[0], k as usize));
                    Answer::Draw(Ok(Drawn { token: entry(ids[0]).0, score: logprobs }))
                }
                Want::Score { target, alternatives } => {
                    Answer::Score(score(plan.targets[target].index(), alternatives))
                }
            });
        }
    }

    fn read_block(&self, _: u32, _: &NaiveCache, _: &mut [u8]) {
        panic!("the oracle has no swap space");
    }

    fn write_block(&self, _: u32, _: &[u8], _: &mut NaiveCache) {
        panic!("the oracle has no swap space");
    }

    fn populate(&self, _: usize, _: Range<usize>, _: &mut NaiveCache) {}

    fn copy_block(&self, source: u32, destination: u32, cache: &mut NaiveCache) {
        let KvShape { layers, block_size, .. } = cache.shape;
        for layer in 0..layers {
            for slot in 0..block_size {
                match cache.entries.get(&(layer, source, slot)).cloned() {
                    Some(entry) => cache.entries.insert((layer, destination, slot), entry),
                    None => cache.entries.remove(&(layer, destination, slot)),
                };
            }
        }
    }
}
