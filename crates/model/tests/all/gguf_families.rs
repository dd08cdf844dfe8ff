//! Every family as a GGUF file against the answers of Hugging Face transformers: the zoo's models, rewritten in the way
//! that llama.cpp's converter rewrites them, must answer as before.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde_json::Value as Json;

use crate::driver::{Driver, Setup, cpu_runner, open};
use crate::folder::TempFolder;
use crate::gguf_file::{File, Value};
use crate::golden::{Deviation, cases, jobs, zoo};

/// A tensor on its way from one format to the other.
#[derive(Clone)]
struct Matrix {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Matrix {
    fn rows(&self, order: impl Iterator<Item = usize>) -> Self {
        let width: usize = self.shape[1..].iter().product();
        let values = order.flat_map(|row| &self.values[row * width..(row + 1) * width]).copied();
        Self { shape: self.shape.clone(), values: values.collect() }
    }

    fn map(&self, change: impl Fn(f32) -> f32) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|x| change(*x)).collect() }
    }

    fn transposed(&self) -> Self {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let at = |i: usize| self.values[i % rows * columns + i / rows];
        Self { shape: vec![columns, rows], values: (0..rows * columns).map(at).collect() }
    }
}

struct Source {
    config: Json,
    tensors: BTreeMap<String, Matrix>,
}

impl Source {
    fn read(family: &str) -> Self {
        let folder = zoo(family);
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let values = view.data().chunks_exact(4);
            let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (name, Matrix { shape: view.shape().to_vec(), values })
        };
        let tensors = stored.tensors().into_iter().map(read).collect();
        Self { config: serde_json::from_slice(&config).unwrap(), tensors }
    }

    fn count(&self, key: &str) -> Option<usize> {
        self.config[key].as_u64().map(|n| n as usize)
    }

    /// The value under the first of these keys that is there.
    fn any(&self, keys: &[&str]) -> usize {
        keys.iter().find_map(|key| self.count(key)).unwrap_or_else(|| panic!("{keys:?}"))
    }
}

/// The metadata that all families have.
fn describe(source: &Source, architecture: &str, epsilon: &str) -> File {
    let mut file = File::new(architecture);
    let hidden = source.any(&["hidden_size", "n_embd"]);
    let heads = source.any(&["num_attention_heads", "n_head"]);
    let head_dim = source.count("head_dim").unwrap_or(hidden / heads);
    let ffn = source.count("intermediate_size").or(source.count("n_inner")).unwrap_or(4 * hidden);
    let counts = [
        ("context_length", source.any(&["max_position_embeddings", "n_positions"])),
        ("embedding_length", hidden),
        ("block_count", source.any(&["num_hidden_layers", "n_layer"])),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", source.count("num_key_value_heads").unwrap_or(heads)),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
    ];
    let rope = &source.config["rope_parameters"];
    let rotated = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0) * head_dim as f64;
    let window = source.count("sliding_window").map(|window| ("attention.sliding_window", window));
    let counts = counts.into_iter().chain(window);
    for (name, count) in counts.chain([("rope.dimension_count", rotated as usize)]) {
        file.set(&format!("{architecture}.{name}"), Value::U32(count as u32));
    }
    let stated = ["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"];
    let stated = stated.iter().find_map(|key| source.config[key].as_f64()).unwrap();
    file.set(&format!("{architecture}.attention.{epsilon}"), Value::F32(stated as f32));
    if let Some(theta) = rope["rope_theta"].as_f64() {
        file.set(&format!("{architecture}.rope.freq_base"), Value::F32(theta as f32));
    }
    file
}

const RMS: &str = "layer_norm_rms_epsilon";
const LAYER: &str = "layer_norm_epsilon";

