//! A conversation becomes a prompt: chat templates as `transformers` runs them, in a bounded sandbox.
//!
//! The template comes with the model and the conversation from a client, so both are hostile until proven otherwise. A
//! rendering is bounded in steps (fuel of the virtual machine), in bytes handled and therefore in memory ([`meter`]), in
//! recursion and in output; whatever happens, it ends with a prompt or with a [`TemplateError`]. There is no clock, no file and
//! no environment in here.
//!
//! The way of a template: [`screen`] (shape of the source) → the library's parser and code generator → [`lower`] (every costly
//! operation gets a price) → the library's virtual machine, with [`ops`], [`filters`], [`tests`] and [`methods`] as the only
//! things it can call.

mod error;
mod filters;
mod lower;
mod meter;
mod methods;
mod ops;
mod python;
mod screen;
mod strftime;
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use minijinja::machinery::{eval, make_string_output};
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};

pub use error::TemplateError;
pub use strftime::DateTime;

/// Steps of the virtual machine that one rendering may take. The dearest published template takes 10 000 for six turns with
/// tools, and a million for six hundred.
const STEPS: u64 = 2_000_000;
/// How deep macros (4 each), loops and blocks may be nested while rendering. It bounds the stack, and the price of a variable,
/// which is looked for in all blocks around.
const RECURSION: usize = 200;
/// The most extra variables.
const MAX_EXTRA: usize = 64;

/// Names that a template gets from the conversation, the model or this crate, so never from an extra variable.
const RESERVED: [&str; 18] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "documents",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "chat_template",
    "tokenize",
    "raise_exception",
    "strftime_now",
    "namespace",
    "dict",
    "range",
    "loop",
    "self",
    "caller",
];

/// The tokens that templates write by name, as texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The beginning of a sequence.
    pub bos: Option<String>,
    /// The end of a sequence.
    pub eos: Option<String>,
    /// What stands for text outside the vocabulary.
    pub unk: Option<String>,
    /// Padding.
    pub pad: Option<String>,
}

/// What a template is rendered with.
#[derive(Debug)]
pub struct RenderInput<'a> {
    /// The conversation: a list of objects with `role` and `content`.
    pub messages: &'a Json,
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// The tools that the model may call.
    pub tools: Option<&'a Json>,
    /// Further variables of the template, such as `enable_thinking`.
    pub extra: Option<&'a Map<String, Json>>,
    /// The moment that the template may print.
    pub now: DateTime,
    /// The longest prompt, in bytes.
    pub max_output: usize,
}

/// A chat template. Cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

struct Inner {
    /// Screened and known to compile.
    source: String,
    tokens: SpecialTokens,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("bytes", &self.inner.source.len())
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Checks that `source` is a template that can be run here.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] with the line, for a template that is not Jinja, is out of shape (256 KiB, 2048 tokens in one
    /// tag), or names a filter or test that does not exist.
    pub fn compile(source: &str, tokens: SpecialTokens) -> Result<Self, TemplateError> {
        let source = guarded(|| {
            let source = screen::screen(source)?;
            lower::lower(&source)?;
            Ok(source)
        })?;
        Ok(Self { inner: Arc::new(Inner { source, tokens }) })
    }

    /// The template as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Renders the prompt of a conversation. Takes microseconds to milliseconds for what people write, and at most about a
    /// second for what an attacker does, so a server calls it outside its event loop.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] with the template's words when it refuses the conversation, another variant when it fails or
    /// reaches a bound.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        guarded(|| self.render_inner(input))
    }

    fn render_inner(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);
        let env: &Environment<'_> = &ENVIRONMENT;
        let program = lower::lower(&self.inner.source)?;
        let blocks = std::collections::BTreeMap::new();
        let mut prompt = String::new();
        let root = self.variables(input)?;
        let mut output = make_string_output(&mut prompt);
        let result = eval(env, &program, root, &blocks, &mut output, AutoEscape::None).map(|_| ());
        result.map_err(|error| TemplateError::rendering(&error, STEPS))?;
        if prompt.len() > input.max_output {
            return Err(TemplateError::OutputTooLong {
                length: prompt.len(),
                limit: input.max_output,
            });
        }
        Ok(prompt)
    }

    fn variables(&self, input: &RenderInput<'_>) -> Result<Value, TemplateError> {
        let mut variables = vec![
            ("messages", from_json("messages", input.messages, meter::MAX_DEPTH)?),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("tools", from_json("tools", input.tools.unwrap_or(&Json::Null), meter::MAX_DEPTH)?),
            ("documents", Value::from(())),
            ("strftime_now", methods::strftime_now(input.now)),
        ];
        let tokens = &self.inner.tokens;
        for (name, token) in [
            ("bos_token", &tokens.bos),
            ("eos_token", &tokens.eos),
            ("unk_token", &tokens.unk),
            ("pad_token", &tokens.pad),
        ] {
            variables.extend(token.as_deref().map(|text| (name, Value::from(text))));
        }
        let extra = input.extra.into_iter().flatten();
        for (i, (name, value)) in extra.enumerate() {
            check_extra(i, name)?;
            variables.push((name, from_json(name, value, meter::MAX_DEPTH)?));
        }
        Ok(Value::from_pairs(variables))
    }
}

