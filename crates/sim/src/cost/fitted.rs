//! Coefficients of measured steps: what a real engine did, as a model of what it will do.
//!
//! The time of a step is a broken line over its tokens (few tokens wait for the weights, many for the arithmetic) plus linear
//! parts for attention, drawing, copies and swaps. The file is JSON:
//!
//! ```json
//! {"folio_fit": 1, "machine": "…", "model": "…", "block_size": 16,
//!  "tokens": [[1, 5200.0], [8, 5900.0], [64, 21000.0]],
//!  "row_us": 3.0, "draw_us": 20.0, "context_token_us": 0.02, "pair_us": 0.0007, "copy_us": 4.0, "swap_us": 30.0}
//! ```
//! `tokens` holds microseconds of a step that computes so many tokens, ascending; beyond its ends the last piece goes on.

use serde::{Deserialize, Serialize};

use super::{Step, StepCost};

/// The version of the file.
const VERSION: u32 = 1;
/// Numbers of tokens between which the line is broken.
const KNOTS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// Rounds of the fit; each reduces the error by every coefficient in turn.
const ROUNDS: usize = 20_000;

/// One measured step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What it did.
    #[serde(flatten)]
    pub step: Step,
    /// How long it took, in microseconds.
    pub micros: f64,
}

/// See the module's documentation. All times are in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the module's documentation names them")]
pub struct Fitted {
    pub folio_fit: u32,
    #[serde(default)]
    pub machine: String,
    #[serde(default)]
    pub model: String,
    pub block_size: u32,
    pub tokens: Vec<(u64, f64)>,
    #[serde(default)]
    pub row_us: f64,
    #[serde(default)]
    pub draw_us: f64,
    #[serde(default)]
    pub context_token_us: f64,
    #[serde(default)]
    pub pair_us: f64,
    #[serde(default)]
    pub copy_us: f64,
    #[serde(default)]
    pub swap_us: f64,
}

/// A fit that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFit {
    /// Not what a fit looks like.
    #[error("is no fit: {0}")]
    Json(String),
    /// Written by something newer.
    #[error("has folio_fit = {0}; this version reads {VERSION}")]
    Version(u32),
    /// A number that cannot be.
    #[error("{0} must be {1}")]
    Field(&'static str, &'static str),
}

impl Fitted {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`BadFit`] names the field.
    pub fn parse(text: &str) -> Result<Self, BadFit> {
        let fit: Self = serde_json::from_str(text).map_err(|e| BadFit::Json(e.to_string()))?;
        if fit.folio_fit != VERSION {
            return Err(BadFit::Version(fit.folio_fit));
        }
        let good = |micros: f64| (0.0..1e12).contains(&micros);
        let ascending = fit.tokens.is_sorted_by(|a, b| a.0 < b.0);
        if fit.tokens.is_empty() || !ascending || !fit.tokens.iter().all(|&(_, us)| good(us)) {
            return Err(BadFit::Field("tokens", "pairs of tokens, ascending, and microseconds"));
        }
        let parts = [
            ("row_us", fit.row_us),
            ("draw_us", fit.draw_us),
            ("context_token_us", fit.context_token_us),
            ("pair_us", fit.pair_us),
            ("copy_us", fit.copy_us),
            ("swap_us", fit.swap_us),
        ];
        match parts.iter().find(|(_, us)| !good(*us)) {
            Some((field, _)) => Err(BadFit::Field(field, "at least 0 and finite")),
            None => Ok(fit),
        }
    }

    /// The fit to measured steps whose relative error is least, with no coefficient below 0, but stretched so that all samples
    /// together take as long as they took: a step that was held up now and then counts for little in the first and for what
    /// it took in the second. Parts that no sample has come out as 0.
    #[must_use]
    pub fn to_samples(samples: &[Sample], block_size: u32) -> Self {
        let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.micros > 0.0).collect();
        let largest = samples.iter().map(|sample| sample.step.tokens).max().unwrap_or(1);
        let used = KNOTS.iter().position(|&knot| knot >= largest).unwrap_or(KNOTS.len() - 1);
        let knots = &KNOTS[..=used];
        // Relative errors: each line is divided by what it should come to.
        let rows: Vec<Vec<f64>> = samples
            .iter()
            .map(|sample| parts(&sample.step, knots).iter().map(|x| x / sample.micros).collect())
            .collect();
        let mut solved = least_squares(&rows, knots.len() + LINEAR);
        let predicted: f64 = samples
            .iter()
            .map(|sample| {
                parts(&sample.step, knots).iter().zip(&solved).map(|(n, us)| n * us).sum::<f64>()
            })
            .sum();
        let measured: f64 = samples.iter().map(|sample| sample.micros).sum();
        if predicted > 0.0 {
            solved.iter_mut().for_each(|us| *us *= measured / predicted);
        }
        let (line, rest) = solved.split_at(knots.len());
        let part = |at: usize| rest.get(at).copied().unwrap_or(0.0);
        Self {
            folio_fit: VERSION,
            machine: String::new(),
            model: String::new(),
            block_size,
            tokens: knots.iter().copied().zip(line.iter().copied()).collect(),
            row_us: part(0),
            draw_us: part(1),
            context_token_us: part(2),
            pair_us: part(3),
            copy_us: part(4),
            swap_us: part(5),
        }
    }

    fn line(&self, tokens: u64) -> f64 {
        let knots: Vec<u64> = self.tokens.iter().map(|&(knot, _)| knot).collect();
        let weights = hats(tokens, &knots);
        let line = weights.iter().zip(&self.tokens).map(|(weight, (_, us))| weight * us).sum();
        f64::max(line, 0.0)
    }
}

