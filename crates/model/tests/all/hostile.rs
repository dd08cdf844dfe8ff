//! Folders that are wrong or mean harm: each refusal names the file and the tensor or field, and nothing panics.

use std::fs;

use folio_core::exec::{DrawFault, Executor, StepOutput};
use folio_core::ids::{BlockId, SeqId, Token};
use folio_core::plan::{Draw, Row, StepPlan};
use folio_model::{Checkpoint, ModelSource};
use serde_json::{Value, json};

use crate::driver::{Driver, Job, Random, Setup, cpu_runner, greedy};
use crate::folder::{TempFolder, Tiny, file};
use crate::golden::shared;

fn refusal(source: &ModelSource) -> String {
    Checkpoint::open(source).expect_err("a refusal").to_string()
}

fn assert_says(source: &ModelSource, parts: &[&str]) {
    let sentence = refusal(source);
    for part in parts {
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}

/// Opens the tiny model after `change`.
fn changed(change: impl FnOnce(&mut Tiny), parts: &[&str]) {
    let mut tiny = Tiny::new();
    change(&mut tiny);
    assert_says(&tiny.write().source(), parts);
}

/// Opens the tiny model with other bytes for its weights.
fn weights(bytes: &[u8], parts: &[&str]) {
    let folder = Tiny::new().write();
    folder.write("model.safetensors", bytes);
    assert_says(&folder.source(), parts);
}

#[test]
fn the_tiny_model_itself_is_fine() {
    let folder = Tiny::new().write();
    let checkpoint = Checkpoint::open(&folder.source()).unwrap();
    let setup = Setup::default();
    let (mut runner, plan) = cpu_runner(&checkpoint, &setup);
    let outcomes = Driver::new(&mut runner, &plan, 1).run(&[Job::greedy(&[1, 2, 3], 4)], &setup);
    assert_eq!(outcomes[0].drawn.len(), 4);
    assert_eq!(checkpoint.name(), folder.0.file_name().unwrap().to_string_lossy());
    assert_eq!(checkpoint.read_file("tokenizer.json").unwrap(), None);
    assert!(checkpoint.read_file("../config.json").is_err());
}

#[test]
fn folders_without_a_model() {
    let folder = TempFolder::new();
    assert_says(&folder.source(), &["config.json: is missing"]);
    let nowhere = ModelSource::Folder(folder.0.join("nowhere"));
    assert_says(&nowhere, &["nowhere: is not there"]);
    folder.write("config.json", Tiny::new().config.to_string());
    assert_says(
        &folder.source(),
        &["model.safetensors: is missing", "model.safetensors.index.json"],
    );
    fs::create_dir(folder.0.join("model.safetensors")).unwrap();
    assert_says(&folder.source(), &["model.safetensors: is not a regular file"]);
}

#[test]
fn configurations_that_are_not_json() {
    let folder = Tiny::new().write();
    for (text, part) in [
        ("", "is not valid JSON"),
        ("{\"hidden_size\": 64", "is not valid JSON"),
        ("[1, 2]", "must hold a JSON object"),
        ("\u{0}\u{1}", "is not valid JSON"),
        (&"[".repeat(100_000), "recursion limit"),
        ("{\"hidden_size\": 1e999}", "is not valid JSON"),
    ] {
        folder.write("config.json", text);
        assert_says(&folder.source(), &["config.json: ", part]);
    }
    folder.write("config.json", [0xff, 0xfe, b'{']);
    assert_says(&folder.source(), &["config.json: is not valid JSON"]);
    folder.write("config.json", vec![b' '; (16 << 20) + 1]);
    assert_says(&folder.source(), &["config.json: is larger than"]);
}

#[test]
fn pickle_is_refused_with_advice() {
    for name in
        ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "model.pt"]
    {
        let folder = TempFolder::new();
        folder.write("config.json", Tiny::new().config.to_string());
        folder.write(name, "");
        assert_says(&folder.source(), &[name, "pickle", "refused", "save_pretrained"]);
    }
}

