//! Configurations: both spellings mean the same, and what is not served is refused by name.

use std::path::Path;

use folio_model::arch;
use folio_model::fields::Fields;
use folio_model::spec::ModelSpec;
use serde_json::{Value, json};

use crate::golden::{ZOO, variants, zoo};

fn read(config: &Value) -> Result<ModelSpec, String> {
    let fields = Fields::parse("config.json", config.to_string().as_bytes()).unwrap();
    arch::read(&fields).map(|(spec, _)| spec).map_err(|e| e.to_string())
}

fn config(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn both_spellings_of_a_configuration_mean_the_same() {
    for folder in ZOO.iter().map(|family| zoo(family)).chain(variants()) {
        let new = read(&config(&folder.join("config.json"))).unwrap();
        let legacy = read(&config(&folder.join("config.legacy.json"))).unwrap();
        assert_eq!(new, legacy, "{folder:?}");
    }
}

#[test]
fn without_architectures_the_model_type_decides() {
    for family in ZOO {
        let mut config = config(&zoo(family).join("config.json"));
        let named = read(&config).unwrap();
        config.as_object_mut().unwrap().remove("architectures");
        assert_eq!(read(&config).unwrap(), named);
    }
}

/// The configuration of `family` with some fields changed, and the refusal it must meet.
fn refuse(family: &str, changes: &Value, sentence: &str) {
    let mut config = config(&zoo(family).join("config.json"));
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    let refusal = read(&config).expect_err(sentence);
    assert!(refusal.contains(sentence), "{refusal:?} does not contain {sentence:?}");
}

#[test]
fn architectures_that_are_not_served_are_refused_by_name() {
    let sentence = "config.json: the architecture `MixtralForCausalLM` is not supported; these are: LlamaForCausalLM, MistralForCausalLM,";
    refuse("mixtral", &json!({}), sentence);
    refuse(
        "gpt-neox",
        &json!({"architectures": ["GPTNeoXForSequenceClassification"]}),
        "the architecture `GPTNeoXForSequenceClassification` is not supported",
    );
    refuse("qwen2", &json!({"architectures": null, "model_type": "mamba"}), "architecture `mamba`");
    refuse("qwen2", &json!({"architectures": [], "model_type": null}), "(none is named)");
    refuse("qwen2", &json!({"architectures": [3]}), "`architectures` must be a list of strings");
}

#[test]
fn variants_that_no_answer_pins_are_refused_by_field() {
    for kind in ["yarn", "longrope", "dynamic", "su", "mrope"] {
        let rope = json!({"rope_parameters": null, "rope_scaling": {"type": kind, "factor": 2.0}});
        refuse(
            "phi3",
            &rope,
            &format!("config.json: `rope_type` is `{kind}`, which is not supported"),
        );
    }
    let nested = json!({"full_attention": {"rope_theta": 1e4}, "sliding_attention": {}});
    refuse(
        "gemma2",
        &json!({"rope_parameters": nested}),
        "one set per layer type (`full_attention`)",
    );
    refuse(
        "llama3-ropescaled",
        &json!({"hidden_act": "xielu"}),
        "`hidden_act` is `xielu`, which is not supported",
    );
    refuse(
        "opt",
        &json!({"do_layer_norm_before": false}),
        "`do_layer_norm_before` = false is not supported",
    );
    refuse(
        "opt",
        &json!({"word_embed_proj_dim": 32}),
        "`word_embed_proj_dim` must equal hidden_size (64)",
    );
    refuse(
        "gpt2",
        &json!({"scale_attn_by_inverse_layer_idx": true}),
        "`scale_attn_by_inverse_layer_idx` = true",
    );
    refuse("phi", &json!({"qk_layernorm": true}), "`qk_layernorm` = true");
    refuse(
        "gemma2",
        &json!({"layer_types": ["full_attention", "linear_attention", "full_attention"]}),
        "`linear_attention`",
    );
    refuse("qwen2", &json!({"layer_types": ["full_attention"]}), "one entry per layer (3), not 1");
    refuse("mistral-swa16", &json!({"dtype": "float8_e4m3fn"}), "`dtype` is `float8_e4m3fn`");
}

#[test]
fn numbers_out_of_range_are_refused_by_field() {
    let cases = [
        ("num_hidden_layers", json!(0), "must be a whole number from 1 to 1024, not 0"),
        ("num_hidden_layers", json!(1_000_000), "from 1 to 1024, not 1000000"),
        ("num_hidden_layers", json!(-3), "not -3"),
        ("num_hidden_layers", json!(2.5), "not 2.5"),
        ("hidden_size", json!(1_u64 << 62), "from 1 to 262144"),
        ("hidden_size", json!("sixty-four"), "not \"sixty-four\""),
        ("hidden_size", json!(null), "is missing"),
        ("intermediate_size", json!(1e30), "not 1e+30"),
        ("vocab_size", json!(0), "not 0"),
        ("max_position_embeddings", json!(1_u64 << 40), "from 1 to 16777216"),
        ("num_attention_heads", json!(0), "not 0"),
        ("num_key_value_heads", json!(3), "(3) must divide the number of attention heads (4)"),
        ("head_dim", json!(12), "multiples of 8"),
        ("head_dim", json!(4096), "from 1 to 512"),
        ("rms_norm_eps", json!(0), "must be a number above 0"),
        ("rms_norm_eps", json!([1]), "not [1]"),
        ("tie_word_embeddings", json!("yes"), "must be true or false, not \"yes\""),
        ("rope_parameters", json!({"rope_theta": -1e4}), "above 0"),
        ("rope_parameters", json!({"rope_theta": 0}), "above 0"),
        ("rope_parameters", json!({"partial_rotary_factor": 1.5}), "at most 1"),
        (
            "rope_parameters",
            json!({"partial_rotary_factor": 0.01}),
            "makes 0 of a head's 16 channels turn",
        ),
        ("rope_parameters", json!({"rope_type": "linear", "factor": 0}), "above 0"),
        ("rope_parameters", json!({"rope_type": "llama3"}), "is missing"),
        ("rope_parameters", json!([1]), "must be an object or null"),
    ];
    for (field, value, sentence) in cases {
        let changes = json!({field: value});
        refuse("llama3-ropescaled", &changes, sentence);
        let named = if field == "rope_parameters" { "`" } else { field };
        refuse("llama3-ropescaled", &changes, named);
    }
    // Without a head size of its own, the hidden size must divide.
    let shared_out = json!({"head_dim": null, "num_attention_heads": 5, "num_key_value_heads": 5});
    refuse(
        "llama3-ropescaled",
        &shared_out,
        "`num_attention_heads` (5) must divide hidden_size (64)",
    );
    refuse(
        "mistral-swa16",
        &json!({"sliding_window": 0}),
        "`sliding_window` must be a whole number from 1",
    );
    refuse(
        "gemma2",
        &json!({"attn_logit_softcapping": -1.0}),
        "`attn_logit_softcapping` must be a number above 0",
    );
}

#[test]
fn windows_follow_each_familys_rule() {
    let with = |family: &str, changes: Value| {
        let mut config = config(&zoo(family).join("config.json"));
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        read(&config).unwrap().windows
    };
    let (none, some) = (None, Some(16));
    assert_eq!(with("mistral-swa16", json!({})), [some; 3]);
    assert_eq!(with("mistral-swa16", json!({"sliding_window": null})), [none; 3]);
    assert_eq!(with("gemma2", json!({})), [some, none, some]);
    assert_eq!(with("gemma2", json!({"layer_types": null})), [some, none, some]);
    assert_eq!(with("gemma2", json!({"layer_types": null, "num_hidden_layers": 2})), [some, none]);
    assert_eq!(with("phi3", json!({"sliding_window": 16})), [some; 3]);
    let qwen = |on: bool, first: usize| {
        let changes = json!({
            "layer_types": null, "sliding_window": 16,
            "use_sliding_window": on, "max_window_layers": first,
        });
        with("qwen2", changes)
    };
    assert_eq!(qwen(false, 0), [none; 3]);
    assert_eq!(qwen(true, 0), [some; 3]);
    assert_eq!(qwen(true, 2), [none, none, some]);
    assert_eq!(qwen(true, 28), [none; 3]);
}
