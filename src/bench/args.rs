//! The flags of `folio bench`. They have the names and, where nothing else is said, the meaning of `vllm bench`'s.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use folio_sim::memory::Policy;

use crate::args::ModelArgs;

/// The longest part of a prompt that is made up.
const MOST_TOKENS: i64 = folio_sim::workload::MOST_TOKENS as i64;

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) kind: BenchKind,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchKind {
    /// Time batches of equal requests in this process: decode and prefill rates, by batch size
    Latency(LatencyArgs),
    /// Run a whole data set at once in this process: requests and tokens per second
    Throughput(ThroughputArgs),
    /// Send requests to a server with an OpenAI-compatible API, ours or another one
    Serve(ServeBenchArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Prompt tokens of each request
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    pub(crate) input_len: u32,

    /// Tokens that each request generates
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) output_len: u32,

    /// Requests at once; several sizes, with commas, are measured in turn
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,32,64", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch_size: Vec<u32>,

    /// A prompt of so many tokens is timed by itself; 0 leaves that out
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub(crate) prefill_len: u32,

    /// Times that each batch is run before it is measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) num_iters_warmup: u32,

    /// Times that each batch is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_iters: u32,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How the engine in this process is run, and what is told of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f64,

    /// Print where a step's time goes, by kind of operation
    #[arg(long)]
    pub(crate) profile: bool,

    /// How KV memory is given out: paged, orca-oracle, orca-pow2, orca-max, static; several, with commas, are measured in
    /// turn. What is not paged reserves contiguous memory, as older engines do, with the output's length known to
    /// orca-oracle; static also runs each batch to its end, and a batch is what one step can take up
    #[arg(long, value_name = "POLICY", value_delimiter = ',', default_value = "paged")]
    pub(crate) kv_policy: Vec<Policy>,

    /// Fit the times of all steps, and write them for folio simulate --fit
    #[arg(long, value_name = "FILE")]
    pub(crate) fit: Option<PathBuf>,

    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) output_json: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ThroughputArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) data: DataArgs,

    #[command(flatten)]
    pub(crate) pace: PaceArgs,

    /// Write when requests came and how long they were, as a trace for folio simulate --trace
    #[arg(long, value_name = "FILE")]
    pub(crate) write_trace: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// When requests come.
#[derive(Args, Clone, Debug)]
pub(crate) struct PaceArgs {
    /// Requests per second; inf sends all at once. Not for --dataset-name timed_trace
    #[arg(long, value_name = "R", default_value_t = f64::INFINITY)]
    pub(crate) request_rate: f64,

    /// 1 is a Poisson process, less comes in bursts, more is more even (the shape of a gamma distribution)
    #[arg(long, value_name = "B", default_value_t = 1.0)]
    pub(crate) burstiness: f64,
}

impl BenchKind {
    /// The files that are to be written at the end.
    pub(crate) fn files(&self) -> Vec<Option<&Path>> {
        match self {
            Self::Latency(args) => args.run.files().to_vec(),
            Self::Throughput(args) => {
                [&args.run.files()[..], &[args.write_trace.as_deref()]].concat()
            }
            Self::Serve(args) => vec![args.output_json.as_deref()],
        }
    }
}

impl RunArgs {
    fn files(&self) -> [Option<&Path>; 2] {
        [self.fit.as_deref(), self.output_json.as_deref()]
    }
}

