//! From a conversation to a request inside the engine: the part that every endpoint with messages shares.

use std::time::Instant;

use axum::http::request::Parts;
use folio_core::schedule::Job;
use serde_json::Value;

use super::ending::PromptEnd;
use super::tokens_of;
use super::tools::ToolPlan;
use crate::error::ApiError;
use crate::generate::answer::Heading;
use crate::generate::choice::Rendering;
use crate::generate::constraint::Follow;
use crate::generate::encode::on_text_thread;
use crate::generate::report::Report;
use crate::generate::run::{FieldNames, Order, Run, Setting};
use crate::request::common::Common;
use crate::request::output::truncate;
use crate::state::{App, Ticket};

/// What an endpoint calls things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// What the answer's id begins with.
    pub(crate) id: &'static str,
    /// In logs.
    pub(crate) endpoint: &'static str,
    pub(crate) fields: FieldNames,
}

/// A conversation to be answered.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// The messages as the template sees them.
    pub(crate) messages: Value,
    pub(crate) prompt_end: PromptEnd,
    pub(crate) tools: ToolPlan,
    pub(crate) common: Common,
    pub(crate) names: Names,
}

/// When and in which HTTP request a conversation came.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) ticket: Ticket,
    pub(crate) arrival: Instant,
    pub(crate) parts: Parts,
}

/// A conversation that is being answered.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) run: Run,
    pub(crate) heading: Heading,
    pub(crate) rendering: Rendering,
}

/// Renders, tokenises and submits.
///
/// # Errors
/// 400 when the template refuses the messages or they are too long, 429 or 503 when there is no room.
pub(crate) async fn start(
    app: &App,
    conversation: Conversation,
    origin: Origin,
) -> Result<Begun, ApiError> {
    let Conversation { messages, prompt_end, tools, mut common, names } = conversation;
    let Origin { ticket, arrival, parts } = origin;
    let special = common.add_special_tokens;
    let field = names.fields.prompt;
    let ToolPlan { tools, reading, wanted } = tools;
    common.output.skip_special_tokens &= !reading.needs_special_tokens();
    let thinking = reading.thinking_ends(&app.served);
    let (mut prompt, constraint) = on_text_thread(app, move |served| {
        let prompt = tokens_of(served, &messages, tools.as_ref(), prompt_end, special, field)?;
        let constraint = wanted.map(|wanted| Follow::new(served, &wanted, thinking));
        Ok((prompt, constraint.transpose()?))
    })
    .await?;
    truncate(&mut prompt, common.truncation);
    let mut rendering = Rendering::new(&app.served, &common);
    rendering.reading = reading.after(&app.served, &prompt);
    let heading = Heading::new(names.id, common.model, &app.served);
    let report = Report::new(heading.id.clone(), &parts, names.endpoint, arrival);
    let fields = names.fields;
    let setting = Setting { ticket, rendering: rendering.clone(), fields, report, constraint };
    let job = Job::new(prompt, common.params, common.salt);
    let run = Run::start(app, vec![Order { job, offset: 0 }], setting)?;
    Ok(Begun { run, heading, rendering })
}