/// What parts of a name are called in GGUF, by family.
const RENAMED: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.final_layernorm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers.", "blk."),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("input_layernorm", "attn_norm"),
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
    ("transformer.h.", "blk."),
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("gpt_neox.embed_in", "token_embd"),
    ("gpt_neox.final_layer_norm", "output_norm"),
    ("embed_out", "output"),
    ("gpt_neox.layers.", "blk."),
    ("attention.query_key_value", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];

fn rename(name: &str, post_norm: &str) -> String {
    let own = [("post_attention_layernorm", post_norm)];
    let mut name = name.to_owned();
    for (from, to) in RENAMED.iter().chain(&own) {
        name = name.replace(from, to);
    }
    name
}

/// Llama's order of rows, in which the two channels that turn together are neighbours.
fn neighbours(matrix: &Matrix, heads: usize) -> Matrix {
    let dim = matrix.shape[0] / heads;
    matrix.rows((0..matrix.shape[0]).map(|row| {
        let (head, within) = (row / dim, row % dim);
        head * dim + within % 2 * (dim / 2) + within / 2
    }))
}

/// All queries, all keys, all values, out of query, key and value head by head.
fn untangled(matrix: &Matrix, heads: usize) -> Matrix {
    let dim = matrix.shape[0] / heads / 3;
    let row = |row: usize| {
        let (which, head, within) = (row / (heads * dim), row / dim % heads, row % dim);
        (3 * head + which) * dim + within
    };
    matrix.rows((0..matrix.shape[0]).map(row))
}

fn check(family: &str, file: &File) {
    let folder = file.write();
    check_folder(family, &folder);
}

fn check_folder(family: &str, folder: &TempFolder) {
    let setup = Setup { together: 4, ..Setup::default() };
    let cases = cases(&zoo(family));
    let (mut runner, plan) = cpu_runner(&open(&folder.0), &setup);
    let outcomes = Driver::new(&mut runner, &plan, 7).run(&jobs(&cases), &setup);
    let mut deviation = Deviation::default();
    for (case, ours) in cases.iter().zip(&outcomes) {
        deviation.compare(case, ours, 1e-4);
    }
    assert!(deviation.logprob <= 1e-4, "{family}: {deviation:?}");
}

/// Writes the tensors under their names in GGUF, each changed by `change`.
fn write(
    file: &mut File,
    source: &Source,
    post_norm: &str,
    change: impl Fn(&str, &Matrix) -> Matrix,
) {
    for (name, matrix) in &source.tensors {
        let name = rename(name, post_norm);
        let changed = change(&name, matrix);
        file.floats(&name, &changed.shape, &changed.values);
    }
}

fn unchanged(_: &str, matrix: &Matrix) -> Matrix {
    matrix.clone()
}

fn llama_order(source: &Source) -> impl Fn(&str, &Matrix) -> Matrix {
    let heads = source.any(&["num_attention_heads"]);
    let kv_heads = source.any(&["num_key_value_heads"]);
    move |name, matrix| match name {
        _ if name.contains("attn_q.") => neighbours(matrix, heads),
        _ if name.contains("attn_k.") => neighbours(matrix, kv_heads),
        _ => matrix.clone(),
    }
}

#[test]
fn llama_and_mistral() {
    let source = Source::read("mistral-swa16");
    let mut file = describe(&source, "llama", RMS);
    write(&mut file, &source, "ffn_norm", llama_order(&source));
    check("mistral-swa16", &file);

    let source = Source::read("llama3-ropescaled");
    let mut file = describe(&source, "llama", RMS);
    write(&mut file, &source, "ffn_norm", llama_order(&source));
    let rope = &source.config["rope_parameters"];
    let number = |key: &str| rope[key].as_f64().unwrap();
    let dims = source.any(&["hidden_size"]) / source.any(&["num_attention_heads"]);
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let context = number("original_max_position_embeddings");
    // As the converter computes what it calls `rope_freqs`.
    let factors = (0..dims / 2).map(|pair| {
        let frequency = 1.0 / number("rope_theta").powf(2.0 * pair as f64 / dims as f64);
        let length = std::f64::consts::TAU / frequency;
        let smooth = (context / length - low) / (high - low);
        (match () {
            () if length < context / high => 1.0,
            () if length > context / low => number("factor"),
            () => 1.0 / ((1.0 - smooth) / number("factor") + smooth),
        }) as f32
    });
    let factors: Vec<f32> = factors.collect();
    assert!(factors.iter().any(|f| *f > 1.0));
    file.floats("rope_freqs.weight", &[dims / 2], &factors);
    check("llama3-ropescaled", &file);
}

