//! Spans on their way to a collector: OTLP over HTTP, in its JSON encoding.
//!
//! A thread of its own gathers what requests leave behind and posts it. A collector that is away costs spans, never requests.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use folio_server::{RequestSpan, SpanSink, SpanValue};
use serde_json::{Value, json};
use ureq::Agent;

use crate::proxy::Proxies;
use crate::trust;
use crate::typed::variable;

/// Spans that wait for the thread.
const QUEUE: usize = 4096;

/// Most spans in one message, and the longest wait for more.
const BATCH: usize = 512;
const WAIT: Duration = Duration::from_secs(1);

/// Time for one message; and for the last ones when the server ends.
const POST_TIME: Duration = Duration::from_secs(5);

/// The thread that sends.
pub(crate) struct Exporter(Receiver<()>);

/// Starts the thread.
///
/// # Errors
/// When the endpoint is not an URL, or there is no thread.
pub(crate) fn start(endpoint: &str) -> Result<(SpanSink, Exporter)> {
    ensure!(
        endpoint.starts_with("http://") || endpoint.starts_with("https://"),
        "--otlp-traces-endpoint must be like http://localhost:4318/v1/traces, not {endpoint:?}"
    );
    let address = endpoint.parse().context("--otlp-traces-endpoint")?;
    let config = Agent::config_builder()
        .timeout_global(Some(POST_TIME))
        .tls_config(trust::tls()?)
        .proxy(Proxies::from_env()?.of(&address));
    let agent = config.build().into();
    let (sender, spans) = sync_channel(QUEUE);
    let (done, ended) = channel();
    let endpoint = endpoint.to_owned();
    let service = variable("OTEL_SERVICE_NAME").unwrap_or_else(|| "folio".to_owned());
    let work = move || {
        export(&spans, &agent, &endpoint, &service);
        let _ = done.send(());
    };
    std::thread::Builder::new()
        .name("folio-spans".to_owned())
        .spawn(work)
        .context("cannot start the thread that sends spans")?;
    Ok((SpanSink::new(sender), Exporter(ended)))
}

impl Exporter {
    /// Waits until what is left has been sent. All sinks must be gone.
    pub(crate) fn finish(self) {
        let _ = self.0.recv_timeout(POST_TIME);
    }
}

fn export(spans: &Receiver<RequestSpan>, agent: &Agent, endpoint: &str, service: &str) {
    while let Ok(first) = spans.recv() {
        let mut batch = vec![first];
        let until = Instant::now() + WAIT;
        while batch.len() < BATCH {
            match spans.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(span) => batch.push(span),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let message = message(&batch, service).to_string();
        let sent = agent.post(endpoint).header("content-type", "application/json").send(message);
        if let Err(error) = sent {
            let problem = trust::distrust(&error).unwrap_or_else(|| error.to_string());
            tracing::warn!(
                problem,
                spans = batch.len(),
                "the collector of spans did not take them"
            );
        }
    }
}

/// A batch as the protocol has it; 64-bit numbers are strings there.
fn message(spans: &[RequestSpan], service: &str) -> Value {
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [attribute("service.name", &SpanValue::Text(service.to_owned()))] },
        "scopeSpans": [{
            "scope": { "name": "folio", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans,
        }],
    }] })
}

fn span(span: &RequestSpan) -> Value {
    /// Of `kind`: a request that was served.
    const SERVER: u8 = 2;
    /// Of `status.code`.
    const ERROR: u8 = 2;
    let RequestSpan { trace, id, parent, start, end, failed, attributes } = span;
    let attributes: Vec<Value> =
        attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    json!({
        "traceId": trace,
        "spanId": id,
        "parentSpanId": parent.as_deref().unwrap_or_default(),
        "name": "llm_request",
        "kind": SERVER,
        "startTimeUnixNano": nanoseconds(*start),
        "endTimeUnixNano": nanoseconds(*end),
        "attributes": attributes,
        "status": { "code": if *failed { ERROR } else { 0 } },
    })
}

fn attribute(name: &str, value: &SpanValue) -> Value {
    let value = match value {
        SpanValue::Text(text) => json!({ "stringValue": text }),
        SpanValue::Count(count) => json!({ "intValue": count.to_string() }),
        SpanValue::Number(number) => json!({ "doubleValue": number }),
    };
    json!({ "key": name, "value": value })
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string()
}
