//! From one row of logits to one token, and to log-probabilities.
//!
//! The order is vLLM's: bias, penalties, mask, temperature, `min_p`, `top_k`, `top_p`, draw. The draw is a hash of (seed, choice,
//! position) walked down the cumulative distribution in a fixed order, so recomputation, other batches and replays choose
//! the same token. Ties go to the lowest id. The vocabulary is never sorted as a whole unless `top_p` asks for nearly all
//! of it. Log-probabilities are those of the model's own distribution, before everything else.

use folio_core::exec::{DrawFault, Drawn, Score};
use folio_core::ids::Token;
use folio_core::params::Sampling;
use folio_kernels::{Isa, all_finite, argmax, exp_in_place, log_sum_exp, max};

/// What one draw needs to know besides the logits.
#[derive(Clone, Copy, Debug)]
pub struct DrawInput<'a> {
    /// How to choose.
    pub sampling: &'a Sampling,
    /// Which of the request's choices.
    pub choice: u32,
    /// Position of the new token.
    pub position: u32,
    /// Prompt and output so far, where penalties need them.
    pub history: &'a [Token],
    /// How many of them are prompt.
    pub history_prompt: usize,
    /// Tokens that must not be chosen; others may be.
    pub banned: &'a [Token],
    /// Which tokens may be chosen, see [`folio_core::plan::allows`]; empty allows all.
    pub mask: &'a [u32],
}

/// Memory for sampling, one per thread, as large as the vocabulary once used.
#[derive(Debug, Default)]
pub struct SampleWork {
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
    counts: Vec<u32>,
}

/// Bytes that [`SampleWork`] holds per token of the vocabulary.
pub const WORK_BYTES_PER_TOKEN: usize =
    2 * size_of::<f32>() + size_of::<Candidate>() + size_of::<u32>();

/// A token as a number that sorts by logit, then lowest id: the larger the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn new(logit: f32, id: u32) -> Self {
        let bits = logit.to_bits();
        // The usual trick: after it, floats in order are unsigned integers in order.
        let ordered = if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits };
        Self(u64::from(ordered) << 32 | u64::from(!id))
    }

    #[allow(clippy::cast_possible_truncation, reason = "the lower half is the id")]
    fn id(self) -> u32 {
        !(self.0 as u32)
    }
}

/// Chooses a token from `row`.
///
/// # Errors
/// When the model's logits are not all finite, or no token may be chosen.
pub fn draw(
    isa: Isa,
    row: &[f32],
    input: &DrawInput<'_>,
    work: &mut SampleWork,
) -> Result<Drawn, DrawFault> {
    if !all_finite(isa, row) {
        return Err(DrawFault::NotFinite);
    }
    let token = Token(choose(isa, row, input, work).ok_or(DrawFault::NothingAllowed)?);
    let score = input.sampling.logprobs.map(|k| score(isa, row, token, k as usize));
    Ok(Drawn { token, score })
}

/// The log-probability of `token` and of the `alternatives` best. Not a number where the logits are not finite.
#[must_use]
pub fn score(isa: Isa, row: &[f32], token: Token, alternatives: usize) -> Score {
    if !all_finite(isa, row) {
        return Score { logprob: f32::NAN, top: Vec::new() };
    }
    let total = log_sum_exp(isa, row);
    let logprob = |id: usize| row.get(id).map_or(f32::NEG_INFINITY, |logit| logit - total);
    let top = best(row, alternatives)
        .iter()
        .map(|c| (Token(c.id()), logprob(Token(c.id()).index())))
        .collect();
    Score { logprob: logprob(token.index()), top }
}

/// The `count` best of `row`, best first. Takes time in proportion to the row, however many are wanted.
fn best(row: &[f32], count: usize) -> Vec<Candidate> {
    let count = count.min(row.len());
    if count == 0 {
        return Vec::new();
    }
    let mut best: Vec<Candidate> = Vec::with_capacity(2 * count);
    let mut least = Candidate(0);
    for (id, &logit) in (0..).zip(row) {
        let candidate = Candidate::new(logit, id);
        if candidate < least {
            continue;
        }
        best.push(candidate);
        // Twice as many as are wanted: the lesser half goes at once.
        if best.len() == 2 * count {
            let (_, worst, _) = best.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
            least = *worst;
            best.truncate(count);
        }
    }
    best.sort_unstable_by(|a, b| b.cmp(a));
    best.truncate(count);
    best
}

