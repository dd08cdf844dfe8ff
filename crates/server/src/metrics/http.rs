//! HTTP requests as the usual instrumentation of vLLM's front end counts them: by handler, method and kind of status.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::MatchedPath;
use axum::http::{Method, StatusCode};

use super::histogram::Histogram;
use super::text::{Page, float};

/// Of durations of all requests, whatever for.
const MANY: [f64; 21] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];
/// Of durations by handler.
const FEW: [f64; 3] = [0.1, 0.5, 1.0];

/// Those that watch the server, as in vLLM: they would hide those that use it.
const WATCHERS: [&str; 7] =
    ["/health", "/load", "/metrics", "/ping", "/ready", "/server_info", "/version"];

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// The pattern of the path, so that there are only so many; `None` where there is nothing.
    pub(crate) route: Option<MatchedPath>,
    pub(crate) method: Method,
    /// `None` where the client left before there was one.
    pub(crate) status: Option<StatusCode>,
    /// When the head of the request had been read.
    pub(crate) begun: Instant,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

/// What became of the requests.
#[derive(Debug)]
pub(super) struct HttpCounts {
    durations: Histogram,
    handlers: Mutex<BTreeMap<String, Handler>>,
}

/// What became of the requests to one handler, by method where it matters.
#[derive(Debug, Default)]
struct Handler {
    /// Method and kind of status.
    answers: BTreeMap<(&'static str, &'static str), u64>,
    durations: BTreeMap<&'static str, Histogram>,
    request_bytes: u64,
    response_bytes: u64,
}

impl HttpCounts {
    pub(super) fn new() -> Self {
        Self { durations: Histogram::new(&MANY), handlers: Mutex::default() }
    }

    fn handlers(&self) -> MutexGuard<'_, BTreeMap<String, Handler>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, exchange: &Exchange) {
        let route = exchange.route.as_ref().map_or("none", MatchedPath::as_str);
        if WATCHERS.contains(&route) {
            return;
        }
        let (method, seconds) = (method(&exchange.method), exchange.begun.elapsed().as_secs_f64());
        self.durations.record(seconds);
        let mut handlers = self.handlers();
        let handler = handlers.entry(route.to_owned()).or_default();
        *handler.answers.entry((method, kind(exchange.status))).or_default() += 1;
        handler.durations.entry(method).or_insert_with(|| Histogram::new(&FEW)).record(seconds);
        handler.request_bytes += exchange.request_bytes;
        handler.response_bytes += exchange.response_bytes;
    }

    /// A page of its own, since requests are counted before anybody knows for which model they are.
    pub(super) fn page(&self) -> String {
        let mut page = Page::new(&[]);
        let handlers = self.handlers();
        let name = "http_requests_total";
        page.head(name, "counter", "Requests by handler, method and status.");
        for (handler, counts) in handlers.iter() {
            for ((method, status), count) in &counts.answers {
                let labels =
                    [("handler", handler.as_str()), ("method", method), ("status", status)];
                page.sample(name, &labels, float(*count));
            }
        }
        let name = "http_request_duration_seconds";
        page.head(name, "histogram", "From a request's head to the last byte of its answer.");
        for (handler, counts) in handlers.iter() {
            for (method, durations) in &counts.durations {
                let labels = [("handler", handler.as_str()), ("method", method)];
                let (bounds, counts, sum) = durations.read();
                page.buckets(name, &labels, (bounds, &counts, sum));
            }
        }
        let mut sizes = |name: &str, help, bytes: fn(&Handler) -> u64| {
            page.head(name, "summary", help);
            for (handler, counts) in handlers.iter() {
                let labels = [("handler", handler.as_str())];
                let requests = counts.answers.values().sum();
                page.sample(&format!("{name}_count"), &labels, float(requests));
                page.sample(&format!("{name}_sum"), &labels, float(bytes(counts)));
            }
        };
        let help = "Bodies of requests, as announced.";
        sizes("http_request_size_bytes", help, |handler| handler.request_bytes);
        let help = "Bodies of answers, as far as they were sent.";
        sizes("http_response_size_bytes", help, |handler| handler.response_bytes);
        let help = "The same for all handlers, with more buckets.";
        let (bounds, counts, sum) = self.durations.read();
        page.histogram("http_request_duration_highr_seconds", help, bounds, &counts, sum);
        page.finish()
    }
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

fn kind(status: Option<StatusCode>) -> &'static str {
    // As proxies count those who leave.
    const CLIENT_CLOSED_REQUEST: u16 = 499;
    match status.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16()) {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}
