//! HTTP requests as the usual instrumentation of vLLM's front end counts them: by handler, method and kind of status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::http::{Method, StatusCode};

/// (handler, method, kind of status)
type Kind = (String, &'static str, &'static str);

/// Requests by their kind. Handlers are routes, not paths, so there are only so many.
#[derive(Debug, Default)]
pub(super) struct HttpCounts(Mutex<BTreeMap<Kind, u64>>);

impl HttpCounts {
    pub(super) fn count(&self, route: Option<&str>, method: &Method, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::OPTIONS => "OPTIONS",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        let status = match status.as_u16() {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let kind = (route.unwrap_or("none").to_owned(), method, status);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind).or_default() += 1;
    }

    pub(super) fn read(&self) -> BTreeMap<Kind, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