/// What the requests are.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DataArgs {
    /// Where the requests come from
    #[arg(long, value_enum, default_value_t = DatasetName::Random)]
    pub(crate) dataset_name: DatasetName,

    /// A file. custom and timed_trace: JSON lines with prompt (text) or prompt_ids (tokens), output_tokens, and for a trace
    /// arrival_s; timed_trace also reads what folio simulate --trace does, and makes the prompts up. sharegpt: the JSON
    /// file of that data set
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset_path: Option<PathBuf>,

    /// Requests; those of a file with fewer are sent again, but for a trace. Default: all of a file, else 64
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) num_prompts: Option<u32>,

    /// Prompt tokens of a random request
    #[arg(long, visible_alias = "input-len", value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    pub(crate) random_input_len: u32,

    /// Tokens that a random request generates
    #[arg(long, visible_alias = "output-len", value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) random_output_len: u32,

    /// Both lengths are drawn from [length x (1 - R), length x (1 + R)]
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub(crate) random_range_ratio: f64,

    /// Tokens that all random requests begin with, beside their own
    #[arg(long, value_name = "TOKENS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    pub(crate) random_prefix_len: u32,

    /// Tokens that a request of a file generates, whatever the file says
    #[arg(long, value_name = "TOKENS")]
    pub(crate) custom_output_len: Option<u32>,

    /// Tokens that a request of sharegpt generates; default: as many as the answer in the file has
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sharegpt_output_len: Option<u32>,

    /// Tokens of each prefix of prefix_repetition
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    pub(crate) prefix_repetition_prefix_len: u32,

    /// Tokens of each prompt of prefix_repetition, beside its prefix
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    pub(crate) prefix_repetition_suffix_len: u32,

    /// Prefixes of prefix_repetition, which share the prompts evenly
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prefix_repetition_num_prefixes: u32,

    /// Tokens that a request of prefix_repetition generates
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prefix_repetition_output_len: u32,

    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) dataset_seed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum DatasetName {
    /// Tokens drawn at random
    #[default]
    Random,
    /// The requests of a file
    Custom,
    /// The requests of a file, each at the time the file says
    TimedTrace,
    /// Conversations in the format of ShareGPT: the first turns
    Sharegpt,
    /// A few prefixes drawn at random, each before as many prompts
    PrefixRepetition,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ServeBenchArgs {
    /// The server, such as http://127.0.0.1:8000; with https:// through the proxy in HTTPS_PROXY, if any, and with the
    /// certificates in SSL_CERT_FILE
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub(crate) base_url: String,

    /// What is asked of it
    #[arg(long, value_enum, default_value_t = Backend::Openai)]
    pub(crate) backend: Backend,

    /// The path of the API; default: that of the backend
    #[arg(long, value_name = "PATH")]
    pub(crate) endpoint: Option<String>,

    /// Name of the model; default: the first one that the server lists
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Key to send as "Authorization: Bearer KEY"; also from OPENAI_API_KEY
    #[arg(long, value_name = "KEY", env = "OPENAI_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    #[command(flatten)]
    pub(crate) data: DataArgs,

    /// tokenizer.json, or the folder it is in: counts the tokens of --dataset-name sharegpt
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Random tokens are below this; every common model has more
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) random_vocab_size: u32,

    /// Send texts even where a file has tokens, too; chats always do
    #[arg(long)]
    pub(crate) text: bool,

    #[command(flatten)]
    pub(crate) pace: PaceArgs,

    /// Most requests on their way at a time; others wait at the sender
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrency: Option<u32>,

    /// Requests sent before the measurement, which begins when they have ended
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) num_warmups: u32,

    /// Generate as many tokens as asked for, whatever the model would end with
    #[arg(long)]
    pub(crate) ignore_eos: bool,

    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f64,

    /// Fields added to every request, a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) extra_body: Option<String>,

    /// Limits that a request must keep to count as good, such as ttft:500 tpot:100 e2el:20000 (milliseconds)
    #[arg(long, value_name = "METRIC:MS", num_args = 1..)]
    pub(crate) goodput: Vec<String>,

    /// Metrics whose percentiles are printed
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "ttft,tpot,itl", value_parser = ["ttft", "tpot", "itl", "e2el"])]
    pub(crate) percentile_metrics: Vec<String>,

    /// The percentiles
    #[arg(long, value_name = "P", value_delimiter = ',', default_value = "99", value_parser = percent)]
    pub(crate) metric_percentiles: Vec<f64>,

    /// Write the results to this file, as JSON
    #[arg(long, visible_alias = "result-filename", value_name = "FILE")]
    pub(crate) output_json: Option<PathBuf>,

    /// As vLLM wants it said; the file alone is enough
    #[arg(long, requires = "output_json")]
    pub(crate) save_result: bool,

    /// Write each request's lengths and times, too
    #[arg(long)]
    pub(crate) save_detailed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// Completions of a prompt
    Openai,
    /// Chats of one message
    OpenaiChat,
}

/// `99`, `99.9`.
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| format!("{text} is not from 0 to 100"))
}
