//! What is known of a request when it is over, for those who follow requests through many services.
//!
//! Names of attributes are vLLM's. Handing a span over never waits.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::SystemTime;

use axum::http::request::Parts;

/// The W3C's header that names the caller's span.
const TRACE_PARENT: &str = "traceparent";

/// A request from its first byte to its last token.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpan {
    /// 32 hexadecimal digits.
    pub trace: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The caller's span.
    pub parent: Option<String>,
    /// When the request was read.
    pub start: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// Whether the engine failed.
    pub failed: bool,
    /// What is known.
    pub attributes: Vec<(&'static str, SpanValue)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum SpanValue {
    /// A text.
    Text(String),
    /// A number of things.
    Count(u64),
    /// Any number; times are in seconds.
    Number(f64),
}

/// Takes spans.
#[derive(Clone, Debug)]
pub struct SpanSink(SyncSender<RequestSpan>);

impl SpanSink {
    /// Hands spans to whoever reads the channel; those that find it full are lost.
    #[must_use]
    pub fn new(channel: SyncSender<RequestSpan>) -> Self {
        Self(channel)
    }

    pub(crate) fn take(&self, span: RequestSpan) {
        if let Err(TrySendError::Full(span)) = self.0.try_send(span) {
            tracing::warn!(trace = span.trace, "a span is lost: they are not sent on fast enough");
        }
    }
}

/// Where a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: String,
    pub(crate) span: String,
    /// Whether the caller's own span is kept; if not, nobody would look for ours.
    pub(crate) sampled: bool,
}

impl Parent {
    /// What the caller says, if it is well-formed.
    pub(crate) fn of(parts: &Parts) -> Option<Self> {
        Self::parse(parts.headers.get(TRACE_PARENT)?.to_str().ok()?)
    }

    fn parse(header: &str) -> Option<Self> {
        let mut fields = header.trim().split('-');
        let version = digits(fields.next()?, 2)?;
        let (trace, span) = (digits(fields.next()?, 32)?, digits(fields.next()?, 16)?);
        let flags = u8::from_str_radix(digits(fields.next()?, 2)?, 16).ok()?;
        let more = fields.next().is_some();
        let zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        if version == "ff" || (version == "00" && more) || zero(trace) || zero(span) {
            return None;
        }
        Some(Self { trace: trace.to_owned(), span: span.to_owned(), sampled: flags & 1 == 1 })
    }
}

/// The text, if it is so many lower-case hexadecimal digits.
fn digits(text: &str, count: usize) -> Option<&str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == count && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_parents_are_believed() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = format!("00-{trace}-b7ad6b7169203331-01");
        let parent = Parent::parse(&good).expect("well-formed");
        assert_eq!((parent.trace.as_str(), parent.sampled), (trace, true));
        assert!(!Parent::parse(&format!("00-{trace}-b7ad6b7169203331-00")).expect("it is").sampled);
        for bad in [
            String::new(),
            good.to_uppercase(),
            format!("{good}-more"),
            good.replace("00-", "ff-"),
            good.replace(trace, &"0".repeat(32)),
            good.replace("b7ad6b7169203331", "0000000000000000"),
            good.replace("-01", ""),
            "00-é-b-01".to_owned(),
        ] {
            assert_eq!(Parent::parse(&bad), None, "{bad}");
        }
    }
}
