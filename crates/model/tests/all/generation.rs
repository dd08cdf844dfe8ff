//! Where texts end, and what a model's makers recommend.

use folio_core::ids::Token;
use folio_core::params::GenerationDefaults;
use folio_model::Checkpoint;
use serde_json::{Value, json};

use crate::folder::Tiny;

fn open(config: Value, generation: Option<Value>) -> Result<Checkpoint, String> {
    let mut tiny = Tiny::new();
    tiny.config["eos_token_id"] = config;
    let folder = tiny.write();
    if let Some(generation) = generation {
        folder.write("generation_config.json", generation.to_string());
    }
    Checkpoint::open(&folder.source()).map_err(|e| e.to_string())
}

fn eos(config: Value, generation: Option<Value>) -> Vec<u32> {
    open(config, generation).unwrap().eos().iter().map(|&Token(id)| id).collect()
}

#[test]
fn end_tokens_are_one_or_many_and_come_from_either_file() {
    assert_eq!(eos(json!(2), None), [2]);
    assert_eq!(eos(json!([2, 5]), None), [2, 5]);
    assert_eq!(eos(json!(2), Some(json!({"eos_token_id": [7, 8, 9]}))), [7, 8, 9]);
    assert_eq!(eos(json!(2), Some(json!({"eos_token_id": 3}))), [3]);
    assert_eq!(eos(json!(2), Some(json!({"temperature": 0.5}))), [2]);
    assert_eq!(eos(json!(2), Some(json!({"eos_token_id": null}))), [2]);
    assert_eq!(eos(json!(null), None), [0_u32; 0]);
    // Tokens that cannot be generated cannot end anything.
    assert_eq!(eos(json!([9, 10, -1]), None), [9]);
    for bad in [json!("2"), json!(2.5), json!([1, "2"]), json!(vec![1; 2000])] {
        let error = open(json!(2), Some(json!({"eos_token_id": bad}))).unwrap_err();
        assert!(error.starts_with("generation_config.json: `eos_token_id` must be"), "{error}");
        let error = open(bad, None).unwrap_err();
        assert!(error.starts_with("config.json: `eos_token_id` must be"), "{error}");
    }
}

#[test]
fn recommended_parameters_are_passed_on() {
    let defaults = |generation| open(json!(2), generation).unwrap().generation_defaults();
    assert_eq!(defaults(None), GenerationDefaults::default());
    let all = json!({
        "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 50, "min_p": 0,
        "repetition_penalty": 1.05, "max_length": 20, "max_new_tokens": 512,
    });
    let expected = GenerationDefaults {
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(50),
        min_p: Some(0.0),
        repetition_penalty: Some(1.05),
        max_new_tokens: Some(512),
    };
    assert_eq!(defaults(Some(all)), expected);
    for (field, bad) in [
        ("temperature", json!("warm")),
        ("temperature", json!(-1.0)),
        ("repetition_penalty", json!(0.0)),
        ("top_k", json!(-2)),
        ("top_p", json!([])),
        ("max_new_tokens", json!(0)),
    ] {
        let error = open(json!(2), Some(json!({field: bad}))).unwrap_err();
        assert!(
            error.starts_with(&format!("generation_config.json: `{field}` must be")),
            "{error}"
        );
    }
}
