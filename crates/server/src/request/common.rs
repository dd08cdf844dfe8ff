//! The fields both endpoints share, and the one validator they pass through.
//!
//! Every group is destructured without `..`: a field added to a group does not compile until this file says what
//! becomes of it. After [`validate`] the values are in range and typed; see [`Common`].

use folio_core::ids::Salt;
use folio_core::params::{BadParam, GenerationDefaults, Params, Requested};

use super::fields::{Biases, Early, Given, Int, List, Strings, fields, object};
use super::output::{self, ConstraintFields, Output, OutputFields};
use super::unserved::{Neutral, UnservedFields, refuse_unless};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::generate::run::{Run, Usage};
use crate::state::Served;

fields! {
    /// How tokens are chosen.
    pub(crate) struct SamplingFields {
        n: Int,
        temperature: f64,
        top_p: f64,
        top_k: Int,
        min_p: f64,
        seed: Int,
        presence_penalty: f64,
        frequency_penalty: f64,
        repetition_penalty: f64,
        logit_bias: Biases,
        stop_token_ids: List<Int>,
        ignore_eos: bool,
    }
}

fields! {
    /// What is read, where it ends and how it is sent.
    pub(crate) struct SharedFields {
        model: String,
        stop: Strings,
        stream: bool,
        stream_options: StreamOptions,
        add_special_tokens: bool,
        cache_salt: String,
    }
}

fields! {
    /// How the choices come about, where not each is one sample.
    pub(crate) struct DecodingFields {
        best_of: Int,
        use_beam_search: bool,
        beam_width: Int,
        length_penalty: f64,
        early_stopping: Early,
    }
}

fields! {
    /// Options of a streamed answer.
    pub(crate) struct StreamFields {
        include_usage: bool,
        continuous_usage_stats: bool,
        include_obfuscation: Given,
    }
}

/// The value of `stream_options`.
#[derive(Debug)]
pub(crate) struct StreamOptions {
    fields: StreamFields,
}
object!(StreamOptions { fields: StreamFields });

/// What the endpoints spell differently and the validator needs in one spelling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    /// The field `max_tokens` was read from, for messages.
    pub(crate) max_tokens_field: &'static str,
    pub(crate) max_tokens: Option<i64>,
    /// The field `logprobs` was read from, for messages.
    pub(crate) logprobs_field: &'static str,
    pub(crate) logprobs: Option<i64>,
    pub(crate) prompt_logprobs: Option<i64>,
    /// Whether special tokens are added to a prompt unless the request decides.
    pub(crate) add_special_tokens: bool,
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One JSON body.
    Whole,
    /// Server-sent events.
    Stream(UsageReports),
}

/// Which chunks of a stream carry the token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageReports {
    /// None.
    Never,
    /// One more at the end.
    AtEnd,
    /// All, and one more at the end.
    Always,
}

impl UsageReports {
    /// The value of a chunk's `usage`, which holds `usage` if anything; left out when nobody asked.
    pub(crate) fn shown(self, usage: Option<Usage>) -> Option<Option<Usage>> {
        (self != Self::Never).then_some(usage)
    }

    /// What a chunk of choice number `index` says that the choice has taken so far.
    pub(crate) fn so_far(self, run: &Run, index: usize) -> Option<Usage> {
        (self == Self::Always).then(|| run.usage_of(index))
    }
}

/// The shared part of a valid request.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    /// The served name the caller used.
    pub(crate) model: String,
    pub(crate) params: Params,
    /// Non-empty strings that end a choice.
    pub(crate) stops: Vec<String>,
    pub(crate) delivery: Delivery,
    pub(crate) output: Output,
    /// How many tokens of a prompt are read, its last ones.
    pub(crate) truncation: Option<usize>,
    pub(crate) add_special_tokens: bool,
    pub(crate) salt: Salt,
}

/// All groups of fields that the endpoints share.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) shared: SharedFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) decoding: DecodingFields,
    pub(crate) constraints: ConstraintFields,
    pub(crate) output: OutputFields,
    pub(crate) unserved: UnservedFields,
}

/// Checks everything the endpoints share.
pub(crate) fn validate(
    groups: Groups,
    dialect: Dialect,
    served: &Served,
    caller: Caller,
) -> Result<Common, ApiError> {
    let Groups { shared, sampling, decoding, constraints, output, unserved } = groups;
    let SharedFields { model, stop, stream, stream_options, add_special_tokens, cache_salt } =
        shared;
    let model = served.known_model(model)?;
    unserved.refuse()?;
    let truncation = output::truncation(constraints.truncate_prompt_tokens, dialect, served)?;
    let asked = Requested {
        prompt_logprobs: output.prompt_logprobs.map(|k| k.0).or(dialect.prompt_logprobs),
        ..requested(sampling, &decoding, constraints, dialect, served)?
    };
    let params = Params::parse(&asked, &served.param_limits, served.seed_for_one())
        .map_err(|bad| refused(&bad, dialect, output.prompt_logprobs.is_some()))?;
    let delivery = delivery(stream, stream_options)?;
    let stops = stops(stop.unwrap_or_default(), &params, served)?;
    Ok(Common {
        model,
        params,
        stops,
        output: Output::new(&output, delivery != Delivery::Whole)?,
        delivery,
        truncation,
        add_special_tokens: add_special_tokens.unwrap_or(dialect.add_special_tokens),
        salt: salt(caller, cache_salt.as_deref(), served)?,
    })
}