#[test]
fn git_lfs_pointers_are_recognised() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    weights(pointer.as_bytes(), &["model.safetensors: is a Git LFS pointer", "git lfs pull"]);
    let folder = Tiny::new().write();
    folder.write("config.json", pointer);
    assert_says(&folder.source(), &["config.json: is a Git LFS pointer"]);
    if let Some(odd) = shared("odd") {
        let pointer = fs::read(odd.join("git_lfs_pointer_model.safetensors")).unwrap();
        weights(&pointer, &["git lfs pull"]);
        let fixture = fs::read(odd.join("tiny_fixture.safetensors")).unwrap();
        weights(&fixture, &["model.safetensors: has 5 bytes after its last tensor"]);
        let config = fs::read(odd.join("pythia410m_seqcls_config.json")).unwrap();
        folder.write("config.json", config);
        assert_says(&folder.source(), &["`GPTNeoXForSequenceClassification` is not supported"]);
    }
}

#[test]
fn damaged_headers() {
    let whole = Tiny::new().safetensors();
    weights(b"", &["model.safetensors: is not a safetensors file"]);
    weights(&whole[..5], &["shorter than 8 bytes"]);
    for length in [1_u64 << 63, u64::MAX, 1 << 40, (32 << 20) + 1] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        weights(&bytes, &["model.safetensors: ", &format!("{length} bytes")]);
    }
    weights(&whole[..100], &["model.safetensors: is truncated: its header has"]);
    let mut bytes = whole.clone();
    bytes[9] = 0xff;
    weights(&bytes, &["model.safetensors: has a damaged header"]);
    let mut bytes = whole.clone();
    bytes[8..12].copy_from_slice(b"[[[[");
    weights(&bytes, &["model.safetensors: has a damaged header"]);
}

#[test]
fn truncated_and_padded_data() {
    let whole = Tiny::new().safetensors();
    weights(
        &whole[..whole.len() - 1],
        &["model.safetensors: tensor `lm_head.weight` lies beyond the end", "download it again"],
    );
    let data = Tiny::new().data().len();
    weights(&whole[..whole.len() - data + 1], &["tensor `model.embed_tokens.weight` lies beyond"]);
    let mut longer = whole;
    longer.extend([0; 3]);
    weights(&longer, &["model.safetensors: has 3 bytes after its last tensor"]);
}