/// `None` when nothing is allowed.
fn choose(isa: Isa, row: &[f32], input: &DrawInput<'_>, work: &mut SampleWork) -> Option<u32> {
    let sampling = input.sampling;
    let SampleWork { adjusted, weights, candidates, counts } = work;
    let unbent = sampling.logit_bias.is_empty() && !sampling.needs_history();
    let free = sampling.allowed.is_none() && input.banned.is_empty() && input.mask.is_empty();
    let logits = if unbent && free {
        row
    } else {
        adjusted.clear();
        adjusted.extend_from_slice(row);
        if !unbent {
            adjust(adjusted, input, counts);
        }
        forbid(adjusted, input);
        if !input.mask.is_empty() && !restrict(adjusted, input.mask) {
            return None;
        }
        adjusted
    };
    if sampling.temperature == 0.0 {
        return Some(id(argmax(isa, logits)));
    }
    let pool = Pool { isa, logits, peak: max(isa, logits), sampling };
    let uniform = uniform(sampling.seed, input.choice, input.position);
    Some(if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        pool.draw_from_all(uniform, weights)
    } else {
        pool.draw_from_best(uniform, weights, candidates)
    })
}

/// Makes minus infinity of what the mask does not allow; whether anything is left.
fn restrict(logits: &mut [f32], mask: &[u32]) -> bool {
    let mut left = false;
    for (place, chunk) in logits.chunks_mut(32).enumerate() {
        let word = mask.get(place).copied().unwrap_or(0);
        if word == 0 {
            chunk.fill(f32::NEG_INFINITY);
            continue;
        }
        for (bit, logit) in chunk.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            } else {
                left |= *logit > f32::NEG_INFINITY;
            }
        }
    }
    left
}

/// Bias, then penalties; the result stays finite.
fn adjust(logits: &mut [f32], input: &DrawInput<'_>, counts: &mut Vec<u32>) {
    const SEEN: u32 = 1 << 31;
    let sampling = input.sampling;
    for &(token, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(token.index()) {
            *logit += bias;
        }
    }
    if sampling.needs_history() {
        counts.resize(logits.len(), 0);
        for (place, token) in input.history.iter().enumerate() {
            if let Some(count) = counts.get_mut(token.index()) {
                *count = (*count | SEEN) + u32::from(place >= input.history_prompt);
            }
        }
        for token in input.history {
            let Some(count) = counts.get_mut(token.index()) else { continue };
            // Taking the count leaves zeros behind for the next draw and counts each token once.
            let seen = std::mem::take(count);
            if let (true, Some(logit)) = (seen != 0, logits.get_mut(token.index())) {
                *logit = penalise(*logit, seen & !SEEN, sampling);
            }
        }
    }
    for logit in logits.iter_mut() {
        *logit = logit.clamp(f32::MIN, f32::MAX);
    }
}