/// What is asked of the model.
fn requested(
    sampling: SamplingFields,
    decoding: &DecodingFields,
    constraints: ConstraintFields,
    dialect: Dialect,
    served: &Served,
) -> Result<Requested, ApiError> {
    let SamplingFields {
        n,
        temperature,
        top_p,
        top_k,
        min_p,
        seed,
        presence_penalty,
        frequency_penalty,
        repetition_penalty,
        logit_bias,
        stop_token_ids,
        ignore_eos,
    } = sampling;
    let &DecodingFields { best_of, use_beam_search, beam_width, length_penalty, early_stopping } =
        decoding;
    let ConstraintFields {
        min_tokens,
        allowed_token_ids,
        bad_words,
        truncate_prompt_tokens: _,
        priority,
    } = constraints;
    if priority.is_some_and(|priority| priority.0 != 0) && !served.priorities {
        let problem = "must be 0: requests are served in order of arrival; --scheduling-policy priority changes that";
        return Err(ApiError::field("priority", problem));
    }
    let defaults = recommended(use_beam_search == Some(true), served);
    Ok(Requested {
        n: n.map(|n| n.0),
        best_of: best_of.map(|k| k.0),
        use_beam_search: use_beam_search.unwrap_or(false),
        beam_width: beam_width.map(|width| width.0),
        length_penalty,
        early_stopping: early_stopping.map(|early| early.0),
        max_tokens: dialect.max_tokens,
        temperature: temperature.or(defaults.temperature),
        top_p: top_p.or(defaults.top_p),
        top_k: top_k.map(|k| k.0).or(defaults.top_k),
        min_p: min_p.or(defaults.min_p),
        seed: seed.map(|seed| seed.0),
        presence_penalty,
        frequency_penalty,
        repetition_penalty: repetition_penalty.or(defaults.repetition_penalty),
        logit_bias: logit_bias.unwrap_or_default().0,
        logprobs: dialect.logprobs,
        prompt_logprobs: None,
        stop_token_ids: stop_token_ids.unwrap_or_default().0.iter().map(|id| id.0).collect(),
        ignore_eos: ignore_eos.unwrap_or(false),
        priority: priority.map(|priority| priority.0),
        min_tokens: min_tokens.map(|least| least.0),
        allowed_token_ids: allowed_token_ids.map(|ids| ids.0),
        bad_words: output::bad_words(bad_words, &served.texts.tokenizer)?,
    })
}

/// What the model's maker recommends. Not for beams, which follow the model's own distribution: only what the caller itself
/// asks for can contradict that.
fn recommended(use_beam_search: bool, served: &Served) -> GenerationDefaults {
    if use_beam_search { GenerationDefaults::default() } else { served.texts.defaults }
}

/// The core's refusal, under the name the caller used.
fn refused(bad: &BadParam, dialect: Dialect, own_prompt_logprobs: bool) -> ApiError {
    let name = match bad.field {
        "max_tokens" => dialect.max_tokens_field,
        "prompt_logprobs" if own_prompt_logprobs => "prompt_logprobs",
        "logprobs" | "prompt_logprobs" => dialect.logprobs_field,
        other => other,
    };
    ApiError::field(name, &bad.problem)
}

fn stops(given: Strings, params: &Params, served: &Served) -> Result<Vec<String>, ApiError> {
    if params.bans.min_tokens > 0 && params.is_ranked() && !given.0.is_empty() {
        let problem =
            "cannot be combined with `stop` where choices are ranked; use `stop_token_ids`";
        return Err(ApiError::field("min_tokens", problem));
    }
    let limits = &served.limits;
    let most = limits.stops;
    if given.0.len() > most {
        let count = given.0.len();
        return Err(ApiError::field("stop", format!("has {count} entries; at most {most}")));
    }
    for stop in &given.0 {
        let longest = limits.stop_bytes;
        if stop.is_empty() {
            return Err(ApiError::field("stop", "has an empty string, which would match at once"));
        }
        if stop.len() > longest {
            let bytes = stop.len();
            return Err(ApiError::field(
                "stop",
                format!("has an entry of {bytes} bytes; at most {longest}"),
            ));
        }
    }
    Ok(given.0)
}

fn delivery(stream: Option<bool>, options: Option<StreamOptions>) -> Result<Delivery, ApiError> {
    let Some(StreamOptions { fields }) = options else {
        return Ok(if stream == Some(true) {
            Delivery::Stream(UsageReports::Never)
        } else {
            Delivery::Whole
        });
    };
    if stream != Some(true) {
        return Err(ApiError::field("stream_options", "is only allowed when `stream` is true"));
    }
    let StreamFields { include_usage, continuous_usage_stats, include_obfuscation } = fields;
    refuse_unless(
        "stream_options.include_obfuscation",
        include_obfuscation,
        Neutral::False,
        "chunks are not padded",
    )?;
    Ok(Delivery::Stream(match (include_usage, continuous_usage_stats) {
        (Some(true), Some(true)) => UsageReports::Always,
        (Some(true), _) => UsageReports::AtEnd,
        // As in vLLM, the second asks for more of the first and means nothing without it.
        _ => UsageReports::Never,
    }))
}

fn salt(caller: Caller, given: Option<&str>, served: &Served) -> Result<Salt, ApiError> {
    /// As vLLM bounds it.
    const LONGEST: usize = 1024;
    match given.map(str::len) {
        Some(bytes) if bytes == 0 || bytes > LONGEST => Err(ApiError::field(
            "cache_salt",
            format!("must have from 1 to {LONGEST} bytes, not {bytes}"),
        )),
        _ => Ok(served.salt(caller, given)),
    }
}
