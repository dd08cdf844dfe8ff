//! `folio bench serve`: a load generator for any server with an OpenAI-compatible API.

mod client;
mod connect;
mod report;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use folio_model::file_names::TOKENIZER;
use folio_text::Tokenizer;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep_until;

use self::client::Target;
use self::report::{Goodput, Reply, Report, Wanted};
use super::args::{Backend, ServeBenchArgs};
use super::dataset::{self, Request};
use super::pace;
use super::write_json;
use crate::output::{outln, print};
use crate::startup::MOST_PROMPT_BYTES;
use crate::trace::read_text;

/// Longest tokenizer that is read, in bytes.
const MOST_TOKENIZER_BYTES: u64 = 64 << 20;
/// All tasks are told to begin this long before they may have to.
const HEAD_START: Duration = Duration::from_millis(50);

/// Measures and prints.
pub(crate) fn run(args: &ServeBenchArgs) -> Result<()> {
    // One thread, so that as little as possible is taken from a server on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &ServeBenchArgs) -> Result<()> {
    let goodput = Goodput::parse(&args.goodput)?;
    let target = Target::new(&args.base_url, args.api_key.clone().filter(|key| !key.is_empty()))?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => target.first_model().await.context("asking the server for its models")?,
    };
    let tokenizer = args.tokenizer.as_deref().map(tokenizer).transpose()?;
    let mut requests = dataset::requests(&args.data, args.random_vocab_size, tokenizer.as_ref())?;
    pace::spread(&mut requests, &args.pace, &args.data)?;
    let asker = Asker::new(args, target, model)?;
    let bodies: Vec<String> =
        requests.iter().map(|request| asker.body(request)).collect::<Result<_>>()?;
    for (number, body) in bodies.iter().take(args.num_warmups as usize).enumerate() {
        let answer = asker.target.stream(&asker.path, body.clone()).await;
        answer.with_context(|| format!("warm-up request {number} failed"))?;
    }
    let bar = ProgressBar::new(u64::try_from(requests.len())?);
    let (replies, duration) = asker.send_all(&requests, bodies, &bar).await?;
    bar.finish_and_clear();
    let wanted = Wanted {
        goodput: &goodput,
        metrics: &args.percentile_metrics,
        percentiles: &args.metric_percentiles,
        max_concurrency: args.max_concurrency,
        request_rate: args.pace.request_rate,
    };
    let Report { text, json } = report::report(&replies, duration, &wanted)?;
    print(format_args!("{text}"));
    if let Some(error) = replies.iter().find_map(|reply| reply.error.as_deref()) {
        outln!("the first failure: {error}");
    }
    let results = results(args, &asker, &replies, json);
    write_json(args.output_json.as_deref(), &Value::Object(results))
}

/// The tokenizer of a file, or of a folder with such a file.
fn tokenizer(path: &Path) -> Result<Tokenizer> {
    let file = if path.is_dir() { path.join(TOKENIZER) } else { path.to_path_buf() };
    let read = read_text(&file, MOST_TOKENIZER_BYTES);
    let tokenizer =
        read.and_then(|json| Ok(Tokenizer::from_json(json.as_bytes(), MOST_PROMPT_BYTES)?));
    tokenizer.with_context(|| format!("--tokenizer {}", file.display()))
}

/// What was asked, then `numbers`, then what was asked for in detail.
fn results(
    args: &ServeBenchArgs,
    asker: &Asker,
    replies: &[Reply],
    numbers: Map<String, Value>,
) -> Map<String, Value> {
    let date = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let backend = match args.backend {
        Backend::Openai => "openai",
        Backend::OpenaiChat => "openai-chat",
    };
    let rate = args.pace.request_rate;
    let mut all = Map::new();
    let mut set = |name: &str, value: Value| all.insert(name.to_owned(), value);
    set("date", json!(date));
    set("backend", json!(backend));
    set("endpoint_type", json!(backend));
    set("model_id", json!(asker.model));
    set("num_prompts", json!(replies.len()));
    // JSON has no infinity; vLLM writes the word.
    set("request_rate", if rate.is_finite() { json!(rate) } else { json!("inf") });
    set("burstiness", json!(args.pace.burstiness));
    set("max_concurrency", json!(args.max_concurrency));
    all.extend(numbers);
    if args.save_detailed {
        let column = |value: &dyn Fn(&Reply) -> Value| replies.iter().map(value).collect();
        let details: [(&str, Value); 7] = [
            ("input_lens", column(&|reply| json!(reply.input_len))),
            ("output_lens", column(&|reply| json!(reply.output_len))),
            ("start_times", column(&|reply| json!(reply.start))),
            ("ttfts", column(&|reply| json!(reply.ttft))),
            ("itls", column(&|reply| json!(reply.itl))),
            ("latencies", column(&|reply| json!(reply.latency))),
            ("errors", column(&|reply| json!(reply.error.as_deref().unwrap_or_default()))),
        ];
        all.extend(details.map(|(name, value)| (name.to_owned(), value)));
    }
    all
}

