//! `/openapi.json` against the server that serves it.

use std::collections::BTreeSet;

use crate::common::http::{get, post, request};
use crate::common::{Server, with};
use serde_json::{Map, Value, json};

async fn document(server: &Server) -> Value {
    let answer = get(server.address, "/openapi.json").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// The paths that read a body, with the schema of it.
fn bodies(document: &Value) -> Vec<(String, Value)> {
    let schema = |methods: &Value| {
        methods["post"]["requestBody"]["content"]["application/json"]["schema"].clone()
    };
    let all = members(&document["paths"]).map(|(path, methods)| (path.clone(), schema(methods)));
    all.filter(|(_, schema)| schema.is_object()).collect()
}

/// A body that is served.
fn valid(path: &str) -> Value {
    let messages = json!([{ "role": "user", "content": "[ok]" }]);
    match path {
        "/v1/chat/completions" => json!({ "messages": messages, "max_tokens": 2 }),
        "/v1/completions" => json!({ "prompt": "[ok]>", "max_tokens": 2 }),
        "/v1/responses" => json!({ "input": "[ok]", "max_output_tokens": 2 }),
        "/v1/responses/input_tokens" => json!({ "input": "[ok]" }),
        "/v1/messages" => json!({ "messages": messages, "max_tokens": 2 }),
        "/v1/messages/count_tokens" => json!({ "messages": messages }),
        "/tokenize" => json!({ "prompt": "ok" }),
        "/detokenize" => json!({ "tokens": [111, 107] }),
        other => panic!("a body for {other} is missing here"),
    }
}

#[tokio::test]
async fn the_document_has_every_method_of_every_path() {
    let server = Server::start().await;
    let document = document(&server).await;
    for (path, methods) in members(&document["paths"]) {
        // What is stored nowhere has no example.
        if path.ends_with("/{id}") {
            continue;
        }
        let path = path.replace("{name}", "tiny");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let told = methods.get(method.to_lowercase()).is_some();
            let answer = request(server.address, method, &path, "", "").await;
            assert_ne!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.status != 405, told, "{method} {path}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_fields_in_the_document_are_those_that_are_read() {
    let server = Server::start().await;
    let bodies = bodies(&document(&server).await);
    let names = |schema: &Value| -> BTreeSet<String> {
        members(&schema["properties"]).map(|(name, _)| name.clone()).collect()
    };
    let everywhere: BTreeSet<String> =
        bodies.iter().flat_map(|(_, schema)| names(schema)).chain(["x".to_owned()]).collect();
    for (path, schema) in &bodies {
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let own = names(schema);
        for name in &everywhere {
            // Whatever it is, it is not of the right type twice over.
            let answer = post(server.address, path, &json!({ name: { "\u{0}": [[]] } })).await;
            assert!(answer.status < 500, "{path} {name}: {}", answer.body);
            let unknown =
                answer.body.contains("unknown field") && !answer.body.contains(&format!("{name}."));
            assert_eq!(unknown, !own.contains(name), "{path} {name}: {}", answer.body);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_required_is_and_null_is_as_good_as_nothing_elsewhere() {
    let server = Server::start().await;
    for (path, schema) in bodies(&document(&server).await) {
        let body = valid(&path);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, _) in members(&schema["properties"]) {
            if !required.contains(&name.as_str()) && body.get(name).is_some() {
                continue;
            }
            let answer = post(server.address, &path, &with(&body, &json!({ name: null }))).await;
            if required.contains(&name.as_str()) {
                assert_eq!(answer.status, 400, "{path} without {name}");
                assert!(answer.body.contains(name.as_str()), "{path}: {}", answer.body);
            } else {
                assert_eq!(answer.status, 200, "{path} with {name} null: {}", answer.body);
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_values_at_which_unserved_fields_are_let_pass_are_let_pass() {
    let server = Server::start().await;
    let mut tried = 0;
    for (path, schema) in bodies(&document(&server).await) {
        for (name, schema) in members(&schema["properties"]) {
            let about = schema["description"].as_str().unwrap_or_default();
            if !about.starts_with("Not served") && !about.starts_with("Only at its default") {
                continue;
            }
            let options = schema["anyOf"].as_array().cloned().unwrap_or(vec![schema.clone()]);
            let values = options.iter().flat_map(|option| {
                match (option["enum"].as_array(), option["type"].as_str()) {
                    (Some(values), _) => values.clone(),
                    (None, Some("array")) => vec![json!([])],
                    (None, Some("object")) => vec![json!({})],
                    (None, _) => vec![Value::Null],
                }
            });
            for value in values {
                let body = with(&valid(&path), &json!({ name: value }));
                let answer = post(server.address, &path, &body).await;
                assert_eq!(answer.status, 200, "{path} {name} = {value}: {}", answer.body);
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried}");
    server.stop().await;
}

#[tokio::test]
async fn the_page_shows_all_of_it_and_loads_nothing() {
    let server = Server::start().await;
    let document = document(&server).await;
    let page = get(server.address, "/docs").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    for (path, _) in members(&document["paths"]) {
        assert!(page.body.contains(&format!(" {path}</h2>")), "{path}");
    }
    for (path, schema) in bodies(&document) {
        for (name, _) in members(&schema["properties"]) {
            assert!(page.body.contains(&format!("<td>{name}<td>")), "{path} {name}");
        }
    }
    for outside in ["http:", "https:", "<script", "<link", "<img", "url("] {
        assert!(!page.body.contains(outside), "{outside}");
    }
    server.stop().await;
}
