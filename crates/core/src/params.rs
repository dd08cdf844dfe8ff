//! Sampling parameters: parsed once, out of range never again.
//!
//! [`Requested`] is what a caller typed, in the widest types; [`Params::parse`] is the only way to a [`Params`], whose
//! values every later floor may trust. Both HTTP endpoints and the terminal go through this one door.

use crate::ids::Token;

/// Parameters as they were asked for. `None` and empty mean "not given".
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of the OpenAI and vLLM request fields")]
pub struct Requested {
    pub n: Option<i64>,
    pub max_tokens: Option<i64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub seed: Option<i64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub logit_bias: Vec<(i64, f64)>,
    /// Log-probabilities of generated tokens: `Some(k)` asks for the chosen token's and the `k` best.
    pub logprobs: Option<i64>,
    /// Log-probabilities of prompt tokens, likewise.
    pub prompt_logprobs: Option<i64>,
    pub stop_token_ids: Vec<i64>,
    pub ignore_eos: bool,
}

/// What the served model and the server's configuration allow.
#[derive(Clone, Debug)]
pub struct ParamLimits {
    /// Tokens `0..vocab` exist.
    pub vocab: u32,
    /// Most sequences of one request.
    pub max_n: u32,
    /// Most alternatives reported per token.
    pub max_logprobs: u32,
    /// Most entries of `logit_bias`.
    pub max_logit_bias: usize,
    /// Most entries of `stop_token_ids`.
    pub max_stop_token_ids: usize,
    /// The model's end-of-sequence tokens.
    pub eos: Vec<Token>,
}

/// A parameter that cannot be served: the field, and a sentence on what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadParam {
    /// The request field.
    pub field: &'static str,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

/// How the next token is chosen from the logits. Every value is finite and in range.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this, in `(0, 1]`.
    pub top_p: f32,
    /// Keep the `k` likeliest; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this share of the likeliest, in `[0, 1]`.
    pub min_p: f32,
    /// Subtracted once from tokens already generated.
    pub presence_penalty: f32,
    /// Subtracted per occurrence among generated tokens.
    pub frequency_penalty: f32,
    /// Divides (or, below zero, multiplies) the logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens; ids are below the vocabulary.
    pub logit_bias: Vec<(Token, f32)>,
    /// Draws are a hash of (seed, choice, position).
    pub seed: u64,
    /// `Some(k)`: report the log-probability of the chosen token and of the `k` best.
    pub logprobs: Option<u32>,
}

impl Sampling {
    /// Whether choosing needs to know the tokens so far.
    #[must_use]
    pub fn needs_history(&self) -> bool {
        self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.repetition_penalty != 1.0
    }
}

/// The parameters of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Sequences to generate, at least 1.
    pub n: u32,
    /// Tokens to generate per sequence, at least 1; `None`: as many as context and memory allow.
    pub max_tokens: Option<u32>,
    /// Tokens that end a sequence as the model's own end (empty under `ignore_eos`).
    pub eos: Vec<Token>,
    /// Tokens the caller wants to end a sequence.
    pub stop_tokens: Vec<Token>,
    /// `Some(k)`: score every prompt token and report the `k` best at its position.
    pub prompt_logprobs: Option<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl Params {
    /// Checks every parameter against `limits`. `default_seed` is used when the caller gave none.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn parse(
        asked: &Requested,
        limits: &ParamLimits,
        default_seed: u64,
    ) -> Result<Self, BadParam> {
        Ok(Self {
            n: integer("n", asked.n, 1, 1, limits.max_n)?,
            max_tokens: optional("max_tokens", asked.max_tokens, 1, u32::MAX)?,
            eos: if asked.ignore_eos { Vec::new() } else { limits.eos.clone() },
            stop_tokens: stop_tokens(&asked.stop_token_ids, limits)?,
            prompt_logprobs: optional(
                "prompt_logprobs",
                asked.prompt_logprobs,
                0,
                limits.max_logprobs,
            )?,
            sampling: Sampling::parse(asked, limits, default_seed)?,
        })
    }
}