/// Turns requests into calls.
#[derive(Clone)]
struct Asker {
    target: Target,
    path: String,
    model: String,
    backend: Backend,
    text: bool,
    /// Fields of every request.
    fields: Map<String, Value>,
    places: Option<Arc<Semaphore>>,
}

impl Asker {
    fn new(args: &ServeBenchArgs, target: Target, model: String) -> Result<Self> {
        let temperature = args.temperature;
        ensure!(
            (0.0..=100.0).contains(&temperature),
            "--temperature must be from 0 to 100, not {temperature}"
        );
        let standard = match args.backend {
            Backend::Openai => "/v1/completions",
            Backend::OpenaiChat => "/v1/chat/completions",
        };
        let mut fields = Map::new();
        fields.insert("model".to_owned(), json!(model));
        fields.insert("temperature".to_owned(), json!(args.temperature));
        fields.insert("stream".to_owned(), json!(true));
        fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
        if args.ignore_eos {
            fields.insert("ignore_eos".to_owned(), json!(true));
        }
        if let Some(extra) = &args.extra_body {
            let extra: Map<String, Value> =
                serde_json::from_str(extra).context("--extra-body is not a JSON object")?;
            fields.extend(extra);
        }
        let places = args.max_concurrency.map(|most| Arc::new(Semaphore::new(most as usize)));
        Ok(Self {
            target,
            path: args.endpoint.clone().unwrap_or_else(|| standard.to_owned()),
            model,
            backend: args.backend,
            text: args.text,
            fields,
            places,
        })
    }

    fn body(&self, request: &Request) -> Result<String> {
        let mut body = self.fields.clone();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        match (self.backend, &request.text) {
            (Backend::OpenaiChat, Some(text)) => {
                set("messages", json!([{"role": "user", "content": text}]));
                set("max_completion_tokens", json!(request.output_len));
            }
            (Backend::OpenaiChat, None) => {
                bail!("chats are of text; use --dataset-name custom and a file with prompts")
            }
            (Backend::Openai, text) => {
                let prompt = match text {
                    Some(text) if self.text || request.ids.is_empty() => json!(text),
                    _ => json!(request.ids),
                };
                set("prompt", prompt);
                set("max_tokens", json!(request.output_len));
            }
        }
        Ok(serde_json::to_string(&body)?)
    }

    /// Sends every request at its time and waits for all; how long that took, in seconds.
    async fn send_all(
        &self,
        requests: &[Request],
        bodies: Vec<String>,
        bar: &ProgressBar,
    ) -> Result<(Vec<Reply>, f64)> {
        let start = Instant::now() + HEAD_START;
        let mut tasks = Vec::with_capacity(requests.len());
        for (request, body) in requests.iter().zip(bodies) {
            let arrival = Duration::try_from_secs_f64(request.arrival_s)
                .with_context(|| format!("a request cannot arrive at {} s", request.arrival_s))?;
            let (asker, bar, input_len) = (self.clone(), bar.clone(), request.ids.len());
            tasks.push(tokio::spawn(async move {
                sleep_until((start + arrival).into()).await;
                let place = match &asker.places {
                    None => None,
                    Some(places) => places.acquire().await.ok(),
                };
                let reply = asker.send(start, body, input_len).await;
                drop(place);
                bar.inc(1);
                reply
            }));
        }
        let mut replies = Vec::with_capacity(tasks.len());
        for task in tasks {
            replies.push(task.await?);
        }
        Ok((replies, start.elapsed().as_secs_f64()))
    }

    async fn send(&self, start: Instant, body: String, input_len: usize) -> Reply {
        let sent = Instant::now();
        let answer = self.target.stream(&self.path, body).await;
        let start = sent.saturating_duration_since(start).as_secs_f64();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let error = Some(format!("{error:#}"));
                return Reply { start, input_len, error, ..Reply::default() };
            }
        };
        let since = |at: Option<&Instant>| at.map_or(0.0, |at| (*at - sent).as_secs_f64());
        let gaps = answer.chunks.windows(2);
        Reply {
            start,
            input_len: answer.prompt_tokens.unwrap_or(input_len),
            output_len: answer.completion_tokens.unwrap_or(answer.chunks.len()),
            ttft: since(answer.chunks.first()),
            itl: gaps.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect(),
            latency: since(answer.chunks.last()),
            error: None,
        }
    }
}
