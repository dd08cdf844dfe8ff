//! One HTTP request inside the engine: a generation per prompt, a [`Choice`] per sample, and what is known of both.
//!
//! Both endpoints, streamed or not, pull [`Piece`]s out of a [`Run`]. **Invariant:** dropping a run aborts whatever of it
//! still runs, and every prompt is counted in the metrics exactly once, however it ends.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use axum::http::StatusCode;
use folio_core::exec::Score;
use folio_core::params::Decoding;
use folio_core::schedule::Job;
use folio_engine::{Generation, Refused, Timing, Update};
use serde::Serialize;

use super::choice::{Choice, Finish, Piece, Rendering};
use super::constraint::Follow;
use super::report::{Outcome, Report};
use super::stop_rule::stop_rule;
use crate::config::Limits;
use crate::error::ApiError;
use crate::state::{App, Ticket};

/// What the caller calls the fields that the scheduler may refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldNames {
    pub(crate) prompt: &'static str,
    pub(crate) max_tokens: &'static str,
}

/// One prompt on its way into the engine.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) job: Job,
    /// Characters that the answer shows before the first generated one.
    pub(crate) offset: u64,
}

/// What a run needs besides its prompts.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) ticket: Ticket,
    pub(crate) rendering: Rendering,
    pub(crate) fields: FieldNames,
    pub(crate) report: Report,
    /// What every answer follows.
    pub(crate) constraint: Option<Follow>,
}

/// The token counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) total_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) prompt_tokens_details: PromptTokensDetails,
    /// Only of models that think.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens_details: Option<CompletionTokensDetails>,
}

/// What completion tokens were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CompletionTokensDetails {
    pub(crate) reasoning_tokens: u64,
}

/// Where prompt tokens came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PromptTokensDetails {
    pub(crate) cached_tokens: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Run {
    app: App,
    lanes: Vec<Lane>,
    report: Report,
    clock: Clock,
    /// The field that restricts what may be drawn.
    restricted_by: Option<&'static str>,
    _ticket: Ticket,
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// The last moment of all.
    ends: Instant,
    /// When something was last heard.
    heard: Instant,
    limits: Limits,
}

impl Clock {
    fn new(limits: Limits, arrival: Instant) -> Self {
        Self { ends: arrival + limits.request_time, heard: Instant::now(), limits }
    }

    /// When to stop waiting.
    fn until(&self) -> Instant {
        self.ends.min(self.heard + self.limits.idle_time)
    }

    /// What is said then.
    fn overdue(&self) -> ApiError {
        let Limits { request_time, idle_time, .. } = self.limits;
        let message = if self.until() == self.ends {
            let seconds = request_time.as_secs_f64();
            format!(
                "the request was not finished after {seconds} seconds; ask for less, or raise --request-timeout"
            )
        } else {
            let seconds = idle_time.as_secs_f64();
            format!(
                "nothing was generated for {seconds} seconds; try again later, or raise --idle-timeout"
            )
        };
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, message)
    }
}

type NextUpdates = Pin<Box<dyn Future<Output = (Generation, Option<Vec<Update>>)> + Send>>;

/// One prompt and its choices.
pub(crate) struct Lane {
    /// Owns the generation; `None` once nothing more is wanted of it.
    source: Option<NextUpdates>,
    pub(crate) choices: Vec<Choice>,
    /// Scores of all prompt tokens but the first, when they were asked for.
    pub(crate) scores: Vec<Score>,
    /// The prompt's tokens.
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) cached_tokens: u32,
    pub(crate) preemptions: u32,
    pub(crate) swaps: u32,
    pub(crate) decoding: Decoding,
    /// Whether the choices are told all at once, best first.
    pub(crate) is_ranked: bool,
    pub(crate) timing: Timing,
    counted: bool,
}

impl Lane {
    pub(crate) fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).unwrap_or(u32::MAX)
    }

    /// What there is to say. Ranked choices were complete before the first of their tokens came, so each is said at once.
    fn take(&mut self) -> impl Iterator<Item = Piece> {
        let whole = self.is_ranked;
        let ready = self.choices.iter_mut().filter(move |c| !whole || c.is_finished());
        ready.filter_map(Choice::take)
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("running", &self.source.is_some())
            .field("choices", &self.choices.len())
            .finish_non_exhaustive()
    }
}

