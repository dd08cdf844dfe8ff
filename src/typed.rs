//! Reading the command line, and what is said of one that is not understood: flags that people bring from other servers are
//! answered with what takes their place here, all at once, and not with whichever of ours looks alike.

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};

use crate::args::Cli;
use crate::log::say;
use crate::shapes;

/// Flags of vLLM and llama.cpp that folio does not have: all names of a row, with spaces between, and what to do instead.
const ELSEWHERE: &[(&str, &str)] = &[
    // The model.
    ("--model -m", "write the model without a flag, as in folio serve MODEL"),
    ("-hf -hfr --hf-repo", "write the model without a flag, as in folio serve ORG/NAME:Q4_K_M"),
    ("--alias", "use --served-model-name"),
    ("--tokenizer --tokenizer-mode", "leave it out: the tokenizer beside the model is used"),
    ("--trust-remote-code", "leave it out: code that comes with a model is never run"),
    ("--download-dir", "set the variable HF_HUB_CACHE to the folder"),
    ("--generation-config", "leave it out: the model's generation_config.json is used"),
    (
        "--override-generation-config",
        "change the model's generation_config.json, or send the parameters with the request",
    ),
    ("--hf-overrides", "change the model's config.json"),
    (
        "--chat-template --chat-template-file",
        "put the template into the model's folder, as chat_template.jinja",
    ),
    (
        "--chat-template-content-format --jinja",
        "leave it out: the model's own template tells what it takes",
    ),
    ("--default-chat-template-kwargs", "send chat_template_kwargs with the request"),
    (
        "--enable-lora --lora --lora-modules --max-loras --max-lora-rank --max-cpu-loras",
        "merge the adapter into the model's weights: adapters are not served",
    ),
    ("--speculative-config --model-draft -md", "leave it out: nothing is speculated"),
    // Memory and steps.
    (
        "--gpu-memory-utilization --num-gpu-blocks-override",
        "use --kv-cache-memory-bytes: models run on the CPU",
    ),
    ("--ctx-size -c", "use --max-model-len"),
    ("--parallel -np --max-num-active-seqs", "use --max-num-seqs"),
    ("--batch-size -b --ubatch-size -ub", "use --max-num-batched-tokens"),
    ("--cache-type-k -ctk --cache-type-v -ctv", "use --kv-cache-dtype"),
    ("--cpu-offload-gb", "leave it out: weights are in main memory"),
    ("--kv-offloading-size", "use --swap-space or --swap-dir"),
    ("--kv-transfer-config", "leave it out: KV is not sent to other servers"),
    (
        "--mlock --no-mmap --mmap",
        "leave it out: weights are read and packed, or mapped after folio convert",
    ),
    (
        "--enforce-eager --compilation-config -O -O0 -O1 -O2 -O3 --async-scheduling --flash-attn -fa",
        "leave it out: there is one way to compute",
    ),
    (
        "--enable-chunked-prefill --no-enable-chunked-prefill --long-prefill-token-threshold",
        "leave it out: prompts are cut into chunks that fit --max-num-batched-tokens",
    ),
    ("--prefix-caching-hash-algo --use-v2-block-manager --watermark", "leave it out"),
    ("--max-num-queued-tokens", "use --max-num-queued-reqs"),
    // Devices.
    (
        "--tensor-parallel-size -tp --pipeline-parallel-size -pp --data-parallel-size -dp --distributed-executor-backend \
         --enable-expert-parallel",
        "leave it out: one process computes, with --threads",
    ),
    (
        "--device --n-gpu-layers --gpu-layers -ngl --main-gpu -mg --split-mode -sm",
        "leave it out: models run on the CPU",
    ),
    ("-t --threads-batch -tb", "use --threads"),
    // Benchmarks.
    (
        "--result-dir --append-result",
        "write the whole path of the file: --result-filename FOLDER/FILE",
    ),
    ("--ramp-up-strategy --probe-request-rate", "use --request-rate, once for each rate"),
    ("--disable-tqdm", "leave it out: there is no bar where nobody watches"),
    // HTTP.
    ("--uds", "use --host and --port"),
    ("--root-path --api-prefix", "let the proxy before the server cut that path off"),
    ("--enable-ssl-refresh", "send SIGHUP to have the certificate read again"),
    ("--ssl-key-file", "use --ssl-keyfile"),
    ("--ssl-cert-file", "use --ssl-certfile"),
    ("--ssl-ciphers", "leave it out: what is known to be weak is not spoken"),
    ("--allowed-methods --allowed-headers --allow-credentials", "use --allowed-origins"),
    ("--middleware --grpc-port --response-role --stream-interval", "leave it out"),
    (
        "--disable-log-requests --enable-log-requests --disable-log-stats --disable-uvicorn-access-log --uvicorn-log-level \
         --disable-access-log-for-endpoints --max-log-len --enable-log-outputs",
        "leave it out: there is a line per request, without its text; FOLIO_LOG=warn in the environment leaves it out",
    ),
    ("--enable-request-id-headers", "leave it out: every answer has X-Request-Id"),
    ("--enable-prompt-tokens-details", "leave it out: usage always tells cached tokens"),
    (
        "--enable-force-include-usage",
        "send \"stream_options\": {\"include_usage\": true} with the request",
    ),
    ("--enable-server-load-tracking", "leave it out: /load always tells"),
    ("--metrics --slots --props", "leave it out: /metrics and /debug/kv always tell"),
    ("--return-tokens-as-token-ids", "send return_tokens_as_token_ids with the request"),
    ("--enable-reasoning --reasoning-format", "use --reasoning-parser"),
    (
        "--structured-outputs-config --guided-decoding-backend",
        "leave it out: there is one way to follow a grammar",
    ),
    ("--config", "write the flags out"),
];