impl Sampling {
    fn parse(asked: &Requested, limits: &ParamLimits, default_seed: u64) -> Result<Self, BadParam> {
        let top_p = float("top_p", asked.top_p, 1.0, 0.0, 1.0)?;
        if top_p == 0.0 {
            return Err(bad("top_p", "must be above 0 and at most 1".to_owned()));
        }
        let repetition_penalty =
            float("repetition_penalty", asked.repetition_penalty, 1.0, 0.0, 10.0)?;
        if repetition_penalty == 0.0 {
            return Err(bad("repetition_penalty", "must be above 0 and at most 10".to_owned()));
        }
        // vLLM spells "all" both as 0 and as -1.
        let top_k = match asked.top_k {
            Some(-1) => 0,
            other => integer("top_k", other, 0, 0, i32::MAX.unsigned_abs())?,
        };
        Ok(Self {
            temperature: float("temperature", asked.temperature, 1.0, 0.0, 100.0)?,
            top_p,
            top_k: if top_k >= limits.vocab { 0 } else { top_k },
            min_p: float("min_p", asked.min_p, 0.0, 0.0, 1.0)?,
            presence_penalty: float("presence_penalty", asked.presence_penalty, 0.0, -2.0, 2.0)?,
            frequency_penalty: float("frequency_penalty", asked.frequency_penalty, 0.0, -2.0, 2.0)?,
            repetition_penalty,
            logit_bias: logit_bias(&asked.logit_bias, limits)?,
            seed: asked.seed.map_or(default_seed, i64::cast_unsigned),
            logprobs: optional("logprobs", asked.logprobs, 0, limits.max_logprobs)?,
        })
    }
}

fn bad(field: &'static str, problem: String) -> BadParam {
    BadParam { field, problem }
}

fn optional(
    field: &'static str,
    value: Option<i64>,
    low: u32,
    high: u32,
) -> Result<Option<u32>, BadParam> {
    let Some(value) = value else { return Ok(None) };
    match u32::try_from(value) {
        Ok(v) if (low..=high).contains(&v) => Ok(Some(v)),
        _ => Err(bad(field, format!("must be from {low} to {high}, not {value}"))),
    }
}

fn integer(
    field: &'static str,
    value: Option<i64>,
    default: u32,
    low: u32,
    high: u32,
) -> Result<u32, BadParam> {
    Ok(optional(field, value, low, high)?.unwrap_or(default))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the range check bounds the value; f32 is the kernels' width"
)]
fn float(
    field: &'static str,
    value: Option<f64>,
    default: f32,
    low: f32,
    high: f32,
) -> Result<f32, BadParam> {
    let Some(value) = value else { return Ok(default) };
    // NaN fails `contains`, so that no comparison further down can be fooled by it.
    if (f64::from(low)..=f64::from(high)).contains(&value) {
        Ok(value as f32)
    } else {
        Err(bad(field, format!("must be a number from {low} to {high}, not {value}")))
    }
}

fn token(field: &'static str, id: i64, vocab: u32) -> Result<Token, BadParam> {
    match u32::try_from(id) {
        Ok(t) if t < vocab => Ok(Token(t)),
        _ => Err(bad(
            field,
            format!("token id {id} does not exist; ids go from 0 to {}", vocab.saturating_sub(1)),
        )),
    }
}

fn stop_tokens(ids: &[i64], limits: &ParamLimits) -> Result<Vec<Token>, BadParam> {
    let most = limits.max_stop_token_ids;
    if ids.len() > most {
        return Err(bad("stop_token_ids", format!("at most {most} entries, not {}", ids.len())));
    }
    ids.iter().map(|&id| token("stop_token_ids", id, limits.vocab)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "bounded to ±100 just before")]
fn logit_bias(entries: &[(i64, f64)], limits: &ParamLimits) -> Result<Vec<(Token, f32)>, BadParam> {
    let most = limits.max_logit_bias;
    if entries.len() > most {
        return Err(bad("logit_bias", format!("at most {most} entries, not {}", entries.len())));
    }
    entries
        .iter()
        .map(|&(id, bias)| {
            if !(-100.0..=100.0).contains(&bias) {
                return Err(bad(
                    "logit_bias",
                    format!("the bias of token {id} must be from -100 to 100, not {bias}"),
                ));
            }
            Ok((token("logit_bias", id, limits.vocab)?, bias as f32))
        })
        .collect()
}