impl Run {
    /// Sends every prompt to the engine, or none.
    ///
    /// # Errors
    /// The engine's refusal of any of them.
    pub(crate) fn start(app: &App, orders: Vec<Order>, setting: Setting) -> Result<Self, ApiError> {
        let Setting { ticket, rendering, fields, mut report, constraint } = setting;
        let clock = Clock::new(app.served.limits, report.arrival);
        let owner = ticket.owner();
        let restricted_by = constraint.as_ref().and_then(Follow::field);
        room_for(orders.len(), app.engine.limits().max_queued, fields)?;
        let mut lanes = Vec::with_capacity(orders.len());
        let mut index = 0;
        for Order { mut job, offset } in orders {
            let prompt: Vec<u32> = job.prompt.iter().map(|token| token.0).collect();
            job.stop_rule = stop_rule(&rendering, &job.params, &prompt);
            let max_tokens = job.params.max_tokens;
            report.asked(&job.params);
            let (decoding, is_ranked) = (job.params.decoding, job.params.is_ranked());
            let choices = (0..job.params.n)
                .map(|_| {
                    let choice = Choice::new(&rendering, index, &prompt, offset);
                    index += 1;
                    choice
                })
                .collect();
            let generation = match &constraint {
                None => app.engine.generate_for(owner, job),
                Some(follow) => {
                    app.engine.generate_constrained(owner, job, Box::new(follow.again()))
                }
            };
            let generation = generation.map_err(|why| refused(app, why, fields))?;
            lanes.push(Lane {
                timing: *generation.timing(),
                source: Some(next_updates(generation)),
                choices,
                scores: Vec::new(),
                prompt,
                max_tokens,
                cached_tokens: 0,
                preemptions: 0,
                swaps: 0,
                decoding,
                is_ranked,
                counted: false,
            });
        }
        Ok(Self { app: app.clone(), lanes, report, clock, restricted_by, _ticket: ticket })
    }

    /// Waits until there is something to tell and returns all of it. `None` when every choice has ended. Cancel-safe.
    ///
    /// # Errors
    /// When any prompt failed; the run is over then.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Piece>, ApiError>> {
        while self.lanes.iter().any(|lane| lane.source.is_some()) {
            // Everything after this await happens at once, so nothing is lost when the caller stops waiting.
            let until = self.clock.until().into();
            let Ok(ready) = tokio::time::timeout_at(until, self.ready()).await else {
                let error = self.clock.overdue();
                self.close_all(Outcome::Aborted);
                return Some(Err(error));
            };
            self.clock.heard = Instant::now();
            for (index, updates) in ready {
                if let Err(error) = self.apply(index, updates) {
                    self.close_all(Outcome::Error);
                    return Some(Err(error));
                }
            }
            let pieces: Vec<Piece> = self.lanes.iter_mut().flat_map(Lane::take).collect();
            if !pieces.is_empty() {
                return Some(Ok(pieces));
            }
        }
        None
    }

    /// The updates of every prompt that has some, at least one.
    async fn ready(&mut self) -> Vec<(usize, Vec<Update>)> {
        poll_fn(|cx| {
            let mut ready = Vec::new();
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                let Some(source) = &mut lane.source else { continue };
                if let Poll::Ready((generation, updates)) = source.as_mut().poll(cx) {
                    lane.timing = *generation.timing();
                    lane.source = updates.is_some().then(|| next_updates(generation));
                    ready.push((index, updates.unwrap_or_default()));
                }
            }
            if ready.is_empty() { Poll::Pending } else { Poll::Ready(ready) }
        })
        .await
    }

    fn apply(&mut self, index: usize, updates: Vec<Update>) -> Result<(), ApiError> {
        let Some(lane) = self.lanes.get_mut(index) else { return Ok(()) };
        for update in updates {
            match update {
                Update::Admitted { cached_tokens } => lane.cached_tokens = cached_tokens,
                Update::PromptScored(scores) => lane.scores.extend(scores),
                Update::Sampled { choice, drawn, finish, at } => {
                    let choice = usize::try_from(choice).ok().and_then(|c| lane.choices.get_mut(c));
                    let Some(choice) = choice else { continue };
                    if let Some(last) = choice.last_token
                        && !choice.is_finished()
                        && !lane.is_ranked
                    {
                        self.app.metrics.inter_token(at.saturating_duration_since(last));
                    }
                    choice.push(drawn, finish, at).map_err(|error| {
                        tracing::error!(%error, "a generated token has no text");
                        ApiError::internal(
                            "the model produced a token that its tokenizer does not know",
                        )
                    })?;
                }
                Update::Ranked { scores } => {
                    for (choice, score) in lane.choices.iter_mut().zip(scores) {
                        choice.score = Some(score);
                    }
                }
                Update::Ended { preemptions, swaps } => {
                    (lane.preemptions, lane.swaps) = (preemptions, swaps);
                }
                Update::Failed(cause) => {
                    return Err(failed(&self.app, &cause, self.restricted_by));
                }
            }
        }
        // A stop string ends a choice only here; when all choices have ended, dropping the generation tells the engine.
        // Without one, and where choices are ranked, the engine knows, and has a last word with the number of preemptions.
        let ended_here = |choice: &Choice| matches!(choice.finish(), Some(Finish::StopString(_)));
        if !lane.is_ranked
            && lane.choices.iter().all(Choice::is_finished)
            && lane.choices.iter().any(ended_here)
        {
            lane.source = None;
        }
        if lane.source.is_none() {
            self.count(index, Outcome::Finished);
        }
        Ok(())
    }

    /// Counts a prompt that is over in the metrics, once.
    fn count(&mut self, index: usize, outcome: Outcome) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        if !std::mem::replace(&mut lane.counted, true) {
            self.app.metrics.request(lane, outcome, self.report.arrival);
            self.report.add(lane, outcome);
            self.app.pace.ended(Instant::now());
        }
    }

    fn close_all(&mut self, outcome: Outcome) {
        for index in 0..self.lanes.len() {
            self.count(index, outcome);
            if let Some(lane) = self.lanes.get_mut(index) {
                lane.source = None;
            }
        }
    }

    /// The prompt that choice number `index` of the answer belongs to.
    pub(crate) fn lane_of(&self, index: usize) -> Option<&Lane> {
        self.lanes.get(index / self.choices_per_prompt())
    }

    fn choices_per_prompt(&self) -> usize {
        self.lanes.first().map_or(1, |lane| lane.choices.len()).max(1)
    }

    /// How many choices the answer has.
    pub(crate) fn choices(&self) -> usize {
        self.lanes.iter().map(|lane| lane.choices.len()).sum()
    }

    /// When the engine took up the answer, and when it made its first and its last token so far.
    pub(crate) fn span(&self) -> Option<(Instant, Instant, Instant)> {
        let timings = || self.lanes.iter().map(|lane| &lane.timing);
        let admitted = timings().filter_map(|timing| timing.admitted).min()?;
        let first = timings().filter_map(|timing| timing.first_token).min()?;
        let last = timings().filter_map(|timing| timing.last_token).max()?;
        Some((admitted, first, last))
    }

    /// What has been read and written so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(&self.lanes, self.lanes.iter().flat_map(|lane| &lane.choices))
    }

    /// The same of choice number `index` alone, with its prompt.
    pub(crate) fn usage_of(&self, index: usize) -> Usage {
        let lane = self.lane_of(index).map(std::slice::from_ref).unwrap_or_default();
        let choices = lane.iter().flat_map(|lane| &lane.choices);
        Usage::of(lane, choices.skip(index % self.choices_per_prompt()).take(1))
    }
}

