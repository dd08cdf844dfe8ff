//! The fields both endpoints share, and the one validator they pass through.
//!
//! Every group is destructured without `..`: a field added to a group does not compile until this file says what
//! becomes of it. After [`validate`] the values are in range and typed; see [`Common`].

use folio_core::ids::Salt;
use folio_core::params::{BadParam, GenerationDefaults, Params, Requested};

use super::fields::{Biases, Early, Given, Int, List, Strings, fields, object};
use super::unserved::{Neutral, UnservedFields, refuse_unless};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::state::Served;

fields! {
    /// What is generated and how it is sent.
    pub(crate) struct SharedFields {
        model: String,
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
        stop: Strings,
        stop_token_ids: List<Int>,
        ignore_eos: bool,
        stream: bool,
        stream_options: StreamOptions,
        skip_special_tokens: bool,
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
        continuous_usage_stats: Given,
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
    Stream {
        /// Whether a last chunk carries the token counts.
        include_usage: bool,
    },
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
    pub(crate) skip_special_tokens: bool,
    pub(crate) add_special_tokens: bool,
    pub(crate) salt: Salt,
}

/// Checks everything the endpoints share.
pub(crate) fn validate(
    shared: SharedFields,
    decoding: &DecodingFields,
    unserved: &UnservedFields,
    dialect: Dialect,
    served: &Served,
    caller: Caller,
) -> Result<Common, ApiError> {
    let SharedFields {
        model,
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
        stop,
        stop_token_ids,
        ignore_eos,
        stream,
        stream_options,
        skip_special_tokens,
        add_special_tokens,
        cache_salt,
    } = shared;
    let &DecodingFields { best_of, use_beam_search, beam_width, length_penalty, early_stopping } =
        decoding;
    let model = served.known_model(model)?;
    unserved.refuse()?;
    let defaults = recommended(use_beam_search == Some(true), served);
    let asked = Requested {
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
        prompt_logprobs: dialect.prompt_logprobs,
        stop_token_ids: stop_token_ids.unwrap_or_default().0.iter().map(|id| id.0).collect(),
        ignore_eos: ignore_eos.unwrap_or(false),
    };
    let params = Params::parse(&asked, &served.param_limits, served.seed_for_one())
        .map_err(|bad| refused(&bad, dialect))?;
    Ok(Common {
        model,
        params,
        stops: stops(stop.unwrap_or_default(), served)?,
        delivery: delivery(stream, stream_options)?,
        skip_special_tokens: skip_special_tokens.unwrap_or(true),
        add_special_tokens: add_special_tokens.unwrap_or(dialect.add_special_tokens),
        salt: salt(caller, cache_salt.as_deref(), served)?,
    })
}

/// What the model's maker recommends. Not for beams, which follow the model's own distribution: only what the caller itself
/// asks for can contradict that.
fn recommended(use_beam_search: bool, served: &Served) -> GenerationDefaults {
    if use_beam_search { GenerationDefaults::default() } else { served.texts.defaults }
}

/// The core's refusal, under the name the caller used.
fn refused(bad: &BadParam, dialect: Dialect) -> ApiError {
    let name = match bad.field {
        "max_tokens" => dialect.max_tokens_field,
        "logprobs" | "prompt_logprobs" => dialect.logprobs_field,
        other => other,
    };
    ApiError::field(name, &bad.problem)
}

fn stops(given: Strings, served: &Served) -> Result<Vec<String>, ApiError> {
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
            Delivery::Stream { include_usage: false }
        } else {
            Delivery::Whole
        });
    };
    if stream != Some(true) {
        return Err(ApiError::field("stream_options", "is only allowed when `stream` is true"));
    }
    let StreamFields { include_usage, continuous_usage_stats, include_obfuscation } = fields;
    refuse_unless(
        "stream_options.continuous_usage_stats",
        continuous_usage_stats,
        Neutral::False,
        "usage is sent once, at the end of the stream",
    )?;
    refuse_unless(
        "stream_options.include_obfuscation",
        include_obfuscation,
        Neutral::False,
        "chunks are not padded",
    )?;
    Ok(Delivery::Stream { include_usage: include_usage.unwrap_or(false) })
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
