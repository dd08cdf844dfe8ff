//! A server without a network: its router, and an engine whose model says what it is told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use folio_core::ids::Token;
use folio_core::kv::{Config, Manager};
use folio_core::params::GenerationDefaults;
use folio_core::schedule::{Limits, Scheduler};
use folio_engine::{EngineConfig, start};
use folio_server::{App, ModelFacts, ModelTexts, ServerConfig, router};
use folio_sim::{CostExecutor, TokenRule};
use folio_text::{ChatTemplate, SpecialTokens, Tokenizer, ToolFormat};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use super::texts::demo;

const PATHS: [&str; 7] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
];
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
const END: u32 = 1;

pub(super) struct Server {
    runtime: Runtime,
    router: Router,
    tokenizer: Tokenizer,
    /// What the model says; beyond it, the end. Nothing: whatever comes.
    script: Arc<Mutex<Vec<u32>>>,
}

impl Server {
    pub(super) fn new() -> Self {
        let tokenizer = demo();
        let vocab = tokenizer.vocab_size();
        let limits = Limits {
            max_model_len: 128,
            max_num_seqs: 16,
            max_num_batched_tokens: 128,
            max_queued: 64,
            vocab,
        };
        let config = Config { block_size: 4, capacity: 256, prefix_caching: true, secret: 7 };
        let scheduler = Scheduler::new(limits, Manager::new(config).unwrap());
        let script = Arc::new(Mutex::new(Vec::new()));
        let says: Arc<Mutex<Vec<u32>>> = Arc::clone(&script);
        let executor =
            CostExecutor::new(256, 4, TokenRule::new(vocab)).with_chooser(move |sight| {
                let script = says.lock().unwrap();
                // The prompt of a scripted request is one token.
                let said = sight.tokens.len() - 1;
                Ok(if script.is_empty() {
                    sight.natural
                } else {
                    Token(*script.get(said).unwrap_or(&END))
                })
            });
        // The thread ends with the process.
        let (engine, _) = start(scheduler, Box::new(executor), EngineConfig::default()).unwrap();
        let texts = ModelTexts {
            tokenizer: tokenizer.clone(),
            template: Some(ChatTemplate::compile(TEMPLATE, SpecialTokens::default()).unwrap()),
            defaults: GenerationDefaults::default(),
            tools: Some(ToolFormat::Hermes),
            reasoning: false,
        };
        let model = ModelFacts { eos: vec![Token(END)], ..ModelFacts::default() };
        // A machine that is busy or asleep is no failure.
        let hour = Duration::from_secs(3600);
        let limits = folio_server::Limits {
            body_time: hour,
            idle_time: hour,
            text_time: hour,
            ..folio_server::Limits::default()
        };
        let app =
            App::new(ServerConfig { model, limits, ..ServerConfig::default() }, engine, texts);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { runtime, router: router(app), tokenizer, script }
    }

    fn ask(&self, path: &str, body: Vec<u8>) -> (u16, String) {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(Body::from(body)).unwrap();
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let bytes = to_bytes(answer.into_body(), 1 << 24).await.unwrap();
            (status, String::from_utf8(bytes.to_vec()).expect("answers are text"))
        })
    }

    /// Sends an input to the endpoint that its first byte chooses.
    pub(super) fn request(&self, input: &[u8]) -> String {
        let (place, body) = input.split_first().unwrap_or((&b'0', &[]));
        let path = PATHS[usize::from(*place) % PATHS.len()];
        let (status, answer) = self.ask(path, body.to_vec());
        assert!(status < 500, "{path}: {answer}");
        if status == 200 {
            return format!("{path} fine");
        }
        let error: Value = serde_json::from_str(&answer).expect("errors are JSON");
        let message = error["error"]["message"].as_str().expect("errors have a message");
        assert!(!message.is_empty() && message.len() < 1000, "{message}");
        message.to_owned()
    }

    /// Lets the model say an input, as text or, behind an odd byte, as tokens of two bytes each: the stream must be
    /// well-formed and say what the whole answer says.
    pub(super) fn streamed_equals_whole(&self, input: &[u8]) -> String {
        let (kind, said) = input.split_first().unwrap_or((&b'0', &[]));
        let vocab = self.tokenizer.vocab_size();
        let mut script = if kind % 2 == 0 {
            self.tokenizer.encode(&String::from_utf8_lossy(said), false).unwrap()
        } else {
            let token =
                |pair: &[u8]| pair.iter().fold(0, |id, byte| id * 256 + u32::from(*byte)) % vocab;
            said.chunks(2).map(token).collect()
        };
        script.truncate(100);
        script.push(END);
        *self.script.lock().unwrap() = script;
        let mut told = String::new();
        for (path, mut body) in [
            ("/v1/completions", json!({"prompt": [5], "max_tokens": 120, "logprobs": 0})),
            (
                "/v1/completions",
                json!({"prompt": [5], "max_tokens": 120, "stop": ["\n", "}"], "skip_special_tokens": false}),
            ),
        ] {
            let (status, whole) = self.ask(path, body.to_string().into_bytes());
            assert_eq!(status, 200, "{whole}");
            let whole: Value = serde_json::from_str(&whole).unwrap();
            let whole = &whole["choices"][0];
            body["stream"] = json!(true);
            let (status, stream) = self.ask(path, body.to_string().into_bytes());
            assert_eq!(status, 200, "{stream}");
            let (text, finish) = joined(&stream);
            assert_eq!(whole["text"], text, "{stream}");
            assert_eq!(whole["finish_reason"], finish, "{stream}");
            told += finish.as_str().unwrap();
        }
        told
    }
}

/// The text and the last word of a stream, each of whose events must be one line of JSON.
fn joined(stream: &str) -> (String, Value) {
    let (mut text, mut finish) = (String::new(), Value::Null);
    let events: Vec<&str> = stream.split_terminator("\n\n").collect();
    let (last, events) = events.split_last().expect("events");
    assert_eq!(*last, "data: [DONE]");
    for event in events {
        assert!(!event.contains(['\n', '\r']), "{event:?}");
        let event: Value =
            serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON");
        text += event["choices"][0]["text"].as_str().unwrap();
        if event["choices"][0]["finish_reason"].is_string() {
            finish = event["choices"][0]["finish_reason"].clone();
        }
    }
    (text, finish)
}
