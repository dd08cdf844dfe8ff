//! How a request for an answer comes in: its time runs and its place is taken before anything of it is read.

use std::time::Instant;

use axum::extract::Request;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::auth::{Caller, caller};
use crate::error::ApiError;
use crate::request::body::read_json;
use crate::state::{App, Ticket};

/// When and in which HTTP request an answer is asked for.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) ticket: Ticket,
    pub(crate) arrival: Instant,
    pub(crate) parts: Parts,
}

impl Origin {
    /// Lets a request in and reads its body.
    ///
    /// # Errors
    /// 429 or 503 when nobody may come in, and those of [`read_json`].
    pub(crate) async fn of<B: DeserializeOwned + Send + 'static>(
        request: Request,
        app: &App,
    ) -> Result<(Self, B), ApiError> {
        let arrival = Instant::now();
        let (parts, body) = request.into_parts();
        let ticket = app.enter(caller(&parts))?;
        let body = read_json(&parts.headers, body, &app.served.limits, &app.bodies).await?;
        Ok((Self { ticket, arrival, parts }, body))
    }

    pub(crate) fn caller(&self) -> Caller {
        caller(&self.parts)
    }
}