/// Variables of vLLM that are not read, and what to do instead.
const VARIABLES: [(&str, &str); 3] = [
    ("VLLM_CPU_KVCACHE_SPACE", "use --kv-cache-memory-bytes"),
    ("VLLM_CPU_OMP_THREADS_BIND", "use --threads, and taskset to choose cores"),
    ("VLLM_CPU_NUM_OF_RESERVED_CPU", "use --threads"),
];

/// An environment variable; one that is empty is taken as not set.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Tells of variables that somebody set and nobody reads.
pub(crate) fn warn_of_variables() {
    for (name, instead) in VARIABLES {
        if variable(name).is_some() {
            say!("{name} is set and not read; {instead}");
        }
    }
}

/// The command line, or the end of the process with what is wrong with it.
pub(crate) fn parse() -> Cli {
    read(&std::env::args_os().collect::<Vec<_>>()).unwrap_or_else(|error| error.exit())
}

fn read(typed: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = negatives_are_values(Cli::command());
    if let Some(word) = typed.get(1).and_then(|word| word.to_str())
        && is_nothing(&command, word)
    {
        let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        let problem = format!(
            "{word:?} is neither a command ({}) nor a file or folder here; models of the hub are ORG/NAME",
            names.join(", ")
        );
        return Err(command.error(ErrorKind::InvalidSubcommand, problem));
    }
    let matches = command.try_get_matches_from_mut(typed);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    cli.map_err(|error| explain(error, &command, typed))
}

/// Whether a first word can be no command and no model.
fn is_nothing(command: &Command, word: &str) -> bool {
    let bare = !word.is_empty() && !word.contains(['/', '.', '-', ':']);
    let known = word == "help" || command.find_subcommand(word).is_some();
    bare && !known && !Path::new(word).exists() && !shapes::is_known(Path::new(word))
}

/// `-1` after a flag is its value, so that what is wrong with it can be told.
fn negatives_are_values(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let takes = arg.get_long().is_some() && arg.get_action().takes_values();
            if takes { arg.allow_negative_numbers(true) } else { arg }
        })
        .mut_subcommands(negatives_are_values)
}

/// An unknown flag of somebody else's server becomes a list of all there are, with what to do about each; what is wrong with
/// a number is told in words for who types it.
fn explain(mut error: clap::Error, command: &Command, typed: &[OsString]) -> clap::Error {
    if let Some(problem) = error.source().and_then(no_number) {
        let told = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
        let (value, flag) = (told(ContextKind::InvalidValue), told(ContextKind::InvalidArg));
        let text = format!("invalid value '{value}' for '{flag}': {problem}");
        return asked(command, typed).clone().error(ErrorKind::ValueValidation, text);
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    // That an unknown flag might be meant as a value helps nobody.
    error.remove(ContextKind::Suggested);
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.clone(),
        _ => return error,
    };
    let ours = asked(command, typed);
    let words = typed.iter().skip(1).filter_map(|word| word.to_str());
    let names = words.map(|word| word.split_once('=').map_or(word, |(name, _)| name));
    let mut foreign: Vec<(&str, &str)> = Vec::new();
    for name in names.filter(|name| name.starts_with('-') && !is_flag_of(ours, name)) {
        if let Some(instead) = instead_of(name)
            && !foreign.iter().any(|(known, _)| *known == name)
        {
            foreign.push((name, instead));
        }
    }
    // `-ngl` is told as `-n`.
    if !foreign.iter().any(|(name, _)| name.starts_with(&unknown)) {
        return error;
    }
    let width = foreign.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::from("flags of another server, and what to do instead:\n");
    for (name, instead) in foreign {
        let _ = writeln!(text, "  {name:<width$}  {instead}");
    }
    clap::Error::raw(ErrorKind::UnknownArgument, text)
}