/// Takes every chance from tokens that are banned or not allowed.
fn forbid(logits: &mut [f32], input: &DrawInput<'_>) {
    if let Some(allowed) = &input.sampling.allowed {
        let mut next = 0;
        for token in allowed.iter() {
            if let Some(between) = logits.get_mut(next..token.index()) {
                between.fill(f32::NEG_INFINITY);
            }
            next = token.index() + 1;
        }
        if let Some(rest) = logits.get_mut(next..) {
            rest.fill(f32::NEG_INFINITY);
        }
    }
    for token in input.banned {
        if let Some(logit) = logits.get_mut(token.index()) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
fn penalise(logit: f32, generated: u32, sampling: &Sampling) -> f32 {
    let repetition = sampling.repetition_penalty;
    let mut logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
    if generated > 0 {
        logit -= sampling.frequency_penalty * generated as f32 + sampling.presence_penalty;
    }
    logit
}

/// Finite logits to draw from at a positive temperature.
struct Pool<'a> {
    isa: Isa,
    logits: &'a [f32],
    peak: f32,
    sampling: &'a Sampling,
}

impl Pool<'_> {
    /// Logits below this are dropped by `min_p`.
    fn floor(&self) -> f32 {
        let min_p = self.sampling.min_p;
        if min_p == 0.0 { f32::NEG_INFINITY } else { self.level(min_p.ln()) }
    }

    /// The logit whose log-probability lies `below` (negative) the best one's.
    fn level(&self, below: f32) -> f32 {
        self.peak + below * self.sampling.temperature
    }

    /// Weights relative to the best token's, which has 1: no overflow at any temperature, and never all zero.
    fn weigh(&self, logits: impl Iterator<Item = f32>, weights: &mut Vec<f32>) {
        let (peak, temperature) = (self.peak, self.sampling.temperature);
        weights.clear();
        weights.extend(logits.map(|logit| (logit - peak) / temperature));
        exp_in_place(self.isa, 0.0, weights);
    }

    fn draw_from_all(&self, uniform: f64, weights: &mut Vec<f32>) -> u32 {
        self.weigh(self.logits.iter().copied(), weights);
        let floor = self.floor();
        if floor > f32::NEG_INFINITY {
            for (weight, &logit) in weights.iter_mut().zip(self.logits) {
                if logit < floor {
                    *weight = 0.0;
                }
            }
        }
        id(walk(weights, uniform))
    }

    /// `top_k` and `top_p`: draws from the best, in order from the best.
    fn draw_from_best(
        &self,
        uniform: f64,
        weights: &mut Vec<f32>,
        best: &mut Vec<Candidate>,
    ) -> u32 {
        let (k, share) = (self.sampling.top_k as usize, f64::from(self.sampling.top_p));
        let floor = self.floor();
        if k > 0 {
            self.gather(floor, best, |best| best.len() >= k);
            if best.len() > k {
                best.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
                best.truncate(k);
            }
            best.sort_unstable_by(|a, b| b.cmp(a));
            self.weigh_candidates(best, weights);
            if share < 1.0 {
                let enough = share * sum(weights);
                best.truncate(prefix(weights, enough));
            }
        } else {
            self.weigh(self.logits.iter().copied().filter(|&l| l >= floor), weights);
            let enough = share * sum(weights);
            self.gather(floor, best, |best| {
                self.weigh_candidates(best, weights);
                sum(weights) >= enough
            });
            self.sort_until(enough, best, weights);
        }
        self.weigh_candidates(best, weights);
        best.get(walk(weights, uniform)).map_or(0, |c| c.id())
    }

    /// Collects the best tokens, unsorted: those above a level that is lowered until they are `enough` or all.
    fn gather(
        &self,
        floor: f32,
        best: &mut Vec<Candidate>,
        mut enough: impl FnMut(&[Candidate]) -> bool,
    ) {
        for below in [-7.0, -14.0, -28.0, f32::NEG_INFINITY] {
            let level = self.level(below).max(floor);
            best.clear();
            let good = (0..).zip(self.logits).filter(|(_, logit)| **logit >= level);
            best.extend(good.map(|(id, &logit)| Candidate::new(logit, id)));
            if level == floor || enough(best) {
                return;
            }
        }
    }

    /// Keeps the shortest run of the best whose weights reach `enough`, best first; sorts little more than that run.
    fn sort_until(&self, enough: f64, best: &mut Vec<Candidate>, weights: &mut Vec<f32>) {
        let mut sorted = 256;
        while sorted < best.len() {
            best.select_nth_unstable_by(sorted, |a, b| b.cmp(a));
            let (head, _) = best.split_at(sorted);
            self.weigh_candidates(head, weights);
            if sum(weights) >= enough {
                break;
            }
            sorted *= 4;
        }
        best.truncate(sorted);
        best.sort_unstable_by(|a, b| b.cmp(a));
        self.weigh_candidates(best, weights);
        best.truncate(prefix(weights, enough));
    }

    fn weigh_candidates(&self, candidates: &[Candidate], weights: &mut Vec<f32>) {
        let logit = |c: &Candidate| self.logits.get(Token(c.id()).index()).copied();
        self.weigh(candidates.iter().filter_map(logit), weights);
    }
}

/// In eight lanes, so that it runs at the speed of the memory; the order depends on the length alone.
fn sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<8>();
    let mut lanes = [0.0_f64; 8];
    for chunk in chunks {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight);
        }
    }
    let rest: f64 = rest.iter().map(|&w| f64::from(w)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// How many weights from the front reach `enough`; at least one.
fn prefix(weights: &[f32], enough: f64) -> usize {
    let mut total = 0.0;
    for (place, &weight) in weights.iter().enumerate() {
        total += f64::from(weight);
        if total >= enough {
            return place + 1;
        }
    }
    weights.len()
}

/// The place at which the running sum passes `uniform` of the whole, never one of weight zero.
fn walk(weights: &[f32], uniform: f64) -> usize {
    const CHUNK: usize = 256;
    let goal = uniform * weights.chunks(CHUNK).map(sum).sum::<f64>();
    let mut passed = 0.0;
    let mut last = 0; // start of the last chunk that has weight
    for (start, chunk) in (0..).step_by(CHUNK).zip(weights.chunks(CHUNK)) {
        let whole = sum(chunk);
        if passed + whole > goal {
            return start + within(chunk, goal - passed);
        }
        if whole > 0.0 {
            last = start;
        }
        passed += whole;
    }
    // Rounding may leave the goal a hair beyond the end.
    last + weights.get(last..).map_or(0, |rest| within(rest, f64::INFINITY))
}

/// The place at which the running sum passes `goal`, or the last one that has weight.
fn within(weights: &[f32], goal: f64) -> usize {
    let mut total = 0.0;
    let mut last = 0;
    for (place, &weight) in weights.iter().enumerate() {
        total += f64::from(weight);
        if weight > 0.0 {
            last = place;
            if total > goal {
                break;
            }
        }
    }
    last
}

/// A number in `[0, 1)` that depends on the three and on nothing else.
#[allow(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
fn uniform(seed: u64, choice: u32, position: u32) -> f64 {
    let counter = u64::from(choice) << 32 | u64::from(position);
    let bits = mix(mix(seed ^ 0x9e37_79b9_7f4a_7c15) ^ counter);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// A bijection of 64 bits that spreads every input bit over all output bits.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn id(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
