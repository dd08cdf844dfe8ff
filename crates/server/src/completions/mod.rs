//! `POST /v1/completions`: prompts in, their continuations out. Choice number `prompt × n + sample` belongs to a prompt,
//! as OpenAI numbers them.

mod echo;
mod respond;
mod stream;
pub(crate) mod types;
pub(crate) mod validate;

use axum::extract::{Request, State};
use axum::response::Response;
use folio_core::schedule::Job;

use crate::admin::json;
use crate::error::ApiError;
use crate::generate::answer::Heading;
use crate::generate::choice::Rendering;
use crate::generate::constraint::{Follow, Rules};
use crate::generate::encode::{encode, known_tokens, on_text_thread};
use crate::generate::origin::Origin;
use crate::generate::reading::Thinking;
use crate::generate::report::Report;
use crate::generate::run::{FieldNames, Order, Run, Setting};
use crate::request::common::Delivery;
use crate::request::output::truncate;
use crate::sse;
use crate::state::{App, Served};
use echo::{Echo, Style};
use stream::CompletionStream;
use types::{CompletionBody, Prompt};
use validate::{ValidCompletion, validate};

/// The handler.
pub(crate) async fn complete(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let (origin, body) = Origin::of::<CompletionBody>(request, &app).await?;
    let ValidCompletion { prompts, echo, prompts_only, wanted, common } =
        validate(body, &app.served, origin.caller())?;
    let reading = Reading {
        vocab: app.served.param_limits.vocab,
        add_special_tokens: common.add_special_tokens,
        skip_special_tokens: common.output.skip_special_tokens,
        truncation: common.truncation,
        echo,
    };
    let (read, constraint) = on_text_thread(&app, move |served| {
        let read = reading.all(served, prompts)?;
        let (wanted, thinking) = (wanted.as_ref(), Thinking::No);
        let constraint = Follow::new(served, Rules { wanted, thinking, thoughts: None })?;
        Ok((read, constraint))
    })
    .await?;
    let job = |prompt| Job::new(prompt, common.params.clone(), common.salt);
    let order = |read: &PromptRead| Order {
        job: job(read.tokens.clone()),
        offset: read.echo.as_ref().map_or(0, Echo::characters),
    };
    let orders = read.iter().map(order).collect();
    let rendering = Rendering::new(&app.served, &common);
    let heading = Heading::new("cmpl-", common.model, &app.served);
    let Origin { ticket, arrival, parts } = origin;
    let report = Report::new(heading.id.clone(), &parts, "completions", arrival);
    let fields = FieldNames { prompt: "prompt", max_tokens: "max_tokens" };
    let setting = Setting { ticket, rendering: rendering.clone(), fields, report, constraint };
    let run = Run::start(&app, orders, setting)?;
    let style = Style {
        rendering,
        echoes: read.into_iter().filter_map(|read| read.echo).collect(),
        n: usize::try_from(common.params.n).unwrap_or(1),
        prompts_only,
    };
    match common.delivery {
        Delivery::Whole => Ok(json(respond::respond(run, &heading, &style).await?)),
        Delivery::Stream(usage) => {
            let stream = CompletionStream::new(run, heading, style, usage);
            Ok(sse::respond(stream, app.served.limits.keep_alive))
        }
    }
}

/// How the prompts of one request become tokens.
#[derive(Clone, Copy, Debug)]
struct Reading {
    vocab: u32,
    add_special_tokens: bool,
    skip_special_tokens: bool,
    truncation: Option<usize>,
    echo: bool,
}

/// One prompt, read.
#[derive(Debug)]
struct PromptRead {
    tokens: Vec<folio_core::ids::Token>,
    echo: Option<Echo>,
}

impl Reading {
    fn all(self, served: &Served, prompts: Vec<Prompt>) -> Result<Vec<PromptRead>, ApiError> {
        let many = prompts.len() > 1;
        let field = |index| if many { format!("prompt[{index}]") } else { "prompt".to_owned() };
        prompts
            .into_iter()
            .enumerate()
            .map(|(index, prompt)| self.one(served, prompt, &field(index)))
            .collect()
    }

    fn one(self, served: &Served, prompt: Prompt, field: &str) -> Result<PromptRead, ApiError> {
        let empty = || ApiError::field(field, "is empty; send at least one token");
        let (mut text, mut tokens) = match prompt {
            Prompt::Text(text) if text.is_empty() => return Err(empty()),
            Prompt::Text(text) => {
                let tokens = encode(served, &text, self.add_special_tokens, field)?;
                (Some(text), tokens)
            }
            Prompt::Tokens(ids) => (None, known_tokens(ids, self.vocab, field)?),
        };
        if tokens.is_empty() {
            return Err(empty());
        }
        if truncate(&mut tokens, self.truncation) {
            text = None;
        }
        let echo = self
            .echo
            .then(|| Echo::new(&served.texts, text, tokens.clone(), self.skip_special_tokens))
            .transpose()?;
        Ok(PromptRead { tokens, echo })
    }
}
