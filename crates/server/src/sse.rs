//! Server-sent events: a response whose body is made while it is sent.
//!
//! The body owns the request it reports on. When the connection goes away, the body is dropped, the request with it,
//! and the engine aborts it: there is no task in between that could outlive the client. A client that does not read
//! is not written for either, so what accumulates meanwhile is merged into its next event.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;

/// What is sent when there has been nothing to send for a while. Clients ignore comments; proxies do not time out.
const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// The event that ends every stream that succeeded.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// Makes the events of one stream.
pub(crate) trait Events: Send + 'static {
    /// The next events as bytes on the wire, or `None` at the end. Must be cancel-safe: it is dropped and called again
    /// whenever a keep-alive is due.
    fn next(&mut self) -> impl Future<Output = Option<String>> + Send;
}

/// Appends one event.
pub(crate) fn event(out: &mut String, data: &str) {
    out.push_str("data: ");
    out.push_str(data);
    out.push_str("\n\n");
}

/// Appends one event that has a name.
pub(crate) fn named_event(out: &mut String, name: &str, data: &str) {
    out.push_str("event: ");
    out.push_str(name);
    out.push('\n');
    event(out, data);
}

/// The response that sends `events`.
pub(crate) fn respond<E: Events>(events: E, keep_alive: Duration) -> Response {
    let body = Body::new(EventBody { state: State::Ready(events), keep_alive });
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx, which collects answers by default, to pass events on at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

type Step<E> = Pin<Box<dyn Future<Output = (E, Option<String>)> + Send>>;

enum State<E> {
    Ready(E),
    Waiting(Step<E>),
    Ended,
}

struct EventBody<E> {
    state: State<E>,
    keep_alive: Duration,
}

// Nothing in here is pinned in place: the one future is boxed.
impl<E> Unpin for EventBody<E> {}

impl<E: Events> HttpBody for EventBody<E> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut step = match std::mem::replace(&mut this.state, State::Ended) {
            State::Ended => return Poll::Ready(None),
            State::Waiting(step) => step,
            State::Ready(events) => next_step(events, this.keep_alive),
        };
        match step.as_mut().poll(cx) {
            Poll::Pending => {
                this.state = State::Waiting(step);
                Poll::Pending
            }
            Poll::Ready((events, Some(text))) => {
                this.state = State::Ready(events);
                Poll::Ready(Some(Ok(Frame::data(text.into()))))
            }
            Poll::Ready((_, None)) => Poll::Ready(None),
        }
    }
}

fn next_step<E: Events>(mut events: E, keep_alive: Duration) -> Step<E> {
    Box::pin(async move {
        let item = match tokio::time::timeout(keep_alive, events.next()).await {
            Ok(item) => item,
            Err(_) => Some(KEEP_ALIVE.to_owned()),
        };
        (events, item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted(Vec<Option<&'static str>>);

    impl Events for Scripted {
        async fn next(&mut self) -> Option<String> {
            match self.0.pop() {
                Some(Some(text)) => Some(text.to_owned()),
                Some(None) => std::future::pending().await,
                None => None,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_comments_and_the_end_is_the_end() {
        let script = vec![Some("data: 2\n\n"), None, None, Some("data: 1\n\n")];
        let response = respond(Scripted(script), Duration::from_secs(15));
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        assert_eq!(bytes, format!("data: 1\n\n{KEEP_ALIVE}{KEEP_ALIVE}data: 2\n\n"));
    }
}