#[test]
fn qwen2_and_qwen3() {
    for (family, architecture) in [("qwen2", "qwen2"), ("qwen3", "qwen3")] {
        let source = Source::read(family);
        let mut file = describe(&source, architecture, RMS);
        // The converter does not write a window that is switched off.
        file.metadata.retain(|(key, _)| !key.ends_with("sliding_window"));
        write(&mut file, &source, "ffn_norm", unchanged);
        check(family, &file);
    }
}

#[test]
fn gemma2() {
    let source = Source::read("gemma2");
    let mut file = describe(&source, "gemma2", RMS);
    for (key, name) in [
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ] {
        let cap = source.config[key].as_f64().unwrap() as f32;
        file.set(&format!("gemma2.{name}"), Value::F32(cap));
    }
    // The zoo's model divides scores by another root than that of the head's size, which no file can say.
    let scalar = source.any(&["query_pre_attn_scalar"]) as f32;
    let factor = (source.any(&["head_dim"]) as f32 / scalar).sqrt();
    write(&mut file, &source, "post_attention_norm", |name, matrix| match name {
        _ if name.ends_with("norm.weight") => matrix.map(|x| x + 1.0),
        _ if name.contains("attn_q.") => matrix.map(|x| x * factor),
        _ => matrix.clone(),
    });
    check("gemma2", &file);
}

#[test]
fn phi2_and_phi3() {
    let source = Source::read("phi3");
    let mut file = describe(&source, "phi3", RMS);
    write(&mut file, &source, "ffn_norm", unchanged);
    check("phi3", &file);

    let source = Source::read("phi");
    let mut file = describe(&source, "phi2", LAYER);
    write(&mut file, &source, "ffn_norm", unchanged);
    check("phi", &file);
}

#[test]
fn gpt2_and_gpt_neox() {
    let source = Source::read("gpt2");
    let mut file = describe(&source, "gpt2", LAYER);
    write(&mut file, &source, "ffn_norm", |name, matrix| {
        let turned = matrix.shape.len() == 2 && name.starts_with("blk.");
        if turned { matrix.transposed() } else { matrix.clone() }
    });
    check("gpt2", &file);

    let source = Source::read("gpt-neox");
    let mut file = describe(&source, "gptneox", LAYER);
    file.set("gptneox.use_parallel_residual", Value::Flag(true));
    let heads = source.any(&["num_attention_heads"]);
    write(&mut file, &source, "ffn_norm", |name, matrix| {
        if name.contains("attn_qkv") { untangled(matrix, heads) } else { matrix.clone() }
    });
    check("gpt-neox", &file);
}

#[test]
fn a_model_in_two_parts_is_found_from_either() {
    let source = Source::read("qwen2");
    let mut first = describe(&source, "qwen2", RMS);
    first.metadata.retain(|(key, _)| !key.ends_with("sliding_window"));
    write(&mut first, &source, "ffn_norm", unchanged);
    let mut second = File::new("qwen2");
    second.metadata.clear();
    second.tensors = first.tensors.split_off(first.tensors.len() / 2);
    let folder = TempFolder::new();
    let names = ["split-00001-of-00002.gguf", "split-00002-of-00002.gguf"];
    folder.write(names[0], first.bytes());
    folder.write(names[1], second.bytes());
    check_folder("qwen2", &folder);
    for name in names {
        assert_eq!(open(&folder.0.join(name)).name(), "split");
    }
}
