//! Output that follows a grammar: which tokens may come next, and which may not.
//!
//! [`Grammars`] compiles what a request asks for ([`Grammar`]) and keeps the latest results; a [`Matcher`] follows one
//! sequence and gives the mask of its next token. The parsing is `llguidance`'s; here are the bounds around it.
//! **Invariants.** A mask depends on the grammar and on the sequence's tokens alone: matchers share nothing that changes.
//! Whatever a client sends is compiled within bounds of size, nesting and work, on a stack of known size, and a mask costs
//! at most some ten milliseconds; what exceeds a bound is an error that says so.

mod cache;
pub(crate) mod screen;
mod vocabulary;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{CancellationHandle, ParserFactory};
use serde_json::{Value, json};

use crate::tokenizer::Tokenizer;
use cache::Cache;

/// The library recurses over what people write; its own bounds keep it far from the end of such a stack.
const STACK_BYTES: usize = 64 << 20;
/// Between the parts of a JSON text: as it is written in one line, or indented. Where more is allowed, a model may write
/// blanks for ever.
const BLANKS: &str = r"( ?|\n[ \t]{0,24})";

/// Why a grammar cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is larger than allowed.
    #[error("has {count} {what}; at most {limit} are allowed")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// It nests deeper than allowed.
    #[error("nests deeper than {limit} levels")]
    TooDeep {
        /// The most levels.
        limit: usize,
    },
    /// It came to an end that is none, or has become too complex.
    #[error("cannot be followed any further: {detail}")]
    Broken {
        /// What is wrong, in one line.
        detail: String,
    },
    /// It cannot be compiled.
    #[error("cannot be compiled: {detail}")]
    Invalid {
        /// What is wrong, and where.
        detail: String,
    },
    /// No grammar can be followed with this model.
    #[error("cannot be followed: {reason}")]
    Unsupported {
        /// Why.
        reason: &'static str,
    },
}

/// How a JSON text may be laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Blanks {
    /// A space, or a line break and up to 24 blanks after it, wherever JSON allows them.
    #[default]
    Some,
    /// None but one after each comma and colon.
    None,
    /// What this regular expression matches.
    Pattern(String),
}

/// What a text is to follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// A JSON text that is valid under a JSON Schema.
    Schema {
        /// The schema.
        schema: Arc<Value>,
        /// Blanks between its parts.
        blanks: Blanks,
    },
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a context-free grammar in Lark's notation, as `llguidance` reads it.
    Lark(String),
}

impl Grammar {
    /// Any JSON object.
    #[must_use]
    pub fn json_object() -> Self {
        Self::schema(json!({ "type": "object" }))
    }

    /// A JSON text that is valid under `schema`.
    #[must_use]
    pub fn schema(schema: Value) -> Self {
        Self::Schema { schema: Arc::new(schema), blanks: Blanks::Some }
    }

    /// Checks what can be checked without the library, and writes the grammar in its form.
    fn screened(&self) -> Result<GrammarWithLexer, GrammarError> {
        match self {
            Self::Schema { schema, blanks } => {
                screen::schema(schema)?;
                screen::length(schema.to_string().len())?;
                Ok(GrammarWithLexer::from_json_schema(with_blanks(schema, blanks)?))
            }
            Self::Regex(regex) => {
                screen::length(regex.len())?;
                screen::brackets(regex)?;
                Ok(GrammarWithLexer::from_regex(regex))
            }
            Self::Choice(choices) => {
                screen::length(choices.iter().map(String::len).sum())?;
                let (count, limit) = (choices.len(), screen::MAX_CHOICES);
                if count > limit {
                    return Err(GrammarError::TooLarge { what: "choices", count, limit });
                }
                if choices.is_empty() {
                    return Err(invalid("it has no choices"));
                }
                let quoted: Vec<String> = choices.iter().map(|choice| quote(choice)).collect();
                Ok(GrammarWithLexer::from_lark(format!("start: {}", quoted.join(" | "))))
            }
            Self::Lark(text) => {
                screen::length(text.len())?;
                screen::brackets(text)?;
                Ok(GrammarWithLexer::from_lark(text.clone()))
            }
        }
    }

    /// About how many bytes it takes.
    fn bytes(&self) -> usize {
        match self {
            Self::Schema { schema, .. } => schema.to_string().len(),
            Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(choices) => choices.iter().map(String::len).sum(),
        }
    }
}

/// `text` as a literal of Lark's notation, which is that of JSON.
pub(crate) fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema with the library's own options for blanks.
pub(crate) fn with_blanks(schema: &Value, blanks: &Blanks) -> Result<Value, GrammarError> {
    let options = match blanks {
        Blanks::Some => json!({ "whitespace_pattern": BLANKS }),
        Blanks::None => json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
        }),
        Blanks::Pattern(pattern) => {
            screen::length(pattern.len())?;
            screen::brackets(pattern)?;
            json!({ "whitespace_pattern": pattern })
        }
    };
    match schema {
        Value::Object(map) => {
            let mut map = map.clone();
            map.insert("x-guidance".to_owned(), options);
            Ok(Value::Object(map))
        }
        Value::Bool(true) => Ok(json!({ "x-guidance": options })),
        _ => Err(invalid("a schema must be an object")),
    }
}

const NOTHING_FOLLOWS: &str = "nothing that the model could write follows the text so far";

fn invalid(detail: &str) -> GrammarError {
    GrammarError::Invalid { detail: detail.to_owned() }
}

