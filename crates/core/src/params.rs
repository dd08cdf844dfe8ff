//! Sampling parameters: parsed once, out of range never again.
//!
//! [`Requested`] is what a caller typed, in the widest types; [`Params::parse`] is the only way to a [`Params`], whose
//! values every later floor may trust. Both HTTP endpoints and the terminal go through this one door.

use std::sync::Arc;

pub use crate::ban::Bans;
use crate::ban::allowed;
use crate::ids::Token;

/// Parameters as they were asked for. `None` and empty mean "not given".
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of the OpenAI and vLLM request fields")]
pub struct Requested {
    pub n: Option<i64>,
    pub best_of: Option<i64>,
    pub use_beam_search: bool,
    pub beam_width: Option<i64>,
    pub length_penalty: Option<f64>,
    pub early_stopping: Option<EarlyStopping>,
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
    pub priority: Option<i64>,
    pub min_tokens: Option<i64>,
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Each as tokens.
    pub bad_words: Vec<Vec<Token>>,
}

/// What the served model and the server's configuration allow.
#[derive(Clone, Debug)]
pub struct ParamLimits {
    /// Tokens `0..vocab` exist.
    pub vocab: u32,
    /// Most sequences of one request: choices, samples to choose from, or beams.
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

/// Sampling parameters as the model's makers recommend them (`generation_config.json`); `None` where they say nothing.
/// They go through the same door as a request's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the file")]
pub struct GenerationDefaults {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub max_new_tokens: Option<u32>,
}

impl GenerationDefaults {
    /// Finds a value that no request could have asked for, so that no request is refused for it.
    ///
    /// # Errors
    /// With the first of them.
    pub fn check(&self) -> Result<(), BadParam> {
        let &Self { temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens: _ } =
            self;
        let sampling = Requested { temperature, top_p, top_k, min_p, ..Requested::default() };
        let asked = Requested { repetition_penalty, ..sampling };
        Sampling::parse(&asked, &ParamLimits::plain(1, Vec::new()), 0).map(drop)
    }
}

impl ParamLimits {
    /// For one plain sequence at a time: no alternatives, no log-probabilities, no biases, no stop tokens of the caller's.
    #[must_use]
    pub fn plain(vocab: u32, eos: Vec<Token>) -> Self {
        Self { vocab, max_n: 1, max_logprobs: 0, max_logit_bias: 0, max_stop_token_ids: 0, eos }
    }
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
    /// The only tokens that may be drawn, in order; `None`: all.
    pub allowed: Option<Arc<[Token]>>,
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

/// When a beam search ends; the values and their meaning are those of Hugging Face's `early_stopping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false`: when the best live beam, ended now, would not beat the worst finished hypothesis.
    #[default]
    Heuristic,
    /// `true`: as soon as there are as many finished hypotheses as beams.
    AtOnce,
    /// `"never"`: when the best live beam cannot beat the worst finished hypothesis at any length it may still reach.
    Never,
}

/// How a beam search scores and ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// Live beams, and finished hypotheses kept; at least as many as are returned.
    pub width: u32,
    /// A hypothesis' score is its log-probability divided by its generated length to this power.
    pub length_penalty: f32,
    /// When the search ends.
    pub early_stopping: EarlyStopping,
}

/// How the choices of a request come about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoding {
    /// Independent samples.
    Sample {
        /// How many are generated, at least `n`. Where there are more than `n`, those with the best mean log-probability
        /// are returned.
        best_of: u32,
    },
    /// Beam search.
    Beam(Beams),
}

/// The parameters of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Choices to return, at least 1.
    pub n: u32,
    /// How they come about.
    pub decoding: Decoding,
    /// Tokens to generate per sequence, at least 1; `None`: as many as context and memory allow.
    pub max_tokens: Option<u32>,
    /// Tokens that end a sequence as the model's own end (empty under `ignore_eos`).
    pub eos: Vec<Token>,
    /// Tokens the caller wants to end a sequence.
    pub stop_tokens: Vec<Token>,
    /// `Some(k)`: score every prompt token and report the `k` best at its position.
    pub prompt_logprobs: Option<u32>,
    /// Who goes first among those that wait: the smaller, the sooner.
    pub priority: i32,
    /// What must not be drawn.
    pub bans: Bans,
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
        let n = integer("n", asked.n, 1, 1, limits.max_n)?;
        let decoding = Decoding::parse(asked, limits, n)?;
        if matches!(decoding, Decoding::Beam(_)) {
            require_neutral(asked)?;
        }
        let eos = if asked.ignore_eos { Vec::new() } else { limits.eos.clone() };
        let stop_tokens = stop_tokens(&asked.stop_token_ids, limits)?;
        let sampling = Sampling::parse(asked, limits, default_seed)?;
        let ends = [&eos[..], &stop_tokens[..]].concat();
        Ok(Self {
            n,
            decoding,
            max_tokens: optional("max_tokens", asked.max_tokens, 1, u32::MAX)?,
            prompt_logprobs: optional(
                "prompt_logprobs",
                asked.prompt_logprobs,
                0,
                limits.max_logprobs,
            )?,
            bans: Bans::parse(asked, limits, &ends, sampling.allowed.as_deref())?,
            eos,
            stop_tokens,
            priority: priority(asked.priority)?,
            sampling,
        })
    }

    /// Sequences that run at once: samples to choose from, or beams.
    #[must_use]
    pub fn width(&self) -> u32 {
        match self.decoding {
            Decoding::Sample { best_of } => best_of,
            Decoding::Beam(beams) => beams.width,
        }
    }

    /// Of how many candidates a beam search chooses in a step, all beams together: enough that as many as there are beams go
    /// on, whatever ends.
    #[must_use]
    pub fn candidates(&self) -> u32 {
        let ends = u32::try_from(self.eos.len() + self.stop_tokens.len()).unwrap_or(u32::MAX);
        ends.saturating_add(1).max(2).saturating_mul(self.width())
    }

    /// What an executor is to do for each draw: what was asked for, and the log-probabilities that ranking needs.
    #[must_use]
    pub fn draw_sampling(&self) -> Sampling {
        let mut sampling = self.sampling.clone();
        match self.decoding {
            Decoding::Sample { .. } if !self.is_ranked() => {}
            Decoding::Sample { .. } => sampling.logprobs = sampling.logprobs.max(Some(0)),
            Decoding::Beam(_) => {
                // The token that is drawn is not looked at.
                sampling.temperature = 0.0;
                sampling.logprobs = sampling.logprobs.max(Some(self.candidates()));
            }
        }
        sampling
    }

    /// What [`Self::width`] follows from, as requests spell it.
    #[must_use]
    pub fn width_field(&self) -> &'static str {
        match self.decoding {
            Decoding::Beam(_) => "beam_width",
            Decoding::Sample { best_of } if best_of > self.n => "best_of",
            Decoding::Sample { .. } => "n",
        }
    }

    /// Whether the choices are known only when all sequences have ended: they are ranked and told then, best first.
    #[must_use]
    pub fn is_ranked(&self) -> bool {
        match self.decoding {
            Decoding::Sample { best_of } => best_of > self.n,
            Decoding::Beam(_) => true,
        }
    }
}

