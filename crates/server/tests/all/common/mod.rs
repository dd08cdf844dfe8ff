//! A whole server in this process: real loopback TCP, the real scheduler, and an engine whose "model" says what its
//! prompt tells it to.
//!
//! Tokens `0..256` are bytes. A prompt that ends in `[text]>` is answered with `text` and then the end of sequence; with
//! `[one|two]>`, choice `i` gets part `i`. Brackets within the text come in pairs. Any other prompt is answered with letters that follow from it, without end.

pub(crate) mod data;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod zmtp;

use std::net::SocketAddr;

use folio_core::exec::DrawFault;
use folio_core::ids::Token;
use folio_core::kv::{Config, Manager};
use folio_core::params::GenerationDefaults;
use folio_core::schedule::{Limits, Scheduler};
use folio_engine::{Checks, EngineConfig, EngineThread, Handle, start, start_observed};
use folio_server::{
    App, Ending, KvEventPlaces, KvEventTap, KvEventsConfig, ModelFacts, ModelTexts, ServerConfig,
    publish_kv_events, serve,
};
use folio_sim::{CostExecutor, Gate, Sight, TokenRule};
use folio_text::{ChatTemplate, SpecialTokens, Tokenizer, ToolFormat};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) const BOS: u32 = 256;
pub(crate) const THINK: u32 = 257;
pub(crate) const ANSWER: u32 = 258;
pub(crate) const START: u32 = 259;
pub(crate) const END: u32 = 260;
pub(crate) const VOCAB: u32 = 261;

pub(crate) const MAX_MODEL_LEN: u32 = 256;
/// The longest text that is tokenised.
pub(crate) const MOST_BYTES: usize = 100_000;

pub(crate) const BLOCK_SIZE: u32 = 4;

/// Roles and contents between marks; the generation prompt ends with `>`, so that the last message can script the answer,
/// unless thinking is turned off: then the answer is `quiet`. With `plain`, developers are refused.
const TEMPLATE: &str = "{% for m in messages %}\
                        {% if plain is defined and m.role == 'developer' %}{{ raise_exception('plain roles') }}{% endif %}<|start|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}\
                        {% if enable_thinking is defined and not enable_thinking %}[quiet]{% endif %}>{% endif %}";

/// A body with more fields, or with other values of those it has.
pub(crate) fn with(body: &Value, more: &Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
    body
}

/// How a test's server differs from the usual one.
pub(crate) struct Setup {
    pub(crate) config: ServerConfig,
    pub(crate) gate: Option<Gate>,
    pub(crate) blocks: u32,
    pub(crate) max_queued: u32,
    pub(crate) template: bool,
    pub(crate) defaults: GenerationDefaults,
    /// Fails the step in which this byte would be drawn.
    pub(crate) poison: Option<u8>,
    pub(crate) tools: Option<ToolFormat>,
    pub(crate) reasoning: bool,
    pub(crate) kv_events: Option<KvEventsConfig>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: ServerConfig {
                served_names: vec!["tiny".to_owned(), "org/tiny".to_owned()],
                model: ModelFacts { eos: vec![Token(END)], ..ModelFacts::default() },
                ..ServerConfig::default()
            },
            gate: None,
            blocks: 1024,
            max_queued: 64,
            template: true,
            defaults: GenerationDefaults::default(),
            poison: None,
            tools: None,
            reasoning: false,
            kv_events: None,
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Handle,
    pub(crate) kv_events: KvEventPlaces,
    thread: EngineThread,
    signals: mpsc::Sender<()>,
    serving: JoinHandle<Ending>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(mut setup: Setup) -> Self {
        let limits = Limits {
            max_model_len: MAX_MODEL_LEN,
            max_num_seqs: 16,
            max_num_batched_tokens: 64,
            max_queued: setup.max_queued,
            vocab: VOCAB,
        };
        let memory = Manager::new(Config {
            block_size: BLOCK_SIZE,
            capacity: setup.blocks,
            prefix_caching: true,
            secret: 7,
        });
        let mut memory = memory.expect("a sound configuration");
        let tap = match setup.kv_events {
            Some(config) => Some(publish_kv_events(config).await.expect("free ports")),
            None => None,
        };
        if let Some(tap) = &tap {
            memory = memory.with_changes();
            setup.config.kv_events = Some(tap.counts());
        }
        let kv_events = tap.as_ref().map_or_else(KvEventPlaces::default, KvEventTap::places);
        let scheduler = Scheduler::new(limits, memory);
        let mut executor = CostExecutor::new(setup.blocks, BLOCK_SIZE, TokenRule::new(VOCAB));
        executor = executor.with_chooser(move |sight| speak(sight, setup.poison));
        if let Some(gate) = setup.gate {
            executor = executor.with_gate(gate);
        }
        let config = EngineConfig { checks: Checks::EveryStep, ..EngineConfig::default() };
        let executor = Box::new(executor);
        let (engine, thread) = match tap {
            Some(tap) => start_observed(scheduler, executor, config, tap),
            None => start(scheduler, executor, config),
        }
        .expect("the engine starts");
        let texts = ModelTexts {
            tokenizer: tokenizer(),
            template: setup.template.then(template),
            defaults: setup.defaults,
            tools: setup.tools,
            reasoning: setup.reasoning,
        };
        let app = App::new(setup.config, engine.clone(), texts);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (signals, shutdown) = mpsc::channel(2);
        let serving = tokio::spawn(serve(listener, app, shutdown));
        Self { address, engine, kv_events, thread, signals, serving }
    }

