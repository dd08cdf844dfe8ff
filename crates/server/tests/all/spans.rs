//! What is left of a request for those who follow it through many services.

use std::sync::mpsc::{Receiver, sync_channel};

use crate::common::http::request;
use crate::common::{Server, Setup};
use folio_server::{RequestSpan, ServerConfig, SpanSink, SpanValue};
use serde_json::json;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn server() -> (Server, Receiver<RequestSpan>) {
    let (sender, spans) = sync_channel(16);
    let spans_to = Some(SpanSink::new(sender));
    let config = ServerConfig { spans: spans_to, ..Setup::default().config };
    (Server::with(Setup { config, ..Setup::default() }).await, spans)
}

async fn ask(server: &Server, headers: &str) {
    let body = json!({ "prompt": "[yes]>", "max_tokens": 7, "temperature": 0.5 }).to_string();
    let headers = format!("content-type: application/json\r\n{headers}");
    let answer = request(server.address, "POST", "/v1/completions", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn value<'a>(span: &'a RequestSpan, name: &str) -> Option<&'a SpanValue> {
    span.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

#[tokio::test]
async fn a_span_tells_what_vllms_tells_and_belongs_to_its_parent() {
    let (server, spans) = server().await;
    ask(&server, &format!("x-request-id: mine\r\ntraceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"))
        .await;
    // Handed over before the request counts as over.
    server.assert_nothing_leaked().await;
    let span = spans.recv().expect("a span");
    assert_eq!((span.trace.as_str(), span.parent.as_deref()), (TRACE, Some("b7ad6b7169203331")));
    assert!(span.id.len() == 16 && span.id != "b7ad6b7169203331");
    assert!(span.start <= span.end && !span.failed);
    for (name, expected) in [
        ("gen_ai.request.id", SpanValue::Text("mine".to_owned())),
        ("gen_ai.response.model", SpanValue::Text("tiny".to_owned())),
        ("gen_ai.request.n", SpanValue::Count(1)),
        ("gen_ai.request.max_tokens", SpanValue::Count(7)),
        ("gen_ai.request.temperature", SpanValue::Number(0.5)),
        ("gen_ai.request.top_p", SpanValue::Number(1.0)),
        ("gen_ai.usage.prompt_tokens", SpanValue::Count(7)),
        ("gen_ai.usage.completion_tokens", SpanValue::Count(4)),
        ("gen_ai.usage.cached_tokens", SpanValue::Count(0)),
        ("gen_ai.response.finish_reasons", SpanValue::Text("stop".to_owned())),
    ] {
        assert_eq!(value(&span, name), Some(&expected), "{name}");
    }
    for phase in [
        "time_in_queue",
        "time_to_first_token",
        "e2e",
        "time_in_model_prefill",
        "time_in_model_decode",
        "time_in_model_inference",
    ] {
        let time = value(&span, &format!("gen_ai.latency.{phase}"));
        assert!(matches!(time, Some(SpanValue::Number(time)) if *time >= 0.0), "{phase}: {time:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_has_no_parent_starts_a_trace_and_what_is_not_sampled_is_not_told() {
    let (server, spans) = server().await;
    ask(&server, &format!("traceparent: 00-{TRACE}-b7ad6b7169203331-00\r\n")).await;
    ask(&server, "traceparent: nonsense\r\n").await;
    ask(&server, "").await;
    server.stop().await;
    let spans: Vec<RequestSpan> = spans.iter().collect();
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| span.parent.is_none() && span.trace.len() == 32));
    assert_ne!(spans[0].trace, spans[1].trace);
}