impl Decoding {
    fn parse(asked: &Requested, limits: &ParamLimits, n: u32) -> Result<Self, BadParam> {
        let best_of = optional("best_of", asked.best_of, 1, limits.max_n)?;
        if !asked.use_beam_search {
            let foreign = [
                ("beam_width", asked.beam_width.is_some()),
                ("length_penalty", asked.length_penalty.is_some_and(|penalty| penalty != 1.0)),
                (
                    "early_stopping",
                    asked.early_stopping.unwrap_or_default() != EarlyStopping::default(),
                ),
            ];
            if let Some((field, _)) = foreign.into_iter().find(|(_, given)| *given) {
                return Err(bad(field, "needs use_beam_search = true".to_owned()));
            }
            let best_of = best_of.unwrap_or(n);
            return if best_of < n {
                Err(bad("best_of", format!("must be at least n, which is {n}, not {best_of}")))
            } else {
                Ok(Self::Sample { best_of })
            };
        }
        let width = optional("beam_width", asked.beam_width, 1, limits.max_n)?;
        if let (Some(width), Some(best_of)) = (width, best_of)
            && width != best_of
        {
            let problem =
                format!("is another name of beam_width, but they are {best_of} and {width}");
            return Err(bad("best_of", problem));
        }
        let (field, width) = match (width, best_of) {
            (Some(width), _) => ("beam_width", width),
            (None, Some(width)) => ("best_of", width),
            (None, None) => ("n", n),
        };
        if width < n {
            return Err(bad(field, format!("must be at least n, which is {n}, not {width}")));
        }
        // A search over fewer tokens than beams could end with fewer hypotheses than it is to return.
        if width > limits.vocab {
            let most = limits.vocab;
            let problem = format!("must be at most {most}, the number of tokens, not {width}");
            return Err(bad(field, problem));
        }
        Ok(Self::Beam(Beams {
            width,
            length_penalty: float("length_penalty", asked.length_penalty, 1.0, -10.0, 10.0)?,
            early_stopping: asked.early_stopping.unwrap_or_default(),
        }))
    }
}

/// Beams follow the model's own distribution: whatever would bend it is refused rather than ignored.
fn require_neutral(asked: &Requested) -> Result<(), BadParam> {
    let off = |value: Option<f64>, neutral: &[f64]| value.is_some_and(|v| !neutral.contains(&v));
    let bent = [
        ("temperature", off(asked.temperature, &[0.0, 1.0])),
        ("top_p", off(asked.top_p, &[1.0])),
        ("top_k", asked.top_k.is_some_and(|k| !matches!(k, -1 | 0))),
        ("min_p", off(asked.min_p, &[0.0])),
        ("presence_penalty", off(asked.presence_penalty, &[0.0])),
        ("frequency_penalty", off(asked.frequency_penalty, &[0.0])),
        ("repetition_penalty", off(asked.repetition_penalty, &[1.0])),
        ("logit_bias", !asked.logit_bias.is_empty()),
        ("min_tokens", asked.min_tokens.is_some_and(|least| least != 0)),
        ("allowed_token_ids", asked.allowed_token_ids.is_some()),
        ("bad_words", !asked.bad_words.is_empty()),
    ];
    match bent.into_iter().find(|(_, bends)| *bends) {
        Some((field, _)) => {
            Err(bad(field, "cannot be combined with use_beam_search; leave it out".to_owned()))
        }
        None => Ok(()),
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
            allowed: allowed(asked, limits)?,
            seed: asked.seed.map_or(default_seed, i64::cast_unsigned),
            logprobs: optional("logprobs", asked.logprobs, 0, limits.max_logprobs)?,
        })
    }
}

fn priority(asked: Option<i64>) -> Result<i32, BadParam> {
    let asked = asked.unwrap_or(0);
    i32::try_from(asked).map_err(|_| {
        bad("priority", format!("must be from {} to {}, not {asked}", i32::MIN, i32::MAX))
    })
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
