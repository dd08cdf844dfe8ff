//! The command line, in two steps: what was typed (this file, clap), and what we will do ([`crate::settings`]).
//!
//! Flags have vLLM's names and meanings, so that a command line moves over unchanged. A flag we do not know is an error
//! that suggests the nearest one; none is ignored.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use folio_model::Quantization;
use folio_model::block_size::Lengths;
use folio_text::{ChatTemplate, ToolFormat};

use crate::limits::HttpArgs;
use crate::operations::OperationsArgs;

use crate::bench::args::BenchArgs;
use crate::convert::ConvertArgs;
use crate::hub::PullArgs;
use crate::plan::PlanArgs;
use crate::simulate::SimulateArgs;
use crate::typed;

/// Serves large language models from paged memory.
#[derive(Debug, Parser)]
#[command(name = "folio", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Without a command: serve
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model over an OpenAI-compatible API (the default)
    Serve(Box<ServeArgs>),
    /// Talk to a model on the terminal
    Chat(ChatArgs),
    /// Continue a text on the terminal
    Complete(CompleteArgs),
    /// Fetch a model from the Hugging Face hub into its cache, and print where it is
    Pull(PullArgs),
    /// Write a model's weights packed into a new folder, so that serving that folder starts at once
    Convert(ConvertArgs),
    /// Tell where the memory would go, and how many users it holds
    Plan(PlanArgs),
    /// Tell how an engine would do under some traffic, on this or on other hardware
    Simulate(SimulateArgs),
    /// Measure this machine, a model on it, or a running server
    Bench(BenchArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Hugging Face model folder (config.json, *.safetensors, tokenizer.json), GGUF file, or model of the Hugging Face hub
    /// (ORG/NAME, ORG/NAME:FILE.gguf); without one, the built-in demo model
    pub(crate) model: Option<PathBuf>,

    /// Branch, tag or commit of a model from the hub; default: main
    #[arg(long, value_name = "REVISION", requires = "model")]
    pub(crate) revision: Option<String>,

    /// dummy: do not read weights, make them up, to measure a model of which only the shape is there: MODEL may then be a
    /// config.json or one of the names that folio simulate knows; a model without a tokenizer gets the demo model's
    #[arg(long, value_enum, default_value_t = LoadFormat::Auto, requires_if("dummy", "model"))]
    pub(crate) load_format: LoadFormat,

    /// Type the weights are kept in, as far as they are floats; beside bfloat16, activations are rounded to it, too
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub(crate) dtype: Dtype,

    /// Quantise float weights while loading: int8 (a scale per 128 inputs), int4 (per 128), int4-g64 or int4-g32 (finer,
    /// larger); weights that are quantised already are always served as they are
    #[arg(long, value_name = "KIND", value_parser = quantization)]
    pub(crate) quantization: Option<Quantization>,

    /// Longest prompt plus output, in tokens (32k = 32000, 32K = 32768); default: what the model was made for
    #[arg(long, value_name = "TOKENS", value_parser = tokens)]
    pub(crate) max_model_len: Option<u32>,

    /// Tokens per KV block, 1 to 256, or auto: measure this machine and choose; default: 32, 128 for
    /// int8 KV
    #[arg(long, value_name = "TOKENS", value_parser = block_size)]
    pub(crate) block_size: Option<BlockSize>,

    /// Prompt and output of the requests that --block-size auto expects; default: 161,338, the means of ShareGPT
    #[arg(long, value_name = "PROMPT,OUTPUT", value_parser = lengths)]
    pub(crate) block_size_lengths: Option<Lengths>,

    /// The requests that --block-size auto expects: a CSV file with columns prompt_tokens and output_tokens
    #[arg(long, value_name = "FILE", conflicts_with = "block_size_lengths")]
    pub(crate) block_size_trace: Option<PathBuf>,

    /// Type the KV cache is kept in; auto: that of the weights; int8: half of the memory and of the time to read 16-bit KV, with
    /// errors of about 0.7 %
    #[arg(long, value_enum, default_value_t = KvCacheDtype::Auto)]
    pub(crate) kv_cache_dtype: KvCacheDtype,

    /// Memory for the KV cache (2g = 2·10⁹, 2G or 2GiB = 2·2³⁰); default: as much as --max-num-seqs full contexts need,
    /// at most 80 % of what is free
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) kv_cache_memory_bytes: Option<u64>,

    /// Room outside the KV cache for preempted requests: GiB as a plain number, or a size with a unit; default: none, or
    /// with --swap-dir as large as the KV cache
    #[arg(long, value_name = "SIZE", value_parser = swap_space)]
    pub(crate) swap_space: Option<u64>,

    /// Folder for the swap space, which is then a file there and not memory; the file disappears with the process
    #[arg(long, value_name = "DIR")]
    pub(crate) swap_dir: Option<PathBuf>,

    /// How preempted requests come back: computed again, from the swap space, or whichever is quicker
    #[arg(long, value_enum, default_value_t = PreemptionMode::Auto)]
    pub(crate) preemption_mode: PreemptionMode,

    /// Text whose KV is computed at start and stays in the cache, for prompts that begin with it; may be given again
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_prefix: Vec<PathBuf>,

    /// Most sequences computed at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) max_num_seqs: u32,

    /// Most tokens computed in one step; longer prompts are cut into chunks. auto: measure this machine, and take what it
    /// computes in about an eighth of a second, so that nobody waits longer for the next token
    #[arg(long, value_name = "TOKENS", default_value = "auto", value_parser = step_tokens)]
    pub(crate) max_num_batched_tokens: StepTokens,

    /// Share the KV of equal prompt beginnings (the default)
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub(crate) enable_prefix_caching: bool,

    /// Compute every prompt in full
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) no_enable_prefix_caching: bool,

    /// Seed of requests that bring none
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Threads that compute; default: all the machine grants
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
}