/// Compiles grammars for one model. Cheap to clone; clones share what has been compiled.
#[derive(Clone)]
pub struct Grammars {
    inner: Arc<Inner>,
}

struct Inner {
    tokenizer: Tokenizer,
    ends: Vec<u32>,
    /// Made with the first grammar: many servers never see one.
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    cache: Mutex<Cache>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For a model with this tokenizer whose sequences end with one of `ends`.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, ends: Vec<u32>) -> Self {
        let inner = Inner {
            tokenizer,
            ends,
            factory: OnceLock::new(),
            cache: Mutex::new(Cache::default()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A matcher at the start of a text. Takes milliseconds, for a few grammars up to a second: call it outside an event
    /// loop.
    ///
    /// # Errors
    /// [`GrammarError`], in words that may be shown to whoever sent the grammar.
    pub fn matcher(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let cache = || self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cache().get(grammar) {
            return Ok(known);
        }
        let matcher = self.compile(grammar)?;
        cache().put(grammar.clone(), grammar.bytes(), matcher.fork());
        Ok(matcher)
    }

    /// On a stack of its own, behind a fence: the library's depth follows the grammar's, and it is not free of panics.
    fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let source = grammar.screened()?;
        let work = || catch_unwind(AssertUnwindSafe(|| self.compile_here(source)));
        let result = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work).ok()?.join().ok()?.ok()
        });
        let result = result.unwrap_or_else(|| Err(invalid("the grammar library failed")));
        match grammar {
            Grammar::Lark(text) if result.is_err() && text.contains("::=") => Err(invalid(
                "it looks like GBNF; write it in Lark's notation, with `start: …` as its first rule",
            )),
            _ => result,
        }
    }

    fn compile_here(&self, source: GrammarWithLexer) -> Result<Matcher, GrammarError> {
        let factory = self.inner.factory.get_or_init(|| self.factory()).as_ref();
        let factory = factory.map_err(Clone::clone)?;
        let parser = factory.create_parser(TopLevelGrammar::from_grammar(source));
        let parser = parser.map_err(|error| GrammarError::Invalid { detail: words(&error) })?;
        let mut matcher = llguidance::Matcher::new(Ok(parser)).into_cancellable();
        // The first mask finds what can never be satisfied, and what is too complex from the start.
        let first = matcher.compute_mask();
        let first = first.map_err(|error| GrammarError::Invalid { detail: words(&error) })?;
        if first.is_zero() {
            return Err(invalid("no text of this model's tokens follows it"));
        }
        Ok(Matcher { inner: Mutex::new(matcher) })
    }

    fn factory(&self) -> Result<ParserFactory, GrammarError> {
        let env = vocabulary::vocabulary(&self.inner.tokenizer, &self.inner.ends)?;
        let slices = SlicedBiasComputer::json_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory =
            factory.map_err(|error| GrammarError::Invalid { detail: words(&error) })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_grammar_size: 200_000,
            // One or two kilobytes each, and every sequence has its own.
            max_lexer_states: 8_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(factory)
    }
}

/// Follows one sequence.
pub struct Matcher {
    /// Never contended; the library's matcher cannot be shared without.
    inner: Mutex<llguidance::Matcher>,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

impl Matcher {
    /// Fills `mask` with the tokens that may come next: bit `t % 32` of word `t / 32`. When the text is complete and nothing
    /// can follow, these are the tokens that end a sequence.
    ///
    /// # Errors
    /// When the grammar turned out to be too complex, or the work was cancelled.
    pub fn mask(&mut self, mask: &mut Vec<u32>) -> Result<(), GrammarError> {
        let allowed = self.matcher().compute_mask_or_eos();
        let allowed = allowed.map_err(|error| GrammarError::Broken { detail: words(&error) })?;
        if allowed.is_zero() {
            return Err(GrammarError::Broken { detail: NOTHING_FOLLOWS.to_owned() });
        }
        mask.extend_from_slice(allowed.as_slice());
        Ok(())
    }

    /// Takes a token in. After the end, tokens change nothing.
    ///
    /// # Errors
    /// When the last mask did not allow it, or the work was cancelled.
    pub fn advance(&mut self, token: u32) -> Result<(), GrammarError> {
        let matcher = self.matcher();
        if matcher.is_stopped() && !matcher.is_error() {
            return Ok(());
        }
        let taken = matcher.consume_token(token);
        taken.map_err(|error| GrammarError::Broken { detail: words(&error) })
    }

    /// The same for another sequence that begins alike. They share nothing.
    #[must_use]
    pub fn fork(&self) -> Self {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Self { inner: Mutex::new(inner.deep_clone()) }
    }

    /// Makes work on this matcher fail soon when called from another thread.
    pub fn canceller(&self) -> impl Fn() + Send + use<> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let handle: Option<CancellationHandle> = inner.cancellation_handle();
        move || {
            if let Some(handle) = &handle {
                handle.cancel();
            }
        }
    }

    fn matcher(&mut self) -> &mut llguidance::Matcher {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The library's error in one short line. What follows the first line may be a backtrace with paths.
fn words(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let line =
        text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    if line.starts_with("panic:") {
        return "the grammar library failed".to_owned();
    }
    if line.starts_with("NoExtension") {
        return NOTHING_FOLLOWS.to_owned();
    }
    // Said as if a build could be changed by whoever sends a schema.
    let line = line.replace(" without 'referencing' feature", "");
    line.chars().take(300).collect()
}
