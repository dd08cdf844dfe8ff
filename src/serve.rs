//! `folio serve`: the HTTP server around a running engine, its signals and its end.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use folio_server::{
    App, Ending, KvEventCounts, KvEventsConfig, Limits, ModelFacts, ModelTexts, ServerConfig, Tls,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::ServeArgs;
use crate::limits::SchedulingPolicy;
use crate::log::shell_word;
use crate::settings::Settings;
use crate::signals::Signals;
#[cfg(feature = "otlp")]
use crate::spans;
use crate::startup::{self, Running};
use crate::typed;

/// HTTP needs little; the other cores compute.
const HTTP_THREADS: usize = 2;

/// Serves until told to stop.
///
/// # Errors
/// When it cannot start, or had to cut requests off at its end.
pub(crate) fn run(args: ServeArgs) -> Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("folio-http")
        .enable_all()
        .build()
        .context("cannot start the HTTP threads")?;
    let keys = args.http.keys(args.api_key.clone())?;
    let limits = args.http.limits(args.max_n)?;
    let origins = args.http.origins()?;
    typed::warn_of_variables();
    // The port is taken before weights are fetched and loaded, so that a wrong one is told at once.
    let listener = runtime.block_on(TcpListener::bind(address)).with_context(|| {
        format!("cannot listen on {address}; choose another --port, or --port 0 for any free one")
    })?;
    let address = listener.local_addr()?;
    let tls = args.operations.tls()?;
    let kv_events = args.operations.kv_events(!args.model.no_enable_prefix_caching)?;
    #[cfg(feature = "otlp")]
    let (spans, exporter) =
        args.operations.otlp_traces_endpoint.as_deref().map(spans::start).transpose()?.unzip();
    let settings = Settings::new(&args.model, args.max_num_queued_reqs)?;
    let (running, kv_events) = start(&settings, &runtime, kv_events)?;
    let tools = args.tool_call_parser.format(running.template.as_ref());
    let reasoning = args.reasoning_parser.is_some();
    let config = config(args, keys, limits, &settings, &running);
    let config = ServerConfig { kv_events, tls: tls.clone(), allowed_origins: origins, ..config };
    #[cfg(feature = "otlp")]
    let config = ServerConfig { spans, ..config };
    let chats = running.template.is_some();
    let texts = ModelTexts {
        tokenizer: running.tokenizer,
        template: running.template,
        defaults: running.defaults,
        tools,
        reasoning,
    };
    // Caught before anybody is told the address, so that no signal can come too early to drain.
    let signals = runtime.block_on(async { Signals::catch() }).context("cannot catch signals")?;
    greet(address, &config, chats);
    let app = App::new(config, running.engine, texts);
    let (sender, shutdown) = mpsc::channel(1);
    runtime.spawn(signals.forward(sender));
    if let Some(tls) = tls {
        runtime.spawn(renew(tls));
    }
    runtime.spawn_blocking(report_gpus);
    let ending = runtime.block_on(folio_server::serve(listener, app, shutdown));
    // Whatever still holds a handle to the engine goes with the runtime.
    runtime.shutdown_background();
    #[cfg(feature = "otlp")]
    if let Some(exporter) = exporter {
        exporter.finish();
    }
    running.thread.join().context("the engine ended by itself")?;
    match ending {
        Ending::Drained => Ok(()),
        Ending::Aborted => {
            bail!(
                "requests that were running have been cut off: told to stop twice, or --shutdown-timeout was over"
            )
        }
    }
}

/// Starts the engine, and what tells others of its prefix cache, if anybody wants to know.
fn start(
    settings: &Settings,
    runtime: &Runtime,
    kv_events: Option<KvEventsConfig>,
) -> Result<(Running, Option<Arc<KvEventCounts>>)> {
    let Some(config) = kv_events else { return Ok((startup::start(settings, true)?, None)) };
    if let Some(address) = config.open_to_all() {
        tracing::warn!(%address, "anybody who can reach this address hears the tokens of every prompt");
    }
    let tap = runtime
        .block_on(folio_server::publish_kv_events(config))
        .context("--kv-events-config: cannot listen there; choose other ports")?;
    let counts = tap.counts();
    Ok((startup::start_observed(settings, true, None, tap)?, Some(counts)))
}