/// What is wrong with a value that was to be a number.
fn no_number(source: &(dyn Error + 'static)) -> Option<&'static str> {
    match source.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => {
            Some("there is no room for so large a number")
        }
        Some(_) => Some("must be a whole number, in digits alone, such as 8"),
        None => source.is::<ParseFloatError>().then_some("must be a number, such as 0.5"),
    }
}

fn instead_of(name: &str) -> Option<&'static str> {
    let row = ELSEWHERE.iter().find(|(names, _)| names.split_whitespace().any(|n| n == name))?;
    Some(row.1)
}

/// The command that was typed.
fn asked<'a>(command: &'a Command, typed: &[OsString]) -> &'a Command {
    typed.iter().fold(command, |command, word| command.find_subcommand(word).unwrap_or(command))
}

fn is_flag_of(command: &Command, name: &str) -> bool {
    let long = name.trim_start_matches('-');
    command.get_arguments().any(|arg| {
        arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long))
            || arg.get_short().is_some_and(|short| name == format!("-{short}"))
    })
}

/// An address, or a name of this machine such as `localhost`.
pub(crate) fn host(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let problem = |why: &dyn std::fmt::Display| {
        format!(
            "is neither an address, such as 127.0.0.1 or 0.0.0.0, nor a name that has one ({why})"
        )
    };
    let found = (text, 0).to_socket_addrs().map_err(|error| problem(&error))?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    // Clients that are told a name try both kinds; those that are told an address mostly know the old kind.
    let chosen = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    chosen.copied().ok_or_else(|| problem(&"no address is known for it"))
}

/// A name that a request can give and a line of the log can hold.
pub(crate) fn model_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err("is not a name: it is empty, or has line breaks or the like".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        let words = std::iter::once("folio").chain(line.split_whitespace());
        read(&words.map(OsString::from).collect::<Vec<_>>()).expect_err(line).to_string()
    }

    #[test]
    fn flags_of_others_are_answered_together() {
        let said = refusal(
            "serve --model x --enforce-eager --port 1 --gpu-memory-utilization=0.9 --enforce-eager",
        );
        for part in [
            "--model ",
            "folio serve MODEL",
            "--gpu-memory-utilization  use --kv-cache-memory-bytes",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(said.matches("--enforce-eager").count(), 1, "{said}");
        assert!(refusal("-ngl 99").contains("-ngl  leave it out"));
        // What a command has is not foreign to it.
        let said = refusal("plan --device h100 --enforce-eager");
        assert!(said.contains("--enforce-eager") && !said.contains("--device"), "{said}");
    }

    #[test]
    fn no_flag_of_the_server_is_said_to_be_missing() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").expect("it is there");
        for name in ELSEWHERE.iter().flat_map(|(names, _)| names.split_whitespace()) {
            assert!(!is_flag_of(serve, name), "{name}");
        }
        let bench =
            command.find_subcommand("bench").and_then(|bench| bench.find_subcommand("serve"));
        let bench = bench.expect("it is there");
        // What is said to be used instead is there.
        for word in ELSEWHERE.iter().flat_map(|(_, instead)| instead.split([' ', ':', ','])) {
            let known = is_flag_of(serve, word) || is_flag_of(bench, word);
            assert!(!word.starts_with("--") || known, "{word}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_of_the_flag_that_has_it() {
        let cases = [
            ("serve --port -1", "'-1' for '--port"),
            ("serve --max-model-len -1", "'-1' for '--max-model-len"),
            ("bench serve --request-rate=-1 --max-concurrency -5", "--max-concurrency"),
            ("srve model", "neither a command (serve, chat"),
            ("serve --ssl-cert-reqs 2", "--ssl-certfile"),
            ("serve --served-model-name=", "--served-model-name"),
            ("serve --prot 1", "a similar argument exists: '--port'"),
            ("serve --port eighty", "'eighty' for '--port <PORT>': must be a whole number"),
            ("serve --seed -1", "must be a whole number"),
            ("serve --seed 99999999999999999999", "so large a number"),
            ("complete --temperature warm", "'--temperature <TEMPERATURE>': must be a number"),
            ("serve --max-num-sequences 1", "a similar argument exists: '--max-num-seqs'"),
        ];
        for (line, expected) in cases {
            assert!(refusal(line).contains(expected), "{line}: {}", refusal(line));
        }
        assert!(!refusal("serve --xyzzy").contains("as a value"));
        assert!(model_name("a\nb").is_err());
        // Longer than any name, so that nobody is asked for it.
        assert!(host(&"x".repeat(300)).expect_err("no name").contains("neither an address"));
        assert!(host("localhost").expect("every machine has it").is_loopback());
    }
}