#[test]
fn headers_that_lie_about_their_tensors() {
    let tiny = Tiny::new();
    let name = "model.norm.weight";
    let lie = |change: Value, parts: &[&str]| {
        let mut header = tiny.header();
        for (field, value) in change.as_object().unwrap() {
            header[name][field] = value.clone();
        }
        weights(&file(&header, &tiny.data()), parts);
    };
    let damaged = "model.safetensors: has a damaged header";
    lie(json!({"data_offsets": [0, 64]}), &[damaged]);
    lie(json!({"data_offsets": [1_u64 << 60, (1_u64 << 60) + 64]}), &[damaged]);
    lie(json!({"data_offsets": [64, 0]}), &[damaged]);
    lie(json!({"data_offsets": [-1, 64]}), &[damaged]);
    lie(json!({"data_offsets": [0]}), &[damaged]);
    lie(json!({"shape": [17]}), &[damaged]);
    lie(json!({"shape": [-16]}), &[damaged]);
    lie(json!({"shape": [1_u64 << 62, 1_u64 << 62]}), &[damaged]);
    lie(json!({"shape": null}), &[damaged]);
    lie(json!({"dtype": "F12"}), &[damaged]);
    lie(
        json!({"dtype": "I32"}),
        &["model.safetensors: tensor `model.norm.weight` is stored as I32, which is not supported"],
    );
    // Sizes whose sum overflows 64 bits.
    let mut header = serde_json::Map::new();
    let step = 1_u64 << 61;
    for n in 0..8_u64 {
        let end = if n == 7 { u64::MAX - 3 } else { (n + 1) * step };
        let shape = [(end - n * step) / 4];
        let info = json!({"dtype": "F32", "shape": shape, "data_offsets": [n * step, end]});
        header.insert(format!("t{n}"), info);
    }
    weights(&file(&header, &[0; 64]), &["model.safetensors: "]);
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let file = "model.safetensors: tensor ";
    changed(
        |tiny| tiny.config["vocab_size"] = json!(12),
        &[
            file,
            "`model.embed_tokens.weight` has shape [10, 16], but by the model's configuration it must have [12, 16]",
        ],
    );
    changed(
        |tiny| tiny.config["num_hidden_layers"] = json!(2),
        &[file, "`model.layers.1.input_layernorm.weight` is missing"],
    );
    changed(
        |tiny| tiny.config["attention_bias"] = json!(true),
        &[file, "`model.layers.0.self_attn.q_proj.bias` is missing"],
    );
    changed(|tiny| drop(tiny.tensors.pop()), &[file, "`lm_head.weight` is missing"]);
    changed(|tiny| drop(tiny.tensors.remove(0)), &[file, "`model.embed_tokens.weight` is missing"]);
    changed(
        |tiny| tiny.tensor("model.layers.0.mlp.down_proj.weight").shape = vec![24, 16],
        &[file, "`model.layers.0.mlp.down_proj.weight` has shape [24, 16]"],
    );
    changed(
        |tiny| tiny.tensor("model.layers.0.mlp.down_proj.weight").shape = vec![384],
        &[file, "`model.layers.0.mlp.down_proj.weight` has shape [384]"],
    );
    for bad in [f32::NAN, f32::INFINITY] {
        let name = "model.layers.0.input_layernorm.weight";
        changed(
            |tiny| tiny.tensor(name).bytes[8..12].copy_from_slice(&bad.to_le_bytes()),
            &[file, "`model.layers.0.input_layernorm.weight` contains NaN or infinity"],
        );
    }
}