/// Reads keys and certificates again whenever SIGHUP asks for it.
async fn renew(tls: Tls) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("the certificate has been read again"),
            Err(error) => tracing::error!(error, "the certificate stays as it was"),
        }
    }
}

fn config(
    args: ServeArgs,
    api_keys: Vec<String>,
    limits: Limits,
    settings: &Settings,
    running: &Running,
) -> ServerConfig {
    let names = if args.served_model_name.is_empty() {
        vec![running.name.clone()]
    } else {
        args.served_model_name
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let plan = &running.plan;
    let model = ModelFacts {
        created,
        root: names[0].clone(),
        eos: running.eos.clone(),
        cache_labels: vec![
            ("cache_dtype", plan.kv_dtype.name().to_owned()),
            ("enable_prefix_caching", settings.prefix_caching.to_string()),
            ("kv_cache_memory_bytes", plan.kv_bytes().to_string()),
            ("swap_space_bytes", plan.swap_bytes.to_string()),
        ],
    };
    ServerConfig {
        served_names: names,
        api_keys,
        priorities: args.http.scheduling_policy == SchedulingPolicy::Priority,
        seed: Some(settings.seed),
        model,
        limits,
        ..ServerConfig::default()
    }
}

/// Tells where the server is and how to try it. Goes to standard output, so that scripts can read the address.
fn greet(address: SocketAddr, config: &ServerConfig, chats: bool) {
    let name = &config.served_names[0];
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let key = !config.api_keys.is_empty();
    let mut text = format!("serving {name} on {scheme}://{address}\n");
    text += &format!("try: {}\n", trial(&format!("{scheme}://{address}"), name, key, chats));
    if !address.ip().is_loopback() && !key {
        text += &format!(
            "anybody who can reach {address} can use it; --api-key or --api-key-file asks for a key\n"
        );
    }
    // Whoever started the server may not listen.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// A command that asks the server something it can answer, whatever its model is called.
fn trial(server: &str, model: &str, key: bool, chats: bool) -> String {
    let key = if key { " -H 'Authorization: Bearer KEY'" } else { "" };
    let (endpoint, asked) = if chats {
        let said = r#""messages": [{"role": "user", "content": "Tell me a story about a cat"}]"#;
        ("chat/completions", said)
    } else {
        ("completions", r#""prompt": "Once upon a time", "max_tokens": 64"#)
    };
    let body = format!("{{\"model\": {}, {asked}}}", Value::from(model));
    format!(
        "curl {server}/v1/{endpoint}{key} -H 'Content-Type: application/json' \\\n  -d {}",
        shell_word(&body)
    )
}

/// A user with a GPU should not have to wonder why it is idle.
fn report_gpus() {
    for device in folio_cuda::devices().unwrap_or_default() {
        tracing::info!(name = device.name, "a GPU is there but not used: models run on the CPU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell makes of `command`, with `printf` in place of curl: the word after `-d`.
    fn body_of(command: &str) -> Value {
        let script = command.replacen("curl ", "printf '%s\\n' ", 1);
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
        let words = String::from_utf8(output.stdout).expect("text");
        serde_json::from_str(words.lines().last().expect("a body")).expect("JSON")
    }

    #[test]
    fn the_command_to_try_survives_any_name_and_suits_the_model() {
        for name in ["folio-demo", "it's a \"model\"", "$(x) \\ `y` 日本"] {
            for (chats, field) in [(true, "messages"), (false, "prompt")] {
                let command = trial("http://127.0.0.1:1", name, true, chats);
                let body = body_of(&command);
                assert_eq!(body["model"], name, "{command}");
                assert!(!body[field].is_null(), "{command}");
                assert_eq!(command.contains("chat/"), chats);
            }
        }
    }
}