    /// One signal to shut down.
    pub(crate) async fn signal(&self) {
        self.signals.send(()).await.expect("it serves");
    }

    /// Waits for the end of a server that was told to end, engine and all.
    pub(crate) async fn ended(self) -> Ending {
        let ending = self.serving.await.expect("it does not panic");
        drop(self.engine);
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        joined.expect("it does not panic").expect("the engine ends as it was told to");
        ending
    }

    /// Waits until the engine has nothing to do; then every block must be free.
    pub(crate) async fn assert_nothing_leaked(&self) {
        loop {
            let snapshot = self.engine.snapshot();
            if snapshot.requests == 0 && snapshot.stats.running.groups == 0 {
                assert_eq!(snapshot.stats.kv.used, 0, "blocks leaked");
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Drains and demands a clean end without leaks.
    pub(crate) async fn stop(self) {
        self.assert_nothing_leaked().await;
        self.signal().await;
        assert_eq!(self.ended().await, Ending::Drained);
    }
}

/// The script's next token, or a letter that follows from the context where there is no script.
fn speak(sight: &Sight<'_>, poison: Option<u8>) -> Result<Token, DrawFault> {
    // Marks of thoughts stand in a script as the bytes 1 and 2, all other control tokens as 0.
    let byte = |token: &Token| match token.0 {
        THINK => 1,
        ANSWER => 2,
        other => u8::try_from(other).unwrap_or(0),
    };
    let text: Vec<u8> = sight.tokens.iter().map(byte).collect();
    // Letters only: nothing that ends a text or looks like a script.
    let natural = Ok(Token(u32::from(b'a') + sight.natural.0 % 26));
    // The last `]>`, whatever control tokens stand in between.
    let follows_bracket = |at: &usize| {
        let before = text[..*at].iter().rev().find(|&&byte| byte != 0);
        text[*at] == b'>' && before == Some(&b']')
    };
    let Some(end) = (0..text.len()).rev().find(follows_bracket) else { return natural };
    let close = text[..end].iter().rposition(|&byte| byte == b']').expect("it was found");
    let mut depth = 0;
    let open = (0..close).rev().find(|&at| {
        depth += i32::from(text[at] == b']') - i32::from(text[at] == b'[');
        depth < 0
    });
    let Some(open) = open else { return natural };
    let script = &text[open + 1..close];
    let parts: Vec<&[u8]> = script.split(|&byte| byte == b'|').collect();
    let part = parts[usize::try_from(sight.draw.choice).expect("few choices") % parts.len()];
    match part.get(text.len() - end - 1) {
        Some(byte) if Some(*byte) == poison => Err(DrawFault::NotFinite),
        Some(1) => Ok(Token(THINK)),
        Some(2) => Ok(Token(ANSWER)),
        Some(byte) => Ok(Token(u32::from(*byte))),
        None => Ok(Token(END)),
    }
}

fn template() -> ChatTemplate {
    let tokens = SpecialTokens { bos: Some("<|bos|>".to_owned()), ..SpecialTokens::default() };
    ChatTemplate::compile(TEMPLATE, tokens).expect("a sound template")
}

/// A byte-level tokenizer without merges: a token per byte, three special ones, and two that stand around thoughts.
pub(crate) fn tokenizer() -> Tokenizer {
    let vocab: Map<String, Value> =
        (0..=255_u8).map(|byte| (byte_name(byte).to_string(), json!(byte))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let mark = |id: u32, content: &str| {
        let mut token = special(id, content);
        token["special"] = json!(false);
        token
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [
            special(BOS, "<|bos|>"), mark(THINK, "<think>"), mark(ANSWER, "</think>"),
            special(START, "<|start|>"), special(END, "<|end|>"),
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [BOS], "tokens": ["<|bos|>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(file.to_string().as_bytes(), MOST_BYTES).expect("a sound tokenizer")
}

/// The character that stands for a byte in byte-level vocabularies: printable ones for themselves, the others moved up.
fn byte_name(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|&b| !printable(b)).count();
    let place = u32::try_from(place).expect("a byte's place");
    char::from_u32(256 + place).expect("a character")
}
