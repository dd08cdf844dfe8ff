//! What may be asked of `folio simulate`. Flags that the server has too mean the same here.

use std::path::PathBuf;

use clap::Args;
use folio_sim::memory::Policy;

use crate::args;

/// Simulate the engine: the scheduler that serves, under a clock that does not wait
#[derive(Args, Clone, Debug)]
pub(crate) struct SimulateArgs {
    /// Model folder, config.json, or opt-13b, opt-66b, opt-175b, smollm2-135m, llama-13b, llama-3-8b, llama-3-70b;
    /// without one, the built-in demo model
    pub(crate) model: Option<PathBuf>,

    /// Hardware: a100-40g, a100-80g, h100, h200, cpu (this machine, measured now), or a JSON file with the fields of one
    #[arg(long, value_name = "NAME", default_value = "a100-40g")]
    pub(crate) device: String,

    /// Devices that share the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) tensor_parallel_size: u32,

    /// Times of steps that were measured, instead of the device's published figures
    #[arg(long, value_name = "FILE")]
    pub(crate) fit: Option<PathBuf>,

    /// Microseconds that every step takes beside its work; default: the device's
    #[arg(long, value_name = "US")]
    pub(crate) step_overhead_us: Option<f64>,

    /// Microseconds that every sequence of a step takes beside its work; default: the device's
    #[arg(long, value_name = "US")]
    pub(crate) row_overhead_us: Option<f64>,

    /// Microseconds that every request of a step takes beside its sequences; default: the device's
    #[arg(long, value_name = "US")]
    pub(crate) request_overhead_us: Option<f64>,

    /// Share of a device's memory that is used
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    pub(crate) gpu_memory_utilization: f64,

    /// Blocks of the KV cache; default: what weights and activations leave of the memory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_gpu_blocks_override: Option<u32>,

    /// How KV memory is given out: paged, orca-oracle, orca-pow2, orca-max, static
    #[arg(long, value_name = "POLICY", default_value = "paged")]
    pub(crate) kv_policy: Policy,

    /// Tokens per KV block, 1 to 256
    #[arg(long, value_name = "TOKENS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) block_size: u32,

    /// Longest prompt plus output; default: what the model was made for
    #[arg(long, value_name = "TOKENS", value_parser = args::tokens)]
    pub(crate) max_model_len: Option<u32>,

    /// Most sequences computed at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) max_num_seqs: u32,

    /// Most tokens computed in one step
    #[arg(long, value_name = "TOKENS", default_value_t = 2560, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) max_num_batched_tokens: u32,

    /// Room outside the KV cache for preempted requests: GiB as a plain number, or a size with a unit; default: none
    #[arg(long, value_name = "SIZE", value_parser = args::swap_space)]
    pub(crate) swap_space: Option<u64>,

    /// How preempted requests come back
    #[arg(long, value_enum, default_value_t = args::PreemptionMode::Auto)]
    pub(crate) preemption_mode: args::PreemptionMode,

    /// Compute every prompt in full
    #[arg(long)]
    pub(crate) no_enable_prefix_caching: bool,

    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Who asks for what.
#[derive(Args, Clone, Debug)]
pub(crate) struct TrafficArgs {
    /// Lengths of prompts and outputs: sharegpt, alpaca, wmt16, PROMPT,OUTPUT, or a CSV file of which lines are drawn
    #[arg(long, value_name = "WHAT", default_value = "sharegpt")]
    pub(crate) dataset: String,

    /// Requests of a file, as they came: CSV (arrival_s,prompt_tokens,output_tokens) or Mooncake's JSON lines
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dataset", "max_concurrency", "chat", "shared_prefix"])]
    pub(crate) trace: Option<PathBuf>,

    /// Requests per second; for a trace: its times are stretched to this rate
    #[arg(long, value_name = "RATE")]
    pub(crate) request_rate: Option<f64>,

    /// Below 1, requests come in bursts; 1 is Poisson, more is more even
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) burstiness: f64,

    /// So many users who each wait for an answer before they ask again, instead of a rate
    #[arg(long, value_name = "USERS", conflicts_with = "request_rate")]
    pub(crate) max_concurrency: Option<usize>,

