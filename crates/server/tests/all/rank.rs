//! Choices that are ranked: the best of several samples, and beams. They are told all at once, best first, with scores.

use crate::common::http::{get, post, request};
use crate::common::{Server, Setup, with};
use folio_core::params::GenerationDefaults;
use folio_sim::Gate;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

/// A request for `path` that the model answers as it likes.
fn ask(path: &str, more: &Value) -> Value {
    let body = json!({"model": "tiny", "max_tokens": 12, "seed": 3});
    let prompt = if path == CHAT {
        json!({"messages": [{"role": "user", "content": "no script"}]})
    } else {
        json!({"prompt": "no script"})
    };
    with(&with(&body, &prompt), more)
}

fn beams(more: &Value) -> Value {
    with(&json!({"use_beam_search": true}), more)
}

/// The text of a choice, or the piece of it that a chunk carries.
fn text(choice: &Value) -> &str {
    let texts = [&choice["text"], &choice["message"]["content"], &choice["delta"]["content"]];
    texts.into_iter().find_map(Value::as_str).expect("text")
}

async fn choices(server: &Server, body: &Value) -> Vec<Value> {
    let path = if body["messages"].is_null() { COMPLETE } else { CHAT };
    let answer = post(server.address, path, body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()["choices"].as_array().expect("choices").clone()
}

fn scores(choices: &[Value]) -> Vec<f64> {
    choices.iter().map(|choice| choice["score"].as_f64().expect("a score")).collect()
}

fn logprobs(choice: &Value) -> Vec<f64> {
    let all = choice["logprobs"]["token_logprobs"].as_array().expect("log-probabilities");
    all.iter().map(|logprob| logprob.as_f64().expect("a number")).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a few tokens")]
fn mean(choice: &Value) -> f64 {
    let all = logprobs(choice);
    all.iter().sum::<f64>() / all.len() as f64
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-5
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_at_once_what_the_whole_answer_tells() {
    let server = Server::start().await;
    let cases = [
        json!({"n": 2, "best_of": 5}),
        json!({"n": 2, "best_of": 5, "stop": ["a", "e"]}),
        beams(&json!({"n": 3, "beam_width": 4})),
        beams(&json!({"best_of": 2})),
        beams(&json!({"n": 2})),
        beams(&json!({"n": 4, "stop": ["a", "ee"], "length_penalty": 0.5, "early_stopping": true})),
        beams(&json!({"n": 4, "stop_token_ids": [101], "early_stopping": "never"})),
    ];
    for (path, more) in cases.iter().flat_map(|more| [(CHAT, more), (COMPLETE, more)]) {
        let body = ask(path, more);
        let whole = post(server.address, path, &body).await.json();
        let wanted = whole["choices"].as_array().unwrap_or_else(|| panic!("{whole}"));
        assert_eq!(wanted.len() as u64, more["n"].as_u64().unwrap_or(1), "{more}");
        assert!(scores(wanted).is_sorted_by(|a, b| a >= b), "{more}: {wanted:?}");

        let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
        let mut events = post(server.address, path, &with(&body, &stream)).await.events(true);
        let last = events.pop().expect("the usage");
        assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        assert_eq!(events.len(), wanted.len(), "{more}: a chunk for each choice");
        for (event, wanted) in events.iter().zip(wanted) {
            let chunk = &event["choices"][0];
            assert_eq!(text(chunk), text(wanted), "{more}");
            for field in ["index", "finish_reason", "stop_reason", "score"] {
                assert_eq!(chunk[field], wanted[field], "{more}: {field}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ranked_choices_have_a_score_and_only_at_their_end() {
    let server = Server::start().await;
    for path in [CHAT, COMPLETE] {
        for more in [json!({"n": 2}), json!({"n": 2, "best_of": 2})] {
            let answer = post(server.address, path, &ask(path, &more)).await;
            assert!(!answer.body.contains("score"), "{}", answer.body);
            let stream = with(&more, &json!({"stream": true}));
            let answer = post(server.address, path, &ask(path, &stream)).await;
            assert!(!answer.body.contains("score"), "{}", answer.body);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_of_several_samples_are_those_with_the_best_mean() {
    let server = Server::start().await;
    for more in [json!({}), json!({"stop": ["e", "a"]}), json!({"stop_token_ids": [101, 102]})] {
        let all = ask(COMPLETE, &with(&json!({"logprobs": 1}), &more));
        let mut samples = choices(&server, &with(&all, &json!({"n": 6}))).await;
        samples.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let best = choices(&server, &with(&all, &json!({"n": 2, "best_of": 6}))).await;
        for (best, sample) in best.iter().zip(&samples) {
            assert_eq!((text(best), logprobs(best)), (text(sample), logprobs(sample)), "{more}");
            for field in ["finish_reason", "stop_reason"] {
                assert_eq!(best[field], sample[field], "{more}");
            }
            assert!(close(best["score"].as_f64().expect("a score"), mean(sample)), "{more}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a few tokens")]
async fn the_score_of_a_beam_follows_from_its_tokens() {
    let server = Server::start().await;
    for penalty in [0.0, 1.0, 2.0, -1.0] {
        let more = beams(&json!({
            "n": 4, "length_penalty": penalty, "logprobs": 2, "stop": ["ab", "c"], "stop_token_ids": [101],
        }));
        for choice in choices(&server, &ask(COMPLETE, &more)).await {
            let logprobs = logprobs(&choice);
            assert_eq!(
                choice["logprobs"]["top_logprobs"][0].as_object().map(|top| top.len() <= 3),
                Some(true)
            );
            let score = logprobs.iter().sum::<f64>() / (logprobs.len() as f64).powf(penalty);
            assert!(close(choice["score"].as_f64().expect("a score"), score), "{choice}");
        }
    }
    // Unless they are asked for, log-probabilities are not told.
    let more = beams(&json!({"n": 2}));
    assert!(choices(&server, &ask(COMPLETE, &more)).await[0]["logprobs"].is_null());
    // One beam is greedy.
    let greedy = choices(&server, &ask(COMPLETE, &json!({"temperature": 0}))).await;
    let one = choices(&server, &ask(COMPLETE, &beams(&json!({})))).await;
    assert_eq!(text(&greedy[0]), text(&one[0]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beam_ends_with_its_stop_string_and_the_string_is_cut_off() {
    let server = Server::start().await;
    let mut ended = 0;
    for stop in ["a", "b", "na", "lo", "no "] {
        let more = beams(&json!({"n": 4, "beam_width": 8, "stop": stop, "logprobs": 0}));
        let prompt = json!({"prompt": "[a banana says hello, no less]>", "max_tokens": 20});
        for choice in choices(&server, &with(&ask(COMPLETE, &more), &prompt)).await {
            let tokens: String = choice["logprobs"]["tokens"]
                .as_array()
                .expect("tokens")
                .iter()
                .map(|token| token.as_str().expect("text"))
                .collect();
            assert!(!text(&choice).contains(stop), "{choice}");
            if choice["stop_reason"] == stop {
                assert_eq!(choice["finish_reason"], "stop");
                assert_eq!(tokens, format!("{}{stop}", text(&choice)), "nothing follows it");
                ended += 1;
            } else {
                assert!(choice["stop_reason"].is_null() && !tokens.contains(stop), "{choice}");
            }
        }
    }
    assert!(ended >= 10, "only {ended} beams ended with a stop string");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recommended_sampling_does_not_bend_beams() {
    let defaults = GenerationDefaults {
        max_new_tokens: None,
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(20),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
    };
    let server = Server::with(Setup { defaults, ..Setup::default() }).await;
    let plain = Server::start().await;
    for path in [CHAT, COMPLETE] {
        let body = ask(path, &beams(&json!({"n": 3})));
        assert_eq!(choices(&server, &body).await, choices(&plain, &body).await);
        let bent = post(server.address, path, &with(&body, &json!({"top_p": 0.9}))).await;
        assert_eq!((bent.status, bent.json()["error"]["param"].as_str()), (400, Some("top_p")));
    }
    server.stop().await;
    plain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_has_a_prefix_cache_of_its_own() {
    let mut setup = Setup::default();
    setup.config.api_keys = vec!["first".to_owned(), "second".to_owned()];
    let server = Server::with(setup).await;
    let address = server.address;
    let cached = async |key: &str, more: Value| {
        let body =
            with(&json!({"prompt": "[a prompt of more than one block]>"}), &more).to_string();
        let headers = format!("authorization: Bearer {key}\r\ncontent-type: application/json\r\n");
        let answer = request(address, "POST", COMPLETE, &headers, &body).await;
        answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].clone()
    };
    for key in ["first", "second"] {
        assert_eq!(cached(key, json!({})).await, 0, "{key}");
        assert_ne!(cached(key, json!({})).await, 0, "{key}");
        assert_eq!(cached(key, json!({"cache_salt": "mine"})).await, 0, "{key}");
        assert_ne!(cached(key, json!({"cache_salt": "mine"})).await, 0, "{key}");
    }
    assert_ne!(cached("first", json!({})).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_can_be_looked_into() {
    let gate = Gate::closed();
    let mut setup = Setup { gate: Some(gate.clone()), ..Setup::default() };
    setup.config.api_keys = vec!["key".to_owned()];
    let server = Server::with(setup).await;
    let address = server.address;
    assert_eq!(get(address, "/debug/kv").await.status, 401);
    let headers = "authorization: Bearer key\r\ncontent-type: application/json\r\n";
    let body =
        ask(COMPLETE, &beams(&json!({"beam_width": 4, "max_tokens": 230, "ignore_eos": true})))
            .to_string();
    let asked =
        tokio::spawn(async move { request(address, "POST", COMPLETE, headers, &body).await });
    gate.allow(5);
    let waiting = gate.clone();
    tokio::task::spawn_blocking(move || waiting.wait_for_arrivals(6)).await.expect("it arrives");
    let looked =
        tokio::spawn(async move { request(address, "GET", "/debug/kv", headers, "").await });
    // The engine looks when its step is over. Which step that is does not matter: the request has many to go.
    for _ in 0..200 {
        gate.allow(1);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        if looked.is_finished() {
            break;
        }
    }
    let report = looked.await.expect("an answer").json();
    let stats = &report["stats"];
    assert_eq!((&report["block_size"], &stats["total"]), (&json!(4), &json!(1024)));
    let group = &report["groups"][0];
    assert_eq!((&group["activity"], &group["beams"]), (&json!("decode"), &json!(true)));
    assert_eq!((&group["sequences"], &report["left_out"]), (&json!(4), &json!(0)));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{report}"));
    assert_eq!(number(&report["saved"]["beams"]), number(&stats["held"]) - number(&stats["used"]));
    assert!(number(&report["saved"]["beams"]) >= 6, "at least two blocks of the prompt: {report}");
    let by_tables = report["by_tables"].as_array().expect("a list");
    let held: u64 = by_tables.iter().map(|e| number(&e["tables"]) * number(&e["blocks"])).sum();
    assert_eq!(held, number(&stats["held"]));
    gate.open();
    assert_eq!(asked.await.expect("an answer").status, 200);
    server.stop().await;
}
