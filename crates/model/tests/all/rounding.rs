//! How activations are rounded where they meet weights, keys and values: the part of the oracle that has more than one answer.

use folio_kernels::CodeFormat;
use folio_model::Dtype;
use folio_model::weights::Stored;

use crate::naive::round;

/// Whose rule is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activations {
    /// Nothing is rounded.
    Exact,
    /// The kernels': eight bits beside codes, bf16 beside bf16.
    Kernels,
    /// llama.cpp's on a CPU: eight bits beside codes with a scale in f16, sixteen beside sixteen; in attention, queries and the sums of
    /// values are f16, too.
    LlamaCpp,
}

impl Activations {
    /// What weights that are kept so are multiplied with.
    pub(crate) fn beside(self, stored: Stored, x: &[f64]) -> Vec<f64> {
        match (self, stored) {
            (Self::Kernels, Stored::Codes { format, .. }) => in_groups(format, x, |scale| scale),
            (Self::LlamaCpp, Stored::Codes { format, .. }) => {
                in_groups(format, x, |scale| half::f16::from_f32(scale).to_f32())
            }
            (Self::Kernels | Self::LlamaCpp, Stored::Floats(Dtype::Bf16)) => {
                x.iter().map(|&x| round(x as f32, Dtype::Bf16)).collect()
            }
            (Self::LlamaCpp, Stored::Floats(Dtype::F16)) => x.iter().map(|&x| half(x)).collect(),
            _ => x.to_vec(),
        }
    }

    /// What keys are multiplied with.
    pub(crate) fn query(self, x: &[f64]) -> Vec<f64> {
        match self {
            Self::LlamaCpp => x.iter().map(|&x| half(x)).collect(),
            _ => x.to_vec(),
        }
    }

    /// Values, weighed by the softmax of their scores.
    pub(crate) fn mix(self, scores: &[f64], values: &[&[f64]]) -> Vec<f64> {
        if self == Self::LlamaCpp {
            return mix_in_half_precision(scores, values);
        }
        let weights: Vec<f64> = scores.iter().map(|score| score.exp()).collect();
        let total: f64 = weights.iter().sum();
        let sum = |channel: usize| -> f64 {
            values.iter().zip(&weights).map(|(value, weight)| value[channel] * weight).sum()
        };
        (0..values[0].len()).map(|channel| sum(channel) / total).collect()
    }
}

fn half(x: f64) -> f64 {
    round(x as f32, Dtype::F16)
}

/// Eight bits for each group of inputs that shares a scale.
fn in_groups(format: CodeFormat, x: &[f64], kept: impl Fn(f32) -> f32 + Copy) -> Vec<f64> {
    x.chunks(format.group.unwrap_or(x.len())).flat_map(|group| eight_bits(group, kept)).collect()
}

/// Eight bits and a scale; in f32, so that a number in the middle of two steps goes the way it goes in the kernels.
pub(crate) fn eight_bits(group: &[f64], kept: impl Fn(f32) -> f32) -> Vec<f64> {
    let group: Vec<f32> = group.iter().map(|&x| x as f32).collect();
    let largest = group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let scale = f64::from(kept(largest / 127.0));
    group.iter().map(|x| f64::from((x * inverse).round_ties_even()) * scale).collect()
}

/// One position after the other, with sums that are rounded at each.
fn mix_in_half_precision(scores: &[f64], values: &[&[f64]]) -> Vec<f64> {
    let (mut most, mut total) = (f64::NEG_INFINITY, 0.0);
    let mut sums = vec![0.0; values[0].len()];
    for (&score, values) in scores.iter().zip(values) {
        if score > most {
            let factor = (most - score).exp();
            most = score;
            total *= factor;
            sums.iter_mut().for_each(|sum| *sum = half(*sum * factor));
        }
        let weight = (score - most).exp();
        total += weight;
        sums.iter_mut().zip(*values).for_each(|(sum, value)| *sum = half(*sum + value * weight));
    }
    sums.iter().map(|sum| sum / total).collect()
}