/// Coefficients beside those of the broken line.
const LINEAR: usize = 6;

#[allow(clippy::cast_precision_loss, reason = "counts of one step are far below 2^52")]
fn linear(step: &Step) -> [f64; LINEAR] {
    [step.rows, step.draws, step.context, step.pairs, step.copies, step.swaps].map(|n| n as f64)
}

fn parts(step: &Step, knots: &[u64]) -> Vec<f64> {
    let mut parts = hats(step.tokens, knots);
    parts.extend(linear(step));
    parts
}

/// How much each knot of the broken line counts at `tokens`; beyond the ends the nearest piece goes on.
#[allow(clippy::cast_precision_loss, reason = "counts of one step are far below 2^52")]
fn hats(tokens: u64, knots: &[u64]) -> Vec<f64> {
    let mut weights = vec![0.0; knots.len()];
    if tokens == 0 || knots.is_empty() {
        return weights;
    }
    if knots.len() == 1 {
        weights[0] = 1.0;
        return weights;
    }
    let behind = knots.partition_point(|&knot| knot <= tokens).clamp(1, knots.len() - 1);
    let (low, high) = (knots[behind - 1] as f64, knots[behind] as f64);
    let share = (tokens as f64 - low) / (high - low);
    weights[behind - 1] = 1.0 - share;
    weights[behind] = share;
    weights
}

/// Coefficients, none below 0, for which every row comes closest to 1: coordinate descent on the normal equations.
fn least_squares(rows: &[Vec<f64>], count: usize) -> Vec<f64> {
    let mut normal = vec![vec![0.0; count]; count];
    let mut target = vec![0.0; count];
    for row in rows {
        for (i, a) in row.iter().enumerate() {
            target[i] += a;
            for (j, b) in row.iter().enumerate() {
                normal[i][j] += a * b;
            }
        }
    }
    let mut solved = vec![0.0; count];
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for i in 0..count {
            if normal[i][i] <= 0.0 {
                continue;
            }
            let others: f64 = normal[i].iter().zip(&solved).map(|(a, x)| a * x).sum();
            let better: f64 = (solved[i] + (target[i] - others) / normal[i][i]).max(0.0);
            moved = moved.max((better - solved[i]).abs() * normal[i][i].sqrt());
            solved[i] = better;
        }
        if moved < 1e-12 {
            break;
        }
    }
    solved
}

#[allow(clippy::cast_precision_loss, reason = "counts of one step are far below 2^52")]
impl StepCost for Fitted {
    fn seconds(&self, step: &Step) -> f64 {
        let coefficients = [
            self.row_us,
            self.draw_us,
            self.context_token_us,
            self.pair_us,
            self.copy_us,
            self.swap_us,
        ];
        let linear = linear(step).iter().zip(coefficients).map(|(n, us)| n * us).sum::<f64>();
        (self.line(step.tokens) + linear) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_fit_finds_what_made_the_steps() {
        let truth = Fitted {
            tokens: vec![(1, 5000.0), (8, 5600.0), (64, 20_000.0), (512, 150_000.0)],
            context_token_us: 0.8,
            draw_us: 40.0,
            ..Fitted::to_samples(&[], 16)
        };
        let mut random = Random::new(3, 0);
        let samples: Vec<Sample> = (0..400)
            .map(|_| {
                let rows = 1 + random.bits() % 64;
                let tokens = if random.uniform() < 0.3 { rows + random.bits() % 448 } else { rows };
                let context = tokens + rows * (random.bits() % 900);
                let step = Step { tokens, rows, draws: rows, context, ..Step::default() };
                Sample {
                    step,
                    micros: truth.seconds(&step) * 1e6 * (0.98 + 0.04 * random.uniform()),
                }
            })
            .collect();
        let fit = Fitted::to_samples(&samples, 16);
        for sample in &samples {
            let (is, should) = (fit.seconds(&sample.step), truth.seconds(&sample.step));
            assert!((is / should - 1.0).abs() < 0.06, "{is} for {should}: {:?}", sample.step);
        }
        let text = serde_json::to_string(&fit).unwrap();
        let back = Fitted::parse(&text).unwrap();
        assert!((back.context_token_us / fit.context_token_us - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let problem = |text: &str| Fitted::parse(text).unwrap_err().to_string();
        assert!(problem("{").contains("no fit"));
        let with = |rest: &str| format!("{{\"folio_fit\": 1, \"block_size\": 16, {rest}}}");
        assert!(problem(&with("\"tokens\": []")).contains("tokens"));
        assert!(problem(&with("\"tokens\": [[2, 1.0], [1, 2.0]]")).contains("ascending"));
        assert!(problem(&with("\"tokens\": [[1, 1.0]], \"pair_us\": -1.0")).contains("pair_us"));
        assert!(problem(&with("\"tokens\": [[1, 1.0]], \"pear_us\": 1.0")).contains("pear_us"));
        let newer = "{\"folio_fit\": 2, \"block_size\": 16, \"tokens\": [[1, 1.0]]}";
        assert!(problem(newer).contains("folio_fit = 2"));
    }
}