#[test]
fn shards() {
    let tiny = Tiny::new();
    let (first, second) = tiny.tensors.split_at(5);
    let part = |tensors: &[crate::folder::Stored]| {
        Tiny { config: Value::Null, tensors: tensors.to_vec() }.safetensors()
    };
    let index = "model.safetensors.index.json";
    let names = |tensors: &[crate::folder::Stored], file: &str| -> Vec<(String, Value)> {
        tensors.iter().map(|t| (t.name.clone(), json!(file))).collect()
    };
    let whole: Vec<_> = [names(first, "a.safetensors"), names(second, "b.safetensors")].concat();
    let folder = TempFolder::new();
    folder.write("config.json", tiny.config.to_string());
    let write = |map: &[(String, Value)]| {
        let map: serde_json::Map<_, _> = map.iter().cloned().collect();
        folder.write(index, json!({"metadata": {}, "weight_map": map}).to_string());
    };
    write(&whole);
    folder.write("a.safetensors", part(first));
    assert_says(
        &folder.source(),
        &["b.safetensors: is missing; model.safetensors.index.json lists it"],
    );
    folder.write("b.safetensors", part(second));
    Checkpoint::open(&folder.source()).unwrap();

    let outside = TempFolder::new();
    outside.write("secret.safetensors", part(second));
    let outside_name = outside.0.file_name().unwrap().to_string_lossy();
    for name in [
        format!("../{outside_name}/secret.safetensors"),
        outside.0.join("secret.safetensors").to_string_lossy().into_owned(),
        "sub/b.safetensors".to_owned(),
        "./b.safetensors".to_owned(),
        "b.safetensors/..".to_owned(),
        "..\\b.safetensors".to_owned(),
        "..".to_owned(),
        "b.safetensors\u{0}.safetensors".to_owned(),
        "config.json".to_owned(),
        String::new(),
    ] {
        let mut map = whole.clone();
        map[7].1 = json!(name);
        write(&map);
        let tensor = format!("{index}: tensor `{}` is given the file", tiny.tensors[7].name);
        assert_says(
            &folder.source(),
            &[&tensor, "not the name of a .safetensors file in the same folder"],
        );
    }
    let mut map = whole.clone();
    map[3].1 = json!(5);
    write(&map);
    assert_says(&folder.source(), &[index, &tiny.tensors[3].name]);
    // The index and the files disagree.
    let mut map = whole.clone();
    map[7].1 = json!("a.safetensors");
    write(&map);
    assert_says(&folder.source(), &["a.safetensors: tensor ", &tiny.tensors[7].name, "is missing"]);
    write(&whole[..11]);
    assert_says(&folder.source(), &[index, "`lm_head.weight` is not listed"]);
    folder.write(index, "{\"weight_map\": 3}");
    assert_says(&folder.source(), &[index, "`weight_map`"]);
    folder.write(index, "{");
    assert_says(&folder.source(), &[index, "is not valid JSON"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_because_the_hugging_face_cache_is_made_of_them() {
    let real = Tiny::new().write();
    let links = TempFolder::new();
    for name in ["config.json", "model.safetensors"] {
        std::os::unix::fs::symlink(real.0.join(name), links.0.join(name)).unwrap();
    }
    Checkpoint::open(&links.source()).unwrap();
    fs::remove_file(real.0.join("model.safetensors")).unwrap();
    assert_says(&links.source(), &["model.safetensors: is missing"]);
}

/// Any single byte changed, and any cut: an answer or a refusal, never a panic.
#[test]
fn random_damage_never_panics() {
    let tiny = Tiny::new();
    let whole = tiny.safetensors();
    let header = whole.len() - tiny.data().len();
    let config = tiny.config.to_string();
    let mut random = Random(11);
    let folder = tiny.write();
    for _ in 0..400 {
        let mut bytes = whole.clone();
        let at = random.below(header);
        bytes[at] = u8::try_from(random.below(256)).unwrap();
        if random.below(4) == 0 {
            bytes.truncate(random.below(whole.len()));
        }
        folder.write("model.safetensors", &bytes);
        let _ = Checkpoint::open(&folder.source()).map_err(|e| e.to_string());
    }
    folder.write("model.safetensors", &whole);
    for _ in 0..400 {
        let mut text = config.clone().into_bytes();
        let at = random.below(text.len());
        text[at] = b"0123456789-.eE\"{}[],:truefalsnx"[random.below(31)];
        folder.write("config.json", &text);
        let _ = Checkpoint::open(&folder.source()).map_err(|e| e.to_string());
    }
}

#[test]
fn weights_that_make_nan_fail_the_draw_and_not_the_step() {
    let mut tiny = Tiny::new();
    let nan = f32::NAN.to_le_bytes();
    // Only token 3 carries the NaN.
    tiny.tensor("model.embed_tokens.weight").bytes[3 * 64..3 * 64 + 4].copy_from_slice(&nan);
    let folder = tiny.write();
    let checkpoint = Checkpoint::open(&folder.source()).unwrap();
    let (mut runner, _) = cpu_runner(&checkpoint, &Setup::default());
    let row = |n: usize| Row {
        seq: SeqId(n as u64),
        start: 0,
        tokens: n..n + 1,
        blocks: n..n + 1,
        draws: n..n + 1,
        targets: 0..0,
        first_target: 0,
        target_alternatives: 0,
    };
    let draw = |n: u64| Draw {
        seq: SeqId(n),
        choice: 0,
        position: 1,
        sampling: 0,
        history: 0..0,
        history_prompt: 0,
        banned: 0..0,
        mask: 0..0,
    };
    let plan = StepPlan {
        rows: vec![row(0), row(1)],
        tokens: vec![Token(3), Token(4)],
        blocks: vec![BlockId(0), BlockId(1)],
        draws: vec![draw(0), draw(1)],
        samplings: vec![greedy()],
        ..StepPlan::default()
    };
    let mut out = StepOutput::default();
    runner.execute(&plan, &mut out).unwrap();
    assert_eq!(out.draws[0], Err(DrawFault::NotFinite));
    assert!(out.draws[1].is_ok());
}
