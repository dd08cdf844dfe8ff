//! Counts a request when it is over: when the last byte of its answer is sent, or nobody wants it any more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use crate::metrics::{Exchange, Metrics};

/// A request that is being answered; counted when dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    exchange: Exchange,
    metrics: Arc<Metrics>,
}

impl Counted {
    pub(crate) fn new(request: &Request, metrics: &Arc<Metrics>) -> Self {
        let exchange = Exchange {
            route: request.extensions().get::<MatchedPath>().cloned(),
            method: request.method().clone(),
            status: None,
            begun: Instant::now(),
            request_bytes: request.body().size_hint().exact().unwrap_or(0),
            response_bytes: 0,
        };
        Self { exchange, metrics: Arc::clone(metrics) }
    }

    /// The answer, which takes the count along to its end.
    pub(crate) fn follow(mut self, response: Response) -> Response {
        self.exchange.status = Some(response.status());
        response.map(|body| Body::new(CountedBody { body, counted: Some(self) }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.exchanged(&self.exchange);
    }
}

struct CountedBody {
    body: Body,
    /// Until the end.
    counted: Option<Counted>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let bytes = data.map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let Some(counted) = &mut self.counted {
            counted.exchange.response_bytes += bytes;
        }
        // Before the client can have the last byte, so that whoever has read an answer finds it counted.
        if frame.is_none() || self.body.is_end_stream() {
            self.counted = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