fn check_extra(position: usize, name: &str) -> Result<(), TemplateError> {
    let refuse = |reason| Err(TemplateError::BadVariable { name: error::clip(name), reason });
    let mut chars = name.chars();
    let word = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !word || name.len() > 64 {
        return refuse("a name has up to 64 letters, digits and underscores");
    }
    if RESERVED.contains(&name) {
        return refuse("the template gets it from the rest of the request");
    }
    if position >= MAX_EXTRA {
        return refuse("64 extra variables are the most");
    }
    Ok(())
}

/// A value of a request as a value of a template, `depth` levels deep at most.
fn from_json(field: &str, json: &Json, depth: usize) -> Result<Value, TemplateError> {
    let below = || {
        let too_deep =
            || TemplateError::InputTooDeep { field: error::clip(field), limit: meter::MAX_DEPTH };
        depth.checked_sub(1).ok_or_else(too_deep)
    };
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(x) => Value::from(*x),
        Json::Number(x) => match (x.as_i64(), x.as_u64(), x.as_f64()) {
            (Some(x), ..) => Value::from(x),
            (_, Some(x), _) => Value::from(x),
            (.., x) => Value::from(x.unwrap_or(f64::NAN)),
        },
        Json::String(x) => Value::from(x.as_str()),
        Json::Array(items) => {
            let depth = below()?;
            let items: Result<Vec<Value>, _> =
                items.iter().map(|item| from_json(field, item, depth)).collect();
            Value::from(items?)
        }
        Json::Object(map) => {
            let depth = below()?;
            let pair = |(key, item): (&String, _)| {
                Ok((Value::from(key.as_str()), from_json(field, item, depth)?))
            };
            Value::from_pairs(map.iter().map(pair).collect::<Result<Vec<_>, TemplateError>>()?)
        }
    })
}

/// The library's virtual machine with nothing to call but what is registered here.
fn environment() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(STEPS));
    env.set_recursion_limit(RECURSION);
    env.set_formatter(|out, state, value| {
        let text = python::text_of(state, value)?;
        out.write_str(&text).map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    ops::register(&mut env);
    filters::register(&mut env);
    tests::register(&mut env);
    methods::register(&mut env);
    env
}

/// Runs `work`, which calls the template library. A panic in there is a bug, but it must cost one request and not the server.
fn guarded<T>(work: impl FnOnce() -> Result<T, TemplateError>) -> Result<T, TemplateError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(TemplateError::Internal))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    /// A name that compiles but is not registered would fail only in front of a user.
    #[test]
    fn every_name_that_compiles_can_be_called() {
        let filters = filters::NAMES.map(|name| format!("{{{{ messages | {name} }}}}"));
        let operators = ["<", "<=", "==", "!=", ">", ">="];
        let words = tests::NAMES.iter().filter(|name| !operators.contains(name));
        let tests = words.map(|name| format!("{{{{ messages is {name}(1) }}}}"));
        let symbols = operators.map(|name| format!("{{{{ messages | select('{name}', 1) }}}}"));
        for source in filters.into_iter().chain(tests).chain(symbols) {
            let template = ChatTemplate::compile(&source, SpecialTokens::default()).unwrap();
            let input = RenderInput {
                messages: &Json::from(vec![1]),
                add_generation_prompt: false,
                tools: None,
                extra: None,
                now: DateTime::from_unix_seconds(0),
                max_output: 100,
            };
            if let Err(error) = template.render(&input) {
                assert!(!error.to_string().contains("unknown"), "{source}: {error}");
            }
        }
    }

    #[test]
    fn texts_can_be_shared_between_threads() {
        fn shared<T: Send + Sync + Clone>() {}
        shared::<ChatTemplate>();
        shared::<crate::Tokenizer>();
        shared::<crate::TokenizerConfig>();
    }
}