/// The values of `--load-format`, as vLLM names them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadFormat {
    Auto,
    Dummy,
}

/// The values of `--max-n`.
pub(crate) const MAX_N: RangeInclusive<i64> = 1..=1024;

#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Address to listen on; 0.0.0.0 opens the server to the network
    #[arg(long, default_value = "127.0.0.1", value_parser = typed::host)]
    pub(crate) host: IpAddr,

    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,

    /// Name(s) the model answers to; default: the folder's name
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = typed::model_name)]
    pub(crate) served_model_name: Vec<String>,

    /// Most requests waiting for their turn; more are answered with 429
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_num_queued_reqs: u32,

    /// Most choices, samples or beams of one prompt (n, best_of, beam_width); default: VLLM_MAX_N_SEQUENCES, or 128
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(MAX_N))]
    pub(crate) max_n: Option<u32>,

    /// Key(s) a client must send as "Authorization: Bearer KEY"; also from VLLM_API_KEY
    #[arg(long, value_name = "KEY", num_args = 1.., env = "VLLM_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Vec<String>,

    /// How the model writes tool calls; auto finds it in the chat template
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) tool_call_parser: ToolCallParser,

    /// Tool calls are read wherever their format is known; accepted for vLLM's users
    #[arg(long)]
    pub(crate) enable_auto_tool_choice: bool,

    /// Show what the model thinks between <think> and </think> as `reasoning`; all names mean the same
    #[arg(long, value_name = "NAME")]
    pub(crate) reasoning_parser: Option<ReasoningParser>,

    #[command(flatten)]
    pub(crate) http: HttpArgs,

    #[command(flatten)]
    pub(crate) operations: OperationsArgs,
}

/// The values of `--tool-call-parser`, as vLLM names them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "snake_case")]
pub(crate) enum ToolCallParser {
    Auto,
    None,
    Hermes,
    Llama3Json,
    Mistral,
}

