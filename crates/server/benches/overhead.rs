//! What HTTP costs per streamed token: `cargo bench -p folio-server --bench overhead`.
//!
//! A whole server in this process, on loopback TCP, with the demo model's tokenizer and an engine whose steps compute
//! nothing but take as long as a fast model's, so that every token travels alone. Counted is the CPU time, user and system,
//! of the threads that serve HTTP; the engine's thread and the clients' are not. Linux only: it reads `/proc`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench prints, and may fail"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use folio_core::kv::{Config, Manager};
use folio_core::params::GenerationDefaults;
use folio_core::schedule::{Limits, Scheduler};
use folio_engine::{EngineConfig, EngineThread, Handle, start};
use folio_server::{App, ModelTexts, ServerConfig, serve};
use folio_sim::{CostExecutor, TokenRule};
use folio_text::{ChatTemplate, SpecialTokens, Tokenizer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// As the binary has it.
const HTTP_THREADS: usize = 2;
const HTTP: &str = "folio-http";

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// Streams at one time, the length of a step, and tokens per stream.
const LOADS: [(u64, Duration, u64); 3] = [
    (1, Duration::from_millis(2), 1500),
    (64, Duration::from_millis(10), 300),
    (512, Duration::from_millis(50), 60),
];

/// A request that is streamed, in the words of one endpoint.
struct Endpoint {
    path: &'static str,
    asks: &'static str,
}

const ENDPOINTS: [Endpoint; 2] = [
    Endpoint { path: "/v1/completions", asks: "\"prompt\": \"Once upon a time\"" },
    Endpoint {
        path: "/v1/chat/completions",
        asks: "\"messages\": [{\"role\": \"user\", \"content\": \"Tell me\"}]",
    },
];

fn engine(tokenizer: &Tokenizer, step: Duration) -> (Handle, EngineThread) {
    let (blocks, block_size, vocab) = (1 << 15, 16, tokenizer.vocab_size());
    let limits = Limits {
        max_model_len: 4096,
        max_num_seqs: 512,
        max_num_batched_tokens: 16384,
        max_queued: 1024,
        vocab,
    };
    let config = Config { block_size, capacity: blocks, prefix_caching: true, secret: 7 };
    let scheduler = Scheduler::new(limits, Manager::new(config).unwrap());
    let mut ends = Instant::now();
    let executor =
        CostExecutor::new(blocks, block_size, TokenRule::new(vocab)).with_hook(move |_| {
            // From step to step, whatever the rest of the engine takes.
            ends = (ends + step).max(Instant::now());
            std::thread::sleep(ends.saturating_duration_since(Instant::now()));
            Ok(())
        });
    start(scheduler, Box::new(executor), EngineConfig::default()).unwrap()
}

/// A server whose steps take so long, and its threads.
fn server(step: Duration) -> (Runtime, SocketAddr, Handle, EngineThread) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&fs::read(file).unwrap(), 1 << 20).unwrap();
    let (engine, thread) = engine(&tokenizer, step);
    let template = ChatTemplate::compile(TEMPLATE, SpecialTokens::default()).unwrap();
    let texts = ModelTexts {
        tokenizer,
        template: Some(template),
        defaults: GenerationDefaults::default(),
        tools: None,
        reasoning: false,
    };
    let app = App::new(ServerConfig::default(), engine.clone(), texts);
    let runtime = Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name(HTTP)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody will ever send a signal.
    let (_, shutdown) = mpsc::channel(1);
    runtime.spawn(serve(listener, app, shutdown));
    (runtime, address, engine, thread)
}

/// Nanoseconds that the threads of HTTP have been running.
fn http_nanoseconds() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let http = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == HTTP);
    http.map(|task| {
        let times = fs::read_to_string(task.join("schedstat")).unwrap();
        times.split(' ').next().unwrap().parse::<u64>().unwrap()
    })
    .sum()
}

/// Reads one stream to its end and counts its events.
async fn listen(address: SocketAddr, request: Arc<str>, events: Arc<AtomicU64>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            return;
        }
        let starts = buffer[..read].windows(6).filter(|window| window == b"data: ").count();
        events.fetch_add(u64::try_from(starts).unwrap(), Ordering::Relaxed);
    }
}

/// Waits until the engine has made so many tokens.
fn wait_for(engine: &Handle, tokens: u64) -> u64 {
    loop {
        let made = engine.snapshot().stats.totals.generated_tokens;
        if made >= tokens {
            return made;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn measure(endpoint: &Endpoint, streams: u64, step: Duration, tokens: u64) {
    let (http, address, engine, thread) = server(step);
    let clients = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let body = format!(
        "{{{}, \"max_tokens\": {tokens}, \"ignore_eos\": true, \"stream\": true}}",
        endpoint.asks
    );
    let length = body.len();
    let path = endpoint.path;
    let request: Arc<str> = format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into();
    let events = Arc::new(AtomicU64::new(0));
    for _ in 0..streams {
        clients.spawn(listen(address, Arc::clone(&request), Arc::clone(&events)));
    }
    // Everybody has begun after a tenth, and nobody has ended before the last tenth.
    let first = wait_for(&engine, streams * tokens / 10);
    let (began, cpu, seen) = (Instant::now(), http_nanoseconds(), events.load(Ordering::Relaxed));
    let last = wait_for(&engine, streams * tokens * 9 / 10);
    let (took, cpu) = (began.elapsed().as_secs_f64(), http_nanoseconds() - cpu);
    let made = (last - first) as f64;
    println!(
        "{path:<22} {streams:>4} streams {:>7.0} tokens/s {:>5.2} events/token {:>6.1} us/token {:>5.1} % of a core",
        made / took,
        (events.load(Ordering::Relaxed) - seen) as f64 / made,
        cpu as f64 / 1e3 / made,
        cpu as f64 / 1e7 / took
    );
    clients.shutdown_background();
    http.shutdown_background();
    engine.abort_all();
    drop(engine);
    thread.join().unwrap();
}

fn main() {
    for endpoint in &ENDPOINTS {
        for (streams, step, tokens) in LOADS {
            measure(endpoint, streams, step, tokens);
        }
    }
}
