//! From bytes on the wire to a typed body: the size, the time and the shape of what comes in are bounded here.
//!
//! **Invariant:** at no time do the bodies that are being read or parsed hold more than
//! [`Limits::body_bytes_together`](crate::Limits::body_bytes_together).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;
use crate::error::{ApiError, quote};

/// The unit in which the budget for bodies is counted, so that it fits a semaphore.
const UNIT: usize = 1024;

/// Bodies up to this length are parsed where they are read; longer ones would keep other connections waiting.
const QUICK: usize = 256 << 10;

/// Hands out the right to keep bodies in memory. Clones are the same budget.
#[derive(Clone, Debug)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    pub(crate) fn new(limits: &Limits) -> Self {
        let together = limits.body_bytes_together.max(limits.body_bytes);
        Self(Arc::new(Semaphore::new((together / UNIT + 1).min(Semaphore::MAX_PERMITS))))
    }

    /// Room for `bytes` more on top of what `held` already covers.
    fn extend(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        bytes: usize,
    ) -> Result<(), ApiError> {
        let covered = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = (bytes.div_ceil(UNIT)).saturating_sub(covered);
        let Ok(count) = u32::try_from(missing) else { return Err(crowded()) };
        if count == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.0).try_acquire_many_owned(count).map_err(|_| crowded())?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

fn crowded() -> ApiError {
    ApiError::unavailable("too many large requests are being read at once; try again in a moment")
}

/// Reads a JSON body into `T`.
///
/// # Errors
/// 415 without a JSON content type, 413, 408 or 503 when a limit is crossed, 400 with the path of whatever is wrong.
pub(crate) async fn read_json<T: DeserializeOwned + Send + 'static>(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    budget: &BodyBudget,
) -> Result<T, ApiError> {
    require_json(headers)?;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let most = limits.body_bytes;
    // Who asks before sending is told before sending.
    if announced > most && headers.contains_key(header::EXPECT) {
        return Err(too_large(most));
    }
    let mut held = None;
    let reading = read(body, announced, most, budget, &mut held);
    let bytes = tokio::time::timeout(limits.body_time, reading).await.unwrap_or_else(|_| {
        let seconds = limits.body_time.as_secs();
        let message = format!("the body did not arrive within {seconds} seconds");
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
    })?;
    if bytes.len() <= QUICK {
        return parse(&bytes);
    }
    // The budget is held until the bytes are gone, also when nobody waits for the result any more.
    let parsing = tokio::task::spawn_blocking(move || {
        let parsed = parse(&bytes);
        drop((bytes, held));
        parsed
    });
    parsing.await.unwrap_or_else(|_| Err(ApiError::internal("the body could not be parsed")))
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body must be JSON and say so: send the header `Content-Type: application/json`",
    ))
}

async fn read(
    mut body: Body,
    announced: usize,
    most: usize,
    budget: &BodyBudget,
    held: &mut Option<OwnedSemaphorePermit>,
) -> Result<Vec<u8>, ApiError> {
    if announced > most {
        discard(body, most).await;
        return Err(too_large(most));
    }
    budget.extend(held, announced)?;
    let mut bytes = Vec::with_capacity(announced);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body ended before its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        let total = bytes.len().saturating_add(data.len());
        if total > most {
            discard(body, most).await;
            return Err(too_large(most));
        }
        budget.extend(held, total)?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Throws away what comes, up to `most` bytes, so that a client which writes before it reads gets to see the answer.
async fn discard(mut body: Body, most: usize) {
    let mut left = most;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        if size > left {
            break;
        }
        left -= size;
    }
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {most} bytes; send less in one request"),
    )
}

/// Parses a body that has arrived.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = field_name(error.path());
        explain(&error.into_inner(), &at)
    })?;
    json.end().map_err(|error| explain(&error, ""))?;
    Ok(value)
}

fn explain(error: &serde_json::Error, at: &str) -> ApiError {
    if !error.is_data() {
        return ApiError::bad_request(format!("the body is not valid JSON: {error}"));
    }
    // serde_json appends the place in the file to a sentence of ours or of serde's.
    let text = error.to_string();
    let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    let problem = in_words(problem);
    if at.is_empty() {
        return ApiError::bad_request(format!("the JSON body {problem}"));
    }
    ApiError::field(at, problem)
}

/// serde's "invalid type: string "x", expected an integer" as "must be an integer, not string "x"". Sentences of ours
/// stay as they are. What was found may be long and is cut; what was expected must survive that.
fn in_words(problem: &str) -> String {
    /// Longer descriptions of a value are cut.
    const LONGEST: usize = 100;
    let found =
        problem.strip_prefix("invalid type: ").or_else(|| problem.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|found| found.rsplit_once(", expected ")) else {
        return problem.to_owned();
    };
    // serde calls things by Rust's names.
    let expected = match expected {
        "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        "u32" => "a token id from 0 to 4294967295",
        other => other,
    };
    let found = match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" => "null".to_owned(),
        short if short.chars().count() <= LONGEST => short.to_owned(),
        long => quote(long),
    };
    format!("must be {expected}, not {found}")
}

/// A path the way people write it: `messages[0].content`.
fn field_name(path: &Path) -> String {
    let mut name = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => name.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(key);
            }
            Segment::Unknown => {}
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_a_budget_and_give_it_back() {
        let limits =
            Limits { body_bytes: 4 * UNIT, body_bytes_together: 8 * UNIT, ..Limits::default() };
        let budget = BodyBudget::new(&limits);
        let (mut one, mut two, mut three) = (None, None, None);
        budget.extend(&mut one, UNIT).unwrap();
        budget.extend(&mut one, 4 * UNIT).unwrap();
        budget.extend(&mut two, 4 * UNIT).unwrap();
        let crowded = budget.extend(&mut three, 2 * UNIT).unwrap_err();
        assert_eq!(crowded.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(one);
        budget.extend(&mut three, 4 * UNIT).unwrap();
        assert!(budget.extend(&mut two, usize::MAX).is_err());
    }

    #[test]
    fn what_was_found_is_cut_and_what_was_expected_is_not() {
        let long = format!("invalid type: string \"{}\", expected a list", "x".repeat(1 << 20));
        let said = in_words(&long);
        assert!(said.starts_with("must be a list, not `string") && said.len() < 200, "{said}");
        assert_eq!(in_words("is given twice"), "is given twice");
        assert_eq!(in_words("invalid type: map, expected f64"), "must be a number, not an object");
    }
}
