//! From a conversation to a request inside the engine: the part that every endpoint with messages shares.

use folio_core::schedule::{Job, Reject};

use super::tools::Answering;
use super::{Spoken, tokens_of};
use crate::error::ApiError;
use crate::generate::answer::Heading;
use crate::generate::choice::Rendering;
use crate::generate::constraint::{Follow, Rules};
use crate::generate::encode::on_text_thread;
use crate::generate::origin::Origin;
use crate::generate::report::Report;
use crate::generate::run::{FieldNames, Order, Run, Setting};
use crate::request::common::Common;
use crate::request::output::truncate;
use crate::state::{App, Served};

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
    pub(crate) spoken: Spoken,
    pub(crate) answering: Answering,
    pub(crate) common: Common,
    pub(crate) names: Names,
}

/// A conversation that is being answered.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) run: Run,
    pub(crate) heading: Heading,
    pub(crate) rendering: Rendering,
}

/// What the model's makers recommend, as far as there is room for it behind the prompt; `None` for all the room there is.
fn recommended_length(served: &Served, common: &Common, prompt: usize) -> Option<u32> {
    let recommended = served.texts.defaults.max_new_tokens?.max(common.params.bans.min_tokens);
    let room = served.max_model_len.checked_sub(u32::try_from(prompt).ok()?)?;
    // Where there is none, the prompt is what gets refused.
    (room > 0).then(|| recommended.min(room))
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
    let Conversation { spoken, answering, mut common, names } = conversation;
    let Origin { ticket, arrival, parts } = origin;
    let special = common.add_special_tokens;
    let field = names.fields.prompt;
    let Answering { reading, wanted, thoughts } = answering;
    common.output.skip_special_tokens &= !reading.needs_special_tokens();
    let truncation = common.truncation;
    let (prompt, reading, constraint) = on_text_thread(app, move |served| {
        let mut prompt = tokens_of(served, spoken, special, field)?;
        truncate(&mut prompt, truncation);
        let reading = reading.after(served, &prompt);
        let (wanted, thinking) = (wanted.as_ref(), reading.thinking());
        let constraint = Follow::new(served, Rules { wanted, thinking, thoughts })?;
        Ok((prompt, reading, constraint))
    })
    .await?;
    let mut rendering = Rendering::new(&app.served, &common);
    rendering.reading = reading;
    let recommended = recommended_length(&app.served, &common, prompt.len());
    let heading = Heading::new(names.id, common.model, &app.served);
    let report = Report::new(heading.id.clone(), &parts, names.endpoint, arrival);
    let fields = names.fields;
    let setting = Setting { ticket, rendering: rendering.clone(), fields, report, constraint };
    let mut job = Job::new(prompt, common.params, common.salt);
    if job.params.max_tokens.is_none() {
        job.params.max_tokens = recommended;
        // So many choices of that length may be more than the memory holds; then as much as it holds is what is left to want.
        if let Err(Reject::NeverFits { .. }) = app.engine.admission().check(&job) {
            job.params.max_tokens = None;
        }
    }
    let run = Run::start(app, vec![Order { job, offset: 0 }], setting)?;
    Ok(Begun { run, heading, rendering })
}