impl ToolCallParser {
    /// The format of a model with this template.
    pub(crate) fn format(self, template: Option<&ChatTemplate>) -> Option<ToolFormat> {
        let source = template.map(ChatTemplate::source).unwrap_or_default();
        match self {
            Self::Auto => ToolFormat::of_template(source),
            Self::None => None,
            Self::Hermes => ToolFormat::named("hermes", source),
            Self::Llama3Json => ToolFormat::named("llama3_json", source),
            Self::Mistral => ToolFormat::named("mistral", source),
        }
    }
}

/// The values of `--reasoning-parser`, as vLLM names them.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "snake_case")]
pub(crate) enum ReasoningParser {
    #[value(name = "deepseek_r1")]
    DeepseekR1,
    Qwen3,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SamplingArgs {
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.7)]
    pub(crate) temperature: f64,

    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,

    /// Most tokens to generate; default: as many as fit
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<i64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Instructions given before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system_prompt: Option<String>,

    /// Ask this one question and exit
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) quick: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CompleteArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// Text to continue; without it, each line typed is one
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) quick: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockSize {
    Auto,
    Tokens(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepTokens {
    Auto,
    Tokens(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PreemptionMode {
    Auto,
    Recompute,
    Swap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    Auto,
    #[value(alias = "float")]
    Float32,
    #[value(alias = "half")]
    Float16,
    Bfloat16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    Auto,
    #[value(alias = "float")]
    Float32,
    #[value(alias = "half")]
    Float16,
    Bfloat16,
    Int8,
}

/// `4096`, `32k`, `32K`, `1.5k`.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let value = scaled(text, &[("k", 1e3), ("K", 1024.0), ("m", 1e6), ("M", 1024.0 * 1024.0)])?;
    u32::try_from(value)
        .ok()
        .filter(|&v| v > 0)
        .ok_or_else(|| "must be from 1 to 4294967295".to_owned())
}

/// `16`, `auto`.
fn block_size(text: &str) -> Result<BlockSize, String> {
    if text == "auto" {
        return Ok(BlockSize::Auto);
    }
    let size = text.parse().ok().filter(|size| (1..=256).contains(size));
    size.map(BlockSize::Tokens).ok_or_else(|| format!("{text} is not in 1..=256 and not auto"))
}

/// `int8`, `int4`, `int4-g32`.
pub(crate) fn quantization(text: &str) -> Result<Quantization, String> {
    match text {
        "int8" => Ok(Quantization::Int8),
        "int4" => Ok(Quantization::Int4 { group: 128 }),
        "int4-g64" => Ok(Quantization::Int4 { group: 64 }),
        "int4-g32" => Ok(Quantization::Int4 { group: 32 }),
        _ => Err("is not int8, int4, int4-g64 or int4-g32".to_owned()),
    }
}

/// `512`, `auto`.
fn step_tokens(text: &str) -> Result<StepTokens, String> {
    if text == "auto" {
        return Ok(StepTokens::Auto);
    }
    let tokens = text.parse().ok().filter(|tokens| (1..=65536).contains(tokens));
    tokens.map(StepTokens::Tokens).ok_or_else(|| format!("{text} is not in 1..=65536 and not auto"))
}

/// `161,338`.
pub(crate) fn lengths(text: &str) -> Result<Lengths, String> {
    let problem = || format!("{text:?} is not two numbers of tokens such as 161,338");
    let (prompt, output) = text.split_once(',').ok_or_else(problem)?;
    let number = |part: &str| part.trim().parse().map_err(|_| problem());
    Ok(Lengths { prompt: number(prompt)?, output: number(output)? })
}

/// `4` and `0.5` are GiB, as in vLLM; `512MiB`, `2G` and large numbers are bytes.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked; fractions of a byte are dropped"
)]
pub(crate) fn swap_space(text: &str) -> Result<u64, String> {
    const MOST_GIB: f64 = 4096.0;
    match text.parse::<f64>() {
        Ok(gib) if (0.0..=MOST_GIB).contains(&gib) => Ok((gib * f64::from(1 << 30)) as u64),
        _ => bytes(text),
    }
}

/// `1073741824`, `2G`, `2GiB`, `512M`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const KIB: f64 = 1024.0;
    let units = [
        ("KiB", KIB),
        ("MiB", KIB * KIB),
        ("GiB", KIB * KIB * KIB),
        ("TiB", KIB * KIB * KIB * KIB),
        ("T", KIB * KIB * KIB * KIB),
        ("K", KIB),
        ("M", KIB * KIB),
        ("G", KIB * KIB * KIB),
        ("k", 1e3),
        ("m", 1e6),
        ("g", 1e9),
        ("t", 1e12),
    ];
    scaled(text, &units).and_then(|v| if v > 0 { Ok(v) } else { Err("must be above 0".to_owned()) })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked just before; fractions of a byte or token are dropped"
)]
fn scaled(text: &str, units: &[(&str, f64)]) -> Result<u64, String> {
    if let Ok(plain) = text.parse::<u64>() {
        return Ok(plain);
    }
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .ok_or_else(|| {
            format!("{text:?} is not a number with an optional unit such as {}", units[0].0)
        })?;
    let number: f64 = number.trim().parse().map_err(|_| format!("{number:?} is not a number"))?;
    let value = number * factor;
    if (0.0..=9e15).contains(&value) {
        Ok(value as u64)
    } else {
        Err(format!("{text} is out of range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_vllm_reads_them() {
        assert_eq!(tokens("4096"), Ok(4096));
        assert_eq!(tokens("32k"), Ok(32_000));
        assert_eq!(tokens("32K"), Ok(32_768));
        assert_eq!(tokens("1.5k"), Ok(1500));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("25.6k"), Ok(25_600));
        for bad in ["", "k", "-1", "1e400k", "NaNk", "0", "5000000000", "12 apples"] {
            assert!(tokens(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_swap_space_is_gib_unless_it_says_otherwise() {
        assert_eq!(swap_space("4"), Ok(4 << 30));
        assert_eq!(swap_space("0.5"), Ok(1 << 29));
        assert_eq!(swap_space("0"), Ok(0));
        assert_eq!(swap_space("4096"), Ok(4096 << 30));
        assert_eq!(swap_space("4097"), Ok(4097));
        assert_eq!(swap_space("512MiB"), Ok(512 << 20));
        for bad in ["", "-1", "NaN", "inf", "1e9", "four"] {
            assert!(swap_space(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn block_sizes_and_lengths_are_bounded() {
        assert_eq!(block_size("auto"), Ok(BlockSize::Auto));
        assert_eq!(block_size("256"), Ok(BlockSize::Tokens(256)));
        assert_eq!(step_tokens("auto"), Ok(StepTokens::Auto));
        assert_eq!(step_tokens("65536"), Ok(StepTokens::Tokens(65536)));
        for bad in ["", "0", "65537", "-1", "Auto"] {
            assert!(step_tokens(bad).is_err(), "{bad:?}");
        }
        assert_eq!(lengths("161, 338"), Ok(Lengths::SHAREGPT));
        for bad in ["", "0", "257", "-1", "automatic", "8.0"] {
            assert!(block_size(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "5", "5,", "5,-1", "5,6,7", "a,b", "4294967296,1"] {
            assert!(lengths(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_prefix_caching_flag_wins() {
        let parse = |flags: &[&str]| {
            let cli = Cli::try_parse_from(["folio", "serve"].iter().chain(flags)).unwrap();
            let Some(Command::Serve(serve)) = cli.command else { panic!("serve") };
            !serve.model.no_enable_prefix_caching
        };
        assert!(parse(&[]));
        assert!(!parse(&["--no-enable-prefix-caching"]));
        assert!(parse(&["--no-enable-prefix-caching", "--enable-prefix-caching"]));
    }
}
