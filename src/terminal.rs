//! `folio chat` and `folio complete`: the engine without HTTP, on the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use folio_core::ids::{Salt, Token};
use folio_core::params::{BadParam, ParamLimits, Params, Requested};
use folio_core::schedule::Job;
use folio_engine::Update;
use folio_text::{DateTime, Detokenizer, RenderInput};
use serde_json::{Value, json};

use crate::args::{ChatArgs, CompleteArgs, SamplingArgs};
use crate::log::say;
use crate::settings::Settings;
use crate::startup::{self, Running};

/// Nobody else is in the queue.
const QUEUE: u32 = 1;

/// A conversation; ends with the input.
pub(crate) fn chat(args: &ChatArgs) -> Result<()> {
    let terminal = Terminal::start(&args.model, &args.sampling)?;
    let mut messages: Vec<Value> = Vec::new();
    if let Some(system) = &args.system_prompt {
        messages.push(json!({"role": "system", "content": system}));
    }
    each_line(args.quick.as_deref(), |line| {
        messages.push(json!({"role": "user", "content": line}));
        let prompt = terminal.render(&messages);
        let answer = prompt.and_then(|prompt| terminal.generate(&prompt, false));
        // What was refused would be refused again with every line after it.
        let answer = answer.inspect_err(|_| drop(messages.pop()))?;
        messages.push(json!({"role": "assistant", "content": answer}));
        Ok(())
    })?;
    terminal.stop()
}

/// Continues texts; ends with the input.
pub(crate) fn complete(args: &CompleteArgs) -> Result<()> {
    let terminal = Terminal::start(&args.model, &args.sampling)?;
    each_line(args.quick.as_deref(), |line| {
        print_now(line)?;
        let continued = terminal.generate(line, true);
        if continued.is_err() {
            print_now("\n")?;
        }
        continued.map(drop)
    })?;
    terminal.stop()
}

/// Hands over the one text, or each line of standard input. What a line is refused for is said on standard error; the next one
/// goes on.
fn each_line(quick: Option<&str>, mut work: impl FnMut(&str) -> Result<()>) -> Result<()> {
    if let Some(text) = quick {
        return work(text);
    }
    let prompt = || if io::stdin().is_terminal() { print_now("> ") } else { Ok(()) };
    prompt()?;
    for line in io::stdin().lock().lines() {
        let line = line.context("standard input")?;
        if !line.trim().is_empty()
            && let Err(error) = work(&line)
        {
            // Nobody reads answers any more.
            if error.is::<io::Error>() {
                return Err(error);
            }
            say!("{error:#}");
        }
        prompt()?;
    }
    Ok(())
}

fn print_now(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
}

/// A running engine and the parameters of everything asked of it.
struct Terminal {
    running: Running,
    params: Params,
    runtime: tokio::runtime::Runtime,
}

impl Terminal {
    fn start(model: &crate::args::ModelArgs, sampling: &SamplingArgs) -> Result<Self> {
        if let Some(given) = model.model.as_ref().and_then(|model| model.to_str())
            && given.contains(' ')
            && !Path::new(given).exists()
        {
            bail!("there is no model {given:?}; if that is a text, give it with --quick");
        }
        let settings = Settings::new(model, QUEUE)?;
        let running = startup::start(&settings, false)?;
        let limits = ParamLimits::plain(running.engine.limits().vocab, running.eos.clone());
        let asked = Requested {
            max_tokens: sampling.max_tokens,
            temperature: Some(sampling.temperature),
            top_p: Some(sampling.top_p),
            ..Requested::default()
        };
        let params = Params::parse(&asked, &limits, settings.seed).map_err(|bad| {
            let BadParam { field, problem } = bad;
            anyhow::anyhow!("--{} {problem}", field.replace('_', "-"))
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { running, params, runtime })
    }

    fn render(&self, messages: &[Value]) -> Result<String> {
        let Some(template) = &self.running.template else {
            bail!("this model has no chat template; `folio complete` continues plain text");
        };
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let messages = Value::from(messages);
        let input = RenderInput {
            messages: &messages,
            add_generation_prompt: true,
            tools: None,
            extra: None,
            now: DateTime::from_unix_seconds(i64::try_from(seconds).unwrap_or(0)),
            max_output: startup::MOST_PROMPT_BYTES,
        };
        Ok(template.render(&input)?)
    }

    /// Streams the continuation of `prompt` to standard output and returns it. A `text` begins as the tokenizer begins
    /// texts; a rendered template brings its own beginning.
    fn generate(&self, prompt: &str, text: bool) -> Result<String> {
        let tokenizer = &self.running.tokenizer;
        let prompt = tokenizer.encode(prompt, text)?;
        let mut decoder = Detokenizer::new(tokenizer.clone(), true, &prompt);
        let prompt = prompt.into_iter().map(Token).collect();
        let job = Job::new(prompt, self.params.clone(), Salt::default());
        let mut generation = self.running.engine.generate(job)?;
        let mut whole = String::new();
        while let Some(updates) = self.runtime.block_on(generation.next()) {
            for update in updates {
                let piece = match update {
                    Update::Sampled { drawn, .. } => decoder.push(drawn.token.0)?,
                    Update::Failed(cause) => bail!(cause),
                    Update::Admitted { .. }
                    | Update::PromptScored(_)
                    | Update::Ranked { .. }
                    | Update::Ended { .. } => {
                        continue;
                    }
                };
                print_now(&piece)?;
                whole.push_str(&piece);
            }
        }
        let rest = decoder.finish();
        print_now(&rest)?;
        print_now("\n")?;
        Ok(whole + &rest)
    }

    fn stop(self) -> Result<()> {
        self.running.engine.drain();
        self.running.thread.join().context("the engine ended by itself")
    }
}