impl Usage {
    fn of<'a>(lanes: &[Lane], choices: impl Iterator<Item = &'a Choice> + Clone) -> Self {
        let prompt_tokens = lanes.iter().map(|lane| u64::from(lane.prompt_tokens())).sum();
        let cached_tokens = lanes.iter().map(|lane| u64::from(lane.cached_tokens)).sum();
        let completion_tokens = choices.clone().map(|choice| u64::from(choice.generated)).sum();
        let thoughts = choices.filter_map(|choice| choice.thoughts.as_ref());
        let reasoning = thoughts.map(|thoughts| u64::from(thoughts.tokens)).reduce(|a, b| a + b);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            completion_tokens_details: reasoning
                .map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens }),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.close_all(Outcome::Aborted);
        self.report.log();
        self.report.trace(&self.app.served);
    }
}

fn next_updates(mut generation: Generation) -> NextUpdates {
    Box::pin(async move {
        let updates = generation.next().await;
        (generation, updates)
    })
}

/// Refuses what will never find room, before any of it takes room from others.
fn room_for(prompts: usize, limit: u32, fields: FieldNames) -> Result<(), ApiError> {
    if u32::try_from(prompts).is_ok_and(|prompts| prompts <= limit) {
        return Ok(());
    }
    let problem = format!(
        "has {prompts} entries, but at most {limit} requests may be in the server at one time"
    );
    Err(ApiError::field(fields.prompt, problem))
}

/// The engine's refusal as an answer.
fn refused(app: &App, why: Refused, fields: FieldNames) -> ApiError {
    match why {
        Refused::Busy { .. } => {
            app.metrics.rejected();
            app.crowded(why.to_string())
        }
        Refused::Rejected(reject) => match reject.field() {
            None => app.crowded(reject.to_string()),
            Some(field) => {
                let name = match field {
                    "prompt" => fields.prompt,
                    "max_tokens" => fields.max_tokens,
                    other => other,
                };
                ApiError::bad_request(reject.to_string()).with_param(name)
            }
        },
        Refused::ConstrainedBeams => {
            ApiError::field("use_beam_search", "cannot be kept to a grammar")
        }
        Refused::ShuttingDown | Refused::Dead => ApiError::unavailable(why.to_string()),
    }
}

/// The engine's failure as an answer.
fn failed(app: &App, cause: &folio_engine::Cause, restricted_by: Option<&'static str>) -> ApiError {
    use folio_engine::Cause;
    match cause {
        Cause::Shutdown => ApiError::unavailable(cause.to_string()),
        Cause::Rejected(reject) => match reject.field() {
            None => app.crowded(reject.to_string()),
            Some(field) => ApiError::bad_request(reject.to_string()).with_param(field),
        },
        Cause::Constraint(why) => ApiError::field(restricted_by.unwrap_or("the grammar"), why),
        Cause::NothingAllowed => match restricted_by {
            Some(field) => ApiError::bad_request(cause.to_string()).with_param(field),
            None => ApiError::bad_request(cause.to_string()),
        },
        Cause::NotFinite | Cause::Step | Cause::Died => ApiError::internal(cause.to_string()),
    }
}
