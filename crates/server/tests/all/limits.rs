//! What a request, a caller and a web page may not do, at limits so small that nothing has to wait for them.

use std::time::Duration;

use crate::common::http::{Answer, Listening, get, idle, post, request};
use crate::common::{Server, Setup};
use folio_server::{Ending, Limits};
use folio_sim::Gate;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const COMPLETE: &str = "/v1/completions";
const SHORT: Duration = Duration::from_millis(20);

fn long(stream: bool) -> Value {
    json!({"prompt": "no script", "max_tokens": 200, "stream": stream})
}

fn limited(gate: &Gate, limits: Limits) -> Setup {
    let mut setup = Setup { gate: Some(gate.clone()), ..Setup::default() };
    setup.config.limits = limits;
    setup
}

/// A request that takes too long, or hears nothing for too long, is ended and told so; the engine forgets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_when_its_time_is_over() {
    let cases = [
        (Limits { request_time: SHORT, ..Limits::default() }, "--request-timeout"),
        (Limits { idle_time: SHORT, ..Limits::default() }, "--idle-timeout"),
    ];
    for (limits, flag) in cases {
        let gate = Gate::closed();
        let server = Server::with(limited(&gate, limits)).await;
        gate.allow(2);
        let answer = post(server.address, COMPLETE, &long(false)).await;
        assert_eq!(answer.status, 504, "{}", answer.body);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "RequestTimeoutError");
        assert!(error["message"].as_str().expect("words").contains(flag), "{error}");
        let streamed = Listening::open(server.address, COMPLETE, &long(true)).await.finish().await;
        assert_eq!(streamed.status, 200);
        let events = streamed.events(false);
        assert_eq!(events.last().expect("a last event")["error"]["code"], 504);
        gate.open();
        server.stop().await;
    }
}

/// Streams that do not finish in the time they have after the first signal are cut off.
#[tokio::test(flavor = "multi_thread")]
async fn patience_after_the_first_signal_ends() {
    let gate = Gate::closed();
    let limits = Limits { shutdown_time: SHORT, ..Limits::default() };
    let server = Server::with(limited(&gate, limits)).await;
    let mut running = Listening::open(server.address, COMPLETE, &long(true)).await;
    gate.allow(2);
    running.events(1).await;
    let mut idle = idle(server.address).await;
    server.signal().await;
    // The engine stands in the middle of a step until the server has told it; idle connections are closed after that.
    assert_eq!(idle.read(&mut [0]).await.expect("a clean end"), 0);
    let reading = tokio::spawn(running.finish());
    gate.open();
    assert_eq!(server.ended().await, Ending::Aborted);
    let events = reading.await.expect("it reads").events(false);
    let last = events.last().expect("a reason");
    assert!(last["error"]["message"].as_str().is_some_and(|m| m.contains("shutting down")));
}

async fn with_key(server: &Server, key: &str) -> Answer {
    let headers = format!("content-type: application/json\r\nauthorization: Bearer {key}\r\n");
    request(server.address, "POST", COMPLETE, &headers, &long(false).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_have_so_many_requests_at_one_time() {
    let gate = Gate::closed();
    let mut setup = limited(&gate, Limits { requests_per_key: 1, ..Limits::default() });
    setup.config.api_keys = vec!["alpha".to_owned(), "beta".to_owned()];
    let server = Server::with(setup).await;
    let refused = async {
        while server.engine.snapshot().requests < 1 {
            tokio::task::yield_now().await;
        }
        let refused = with_key(&server, "alpha").await;
        // Another key is not concerned.
        let other = async {
            while server.engine.snapshot().requests < 2 {
                tokio::task::yield_now().await;
            }
            gate.open();
        };
        let (other, ()) = tokio::join!(with_key(&server, "beta"), other);
        assert_eq!(other.status, 200, "{}", other.body);
        refused
    };
    let (first, refused) = tokio::join!(with_key(&server, "alpha"), refused);
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    let error = &refused.json()["error"];
    assert!(
        error["queue_position"].is_u64() && error["estimated_wait_seconds"].is_f64(),
        "{error}"
    );
    assert_eq!(with_key(&server, "alpha").await.status, 200, "the place is free again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_may_only_come_from_where_they_are_allowed() {
    let allow = "access-control-allow-origin";
    let closed = Server::start().await;
    let origin = "origin: https://chat.example\r\n";
    let asked = format!(
        "{origin}access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n"
    );
    assert_eq!(request(closed.address, "GET", "/version", origin, "").await.header(allow), None);
    assert_eq!(request(closed.address, "OPTIONS", COMPLETE, &asked, "").await.status, 405);
    closed.stop().await;

    let mut setup = Setup::default();
    setup.config.allowed_origins = vec!["https://chat.example".to_owned()];
    setup.config.api_keys = vec!["alpha".to_owned()];
    let open = Server::with(setup).await;
    // Browsers ask beforehand, without the key; what follows needs it, and says to the page why it is refused.
    let preflight = request(open.address, "OPTIONS", COMPLETE, &asked, "").await;
    assert_eq!((preflight.status, preflight.header(allow)), (200, Some("https://chat.example")));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
    let refused = request(open.address, "GET", "/version", origin, "").await;
    assert_eq!((refused.status, refused.header(allow)), (401, Some("https://chat.example")));
    let other = "origin: https://evil.example\r\nauthorization: Bearer alpha\r\n";
    assert_eq!(request(open.address, "GET", "/version", other, "").await.header(allow), None);
    open.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn balancers_hear_the_load_with_each_answer() {
    let server = Server::start().await;
    let body = json!({"prompt": "[ok]>"}).to_string();
    let ask = async |format: &str| {
        let headers =
            format!("content-type: application/json\r\nendpoint-load-metrics-format: {format}\r\n");
        request(server.address, "POST", COMPLETE, &headers, &body).await
    };
    let name = "endpoint-load-metrics";
    let text = ask("TEXT").await;
    let told = text.header(name).expect("a load");
    assert!(told.starts_with("TEXT named_metrics.kv_cache_usage_perc=0."), "{told}");
    assert!(told.ends_with(", named_metrics.num_requests_waiting=0.0"), "{told}");
    let json = ask("json").await;
    let told = json.header(name).and_then(|told| told.strip_prefix("JSON ")).expect("a load");
    let told: Value = serde_json::from_str(told).expect("JSON");
    assert_eq!(told["named_metrics"]["num_requests_waiting"], 0.0);
    assert_eq!(ask("xml").await.header(name), None);
    assert_eq!(get(server.address, "/version").await.header(name), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urgency_is_heard_where_it_counts() {
    let mut setup = Setup::default();
    setup.config.priorities = true;
    let server = Server::with(setup).await;
    let ask = async |priority: Value| {
        let body = json!({"prompt": "[ok]>", "priority": priority});
        post(server.address, COMPLETE, &body).await
    };
    assert_eq!(ask(json!(-5)).await.status, 200);
    for wrong in [json!(i64::MAX), json!(i64::MIN), json!(0.5), json!("high")] {
        let answer = ask(wrong.clone()).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!("priority")),
            "{wrong}"
        );
    }
    assert_eq!(get(server.address, "/server_info").await.json()["scheduling_policy"], "priority");
    server.stop().await;
}