    /// Seconds that such a user thinks
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, requires = "max_concurrency")]
    pub(crate) think_time: f64,

    /// Seconds of arrivals
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    pub(crate) duration: f64,

    /// Number of requests, instead of a duration
    #[arg(long, value_name = "N")]
    pub(crate) num_prompts: Option<usize>,

    /// Requests are rounds of chats: the last 1024 tokens of what was said, and at most 1024 more
    #[arg(long, conflicts_with = "shared_prefix")]
    pub(crate) chat: bool,

    /// Every prompt begins with the same so many tokens, beside its own
    #[arg(long, value_name = "TOKENS", value_parser = args::tokens)]
    pub(crate) shared_prefix: Option<u32>,

    /// Samples of each prompt
    #[arg(long, value_name = "N", conflicts_with = "beam_width", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) n: Option<u32>,

    /// Beam search of this width
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) beam_width: Option<u32>,

    /// Equal seeds give equal runs
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What is wanted of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// Try each of these: rate=1,2,4 policy=paged,orca-max block-size=16,32 blocks=500,1000; may be given again
    #[arg(long, value_name = "WHAT=A,B,…", value_parser = sweep)]
    pub(crate) sweep: Vec<Sweep>,

    /// Find the highest request rate at which the mean normalized latency stays below so many seconds per token
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["request_rate", "max_concurrency", "trace"])]
    pub(crate) find_rate: Option<f64>,

    /// Count requests that are as quick as this: ttft:MS, tpot:MS, e2el:MS
    #[arg(long, value_name = "WHAT:MS", num_args = 1.., value_parser = objective)]
    pub(crate) goodput: Vec<(Objective, f64)>,

    /// Write everything as JSON; - is standard output, and then nothing else is printed there
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objective {
    Ttft,
    Tpot,
    E2el,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sweep {
    Rate(Vec<f64>),
    Policy(Vec<Policy>),
    BlockSize(Vec<u32>),
    Blocks(Vec<u32>),
}

/// `rate=1,2,4`.
fn sweep(text: &str) -> Result<Sweep, String> {
    fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
        let parse =
            |part: &str| part.trim().parse().map_err(|_| format!("{part:?} cannot be read"));
        text.split(',').map(parse).collect()
    }
    let (what, values) = text.split_once('=').ok_or("needs the form WHAT=A,B,…")?;
    match what {
        "rate" => list(values).map(Sweep::Rate),
        "policy" => values.split(',').map(str::parse).collect::<Result<_, _>>().map(Sweep::Policy),
        "block-size" => list(values).map(Sweep::BlockSize),
        "blocks" => list(values).map(Sweep::Blocks),
        other => Err(format!("{other:?} cannot be swept; rate, policy, block-size and blocks can")),
    }
}

/// `ttft:500`.
fn objective(text: &str) -> Result<(Objective, f64), String> {
    let (what, millis) = text.split_once(':').ok_or("needs the form WHAT:MS")?;
    let what = match what {
        "ttft" => Objective::Ttft,
        "tpot" => Objective::Tpot,
        "e2el" => Objective::E2el,
        other => return Err(format!("{other:?} is none of ttft, tpot and e2el")),
    };
    let millis: f64 = millis.parse().map_err(|_| format!("{millis:?} is no number"))?;
    if millis > 0.0 { Ok((what, millis / 1e3)) } else { Err("must be above 0".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_and_objectives_are_read() {
        assert_eq!(sweep("rate=1,2.5"), Ok(Sweep::Rate(vec![1.0, 2.5])));
        assert_eq!(
            sweep("policy=paged,static"),
            Ok(Sweep::Policy(vec![Policy::Paged, Policy::Static]))
        );
        assert_eq!(sweep("block-size=8, 16"), Ok(Sweep::BlockSize(vec![8, 16])));
        for bad in ["", "rate", "rate=", "rate=x", "policy=best", "speed=1"] {
            assert!(sweep(bad).is_err(), "{bad:?}");
        }
        assert_eq!(objective("ttft:250"), Ok((Objective::Ttft, 0.25)));
        for bad in ["", "ttft", "ttft:-1", "ttft:NaN", "speed:1"] {
            assert!(objective(bad).is_err(), "{bad:?}");
        }
    }
}
