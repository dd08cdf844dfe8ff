//! What a client is told when a request cannot be served.
//!
//! One shape for every error, that of OpenAI: `{"error": {"message", "type", "param", "code"}}`, where `code` is the HTTP
//! status as a number, as vLLM sends it. **Invariant:** a message holds no path or address of this machine and no text
//! of another request; what the caller wrote is quoted only through [`quote`], which bounds it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The longest piece of a caller's own text that an error repeats, in characters.
const LONGEST_QUOTE: usize = 80;

/// The longest message, in characters. Longer ones come from libraries that repeat the input.
const LONGEST_MESSAGE: usize = 600;

/// A refusal or failure on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    retry_after_seconds: Option<u32>,
    queue: Option<QueuePlace>,
}

/// Where a request would stand, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct QueuePlace {
    queue_position: u32,
    estimated_wait_seconds: f64,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: u16,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    queue: Option<QueuePlace>,
}

impl ApiError {
    /// An error with any status.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
            message.truncate(cut);
            message.push('…');
        }
        Self { status, message, param: None, retry_after_seconds: None, queue: None }
    }

    /// 400 that names the field at fault.
    #[must_use]
    pub fn field(name: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let name = clip(&name.into());
        let message = format!("{name} {}", problem.as_ref());
        Self { param: Some(name), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// 400 that concerns the request as a whole.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 429 with the number of seconds after which to come back.
    #[must_use]
    pub fn busy(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// Tells where the request would stand and how long it would wait there.
    #[must_use]
    pub(crate) fn with_queue(mut self, position: u32, wait_seconds: f64) -> Self {
        self.queue =
            Some(QueuePlace { queue_position: position, estimated_wait_seconds: wait_seconds });
        self
    }

    /// 503: this server is going away or cannot serve now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 500. The cause belongs in the log, not in the message.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Names the field at fault without changing the message.
    #[must_use]
    pub fn with_param(mut self, name: impl Into<String>) -> Self {
        self.param = Some(clip(&name.into()));
        self
    }

    /// Says within which field the one at fault is.
    #[must_use]
    pub(crate) fn within(mut self, outer: &str) -> Self {
        if let Some(param) = &mut self.param {
            *param = format!("{outer}.{param}");
            self.message = format!("{outer}.{}", self.message);
        }
        self
    }

    /// Calls a field at fault what this endpoint calls it.
    #[must_use]
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Self {
        if self.param.as_deref() == Some(from)
            && let Some(rest) = self.message.strip_prefix(from)
        {
            self.message = format!("{to}{rest}");
            self.param = Some(to.to_owned());
        }
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong and what to do, in words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error as a JSON object, for bodies and for the middle of a stream.
    #[must_use]
    pub fn to_json(&self) -> String {
        let envelope = Envelope {
            error: Detail {
                message: &self.message,
                kind: kind(self.status),
                param: self.param.as_deref(),
                code: self.status.as_u16(),
                queue: self.queue,
            },
        };
        serde_json::to_string(&envelope).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::GATEWAY_TIMEOUT {
            // What took too long once would again. The clients of OpenAI and Anthropic would ask twice more by themselves,
            // just when there is too much to do.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The `type` that goes with a status: the names of OpenAI's client exceptions, as vLLM uses them.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "AuthenticationError",
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowedError",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "RequestTimeoutError",
        StatusCode::PAYLOAD_TOO_LARGE => "PayloadTooLargeError",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaTypeError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequestError",
    }
}

/// A caller's own text inside an error message: bounded, on one line, in backquotes.
#[must_use]
pub(crate) fn quote(text: &str) -> String {
    format!("`{}`", clip(text))
}

fn clip(text: &str) -> String {
    let mut out = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == LONGEST_QUOTE {
            out.push('…');
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_never_repeats_more_than_a_line_of_the_input() {
        let hostile = "\u{0}\n".repeat(1 << 20);
        let error = ApiError::field(hostile.clone(), format!("is not {}", quote(&hostile)));
        assert!(error.to_json().len() < 4 * LONGEST_MESSAGE, "{}", error.to_json().len());
        let parsed: serde_json::Value = serde_json::from_str(&error.to_json()).unwrap();
        let message = parsed["error"]["message"].as_str().unwrap();
        assert!(!message.contains('\n') && !message.contains('\u{0}'));
    }

    #[test]
    fn the_shape_is_openais_with_a_numeric_code() {
        let error = ApiError::field("top_p", "must be above 0");
        assert_eq!(
            error.to_json(),
            r#"{"error":{"message":"top_p must be above 0","type":"BadRequestError","param":"top_p","code":400}}"#
        );
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let response = ApiError::busy("full", 3).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
