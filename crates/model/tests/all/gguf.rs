//! GGUF files: every kind of weights against the published definitions, and files that are wrong.

use std::path::{Path, PathBuf};

use folio_core::ids::Token;
use folio_kernels::CodeSource;
use folio_model::gguf::BlockMatrix;
use folio_model::{Checkpoint, KvDtype, ModelSource};

use crate::driver::{Random, Setup, open};
use crate::folder::TempFolder;
use crate::gguf_file::{File, KINDS, Value, tiny};
use crate::golden::shared;
use crate::naive::read_weights;
use crate::oracle::{assert_rounded_alike, short_prompts};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf");
    std::fs::read(folder.join(name)).unwrap()
}

/// Blocks of random bits and what the `gguf` package of llama.cpp's makers makes of them (`tests/gguf/make.py`).
#[test]
fn every_kind_is_what_its_definition_says() {
    let mut read = 0;
    for (_, kind) in KINDS.iter().filter(|(_, kind)| kind.codes().is_some()) {
        let bytes = fixture(&format!("{}.blocks", kind.name()));
        let expected = fixture(&format!("{}.f32", kind.name()));
        let (outputs, inputs) = (4, 512);
        let matrix = BlockMatrix::new(*kind, outputs, inputs, &bytes).unwrap();
        assert_eq!((matrix.outputs(), matrix.inputs()), (outputs, inputs));
        let ours = read_weights(&matrix, 0..outputs).concat();
        let theirs = expected.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        assert!(ours.iter().map(|x| x.to_bits()).eq(theirs.map(f32::to_bits)), "{kind:?}");
        read += 1;
    }
    assert_eq!(read, 8);
}

/// Whole models of every kind, alone and mixed with the next, against plain loops over the exact weights.
#[test]
fn whole_models_of_every_kind() {
    let setup = Setup { together: 3, kv_dtype: Some(KvDtype::F32), ..Setup::default() };
    for (i, (number, kind)) in KINDS.iter().enumerate() {
        let (other, _) = KINDS[(i + 1) % KINDS.len()];
        for (other, tied) in [(*number, false), (other, true)] {
            let folder = tiny(*number, other, tied).write();
            let name = format!("{kind:?} and kind {other}");
            assert_rounded_alike(&name, &folder.0, &setup, &short_prompts(40));
        }
    }
}

#[test]
fn ends_and_defaults_come_from_the_metadata() {
    let mut file = tiny(8, 8, true);
    let mut tokens: Vec<String> = (0..40).map(|i| format!("t{i}")).collect();
    let mut kinds = vec![1; 40];
    for (id, text, kind) in [(5, "<|im_end|>", 3), (6, "<|eot_id|>", 1)] {
        text.clone_into(&mut tokens[id]);
        kinds[id] = kind;
    }
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    file.set("tokenizer.ggml.token_type", Value::Ints(kinds));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    file.set("tokenizer.ggml.eot_token_id", Value::U32(7));
    file.set("tokenizer.ggml.eom_token_id", Value::U32(u32::MAX));
    file.set("general.sampling.temp", Value::F32(0.5));
    let folder = file.write();
    let checkpoint = open(&folder.0);
    // What is written like an end but is an ordinary token is none.
    assert_eq!(checkpoint.eos(), [2, 7, 5].map(Token));
    assert_eq!(checkpoint.generation_defaults().temperature, Some(0.5));
    assert!(checkpoint.metadata().is_some());
}

fn refusal(path: PathBuf) -> String {
    Checkpoint::open(&ModelSource::at(path)).expect_err("a refusal").to_string()
}

fn assert_refused(file: &File, parts: &[&str]) {
    assert_bytes_refused(&file.bytes(), parts);
}

fn assert_bytes_refused(bytes: &[u8], parts: &[&str]) {
    let folder = TempFolder::new();
    folder.write("model.gguf", bytes);
    let sentence = refusal(folder.0.join("model.gguf"));
    for part in parts {
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}

#[test]
fn metadata_that_contradicts_itself_or_is_not_served() {
    let changed = |key: &str, value: Value, parts: &[&str]| {
        let mut file = tiny(0, 0, false);
        file.set(key, value);
        assert_refused(&file, parts);
    };
    let text = |text: &str| Value::Text(text.to_owned());
    changed("general.architecture", text("mamba"), &["`mamba`", "not supported", "llama, qwen2"]);
    changed("general.type", text("adapter"), &["general.type", "`adapter`"]);
    changed("general.alignment", Value::U32(0), &["general.alignment"]);
    changed("general.alignment", Value::U32(24), &["general.alignment", "power of two"]);
    changed("llama.block_count", Value::U32(0), &["llama.block_count", "from 1 to"]);
    changed("llama.block_count", Value::U32(2), &["blk.1.", "missing"]);
    changed("llama.block_count", Value::Ints(vec![1]), &["llama.block_count", "[1]"]);
    changed("llama.embedding_length", Value::U32(128), &["shape"]);
    changed("llama.attention.head_count", Value::U32(7), &["head_count"]);
    changed("llama.attention.head_count_kv", Value::U32(3), &["GGUF metadata"]);
    changed("llama.attention.key_length", Value::U32(12), &["head"]);
    changed("llama.attention.value_length", Value::U32(16), &["shape"]);
    changed("llama.expert_count", Value::U32(8), &["expert_count", "mixtures of experts"]);
    changed("llama.rope.scaling.type", text("yarn"), &["rope.scaling.type", "`yarn`"]);
    changed("llama.rope.scaling.type", text("linear"), &["rope.scaling.factor", "missing"]);
    changed("llama.rope.freq_base", Value::F32(f32::NAN), &["rope.freq_base", "NaN"]);
    // Beyond what a number of single precision can say: no angle would be a number.
    changed("llama.rope.freq_base", Value::F32(1e-44), &["GGUF metadata", "angles"]);
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    changed(epsilon, Value::F32(-1.0), &[epsilon]);
    changed("tokenizer.ggml.eos_token_id", Value::U32(40), &["eos_token_id", "40 tokens"]);
    changed("tokenizer.ggml.tokens", Value::U32(40), &["tokenizer.ggml.tokens", "list"]);
}

#[test]
fn headers_that_promise_what_is_not_there() {
    let whole = tiny(8, 8, false).bytes();
    let with = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    assert_bytes_refused(b"", &["does not begin with `GGUF`"]);
    assert_bytes_refused(b"GGUF", &["truncated"]);
    assert_bytes_refused(&with(0, b"GGML"), &["does not begin with `GGUF`"]);
    assert_bytes_refused(&with(4, &1_u32.to_le_bytes()), &["version 1", "2 and 3"]);
    assert_bytes_refused(&with(4, &3_u32.to_be_bytes()), &["big-endian"]);
    for huge in [u64::MAX, 1 << 63, 1 << 40, 1 << 19] {
        assert_bytes_refused(&with(8, &huge.to_le_bytes()), &["promises", "tensors"]);
        assert_bytes_refused(&with(16, &huge.to_le_bytes()), &["promises", "metadata values"]);
        assert_bytes_refused(&with(24, &huge.to_le_bytes()), &["promises", "key"]);
    }
    let list = |kind: u32, count: u64| {
        let bytes = [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
        let mut file = tiny(8, 8, false);
        file.set("x", Value::Any(9, bytes));
        file
    };
    assert_refused(&list(9, 1), &["`x`", "list of lists"]);
    assert_refused(&list(8, u64::MAX), &["promises", "`x`"]);
    assert_refused(&list(10, 1 << 61), &["promises", "`x`"]);
    assert_refused(&list(99, 0), &["`x`", "unknown kind, number 99"]);
    // Two lists of bytes, each of which alone could be read.
    let many =
        [0_u32.to_le_bytes().to_vec(), (3_u64 << 20).to_le_bytes().to_vec(), vec![0; 3 << 20]];
    let mut file = tiny(8, 8, false);
    for key in ["x", "y"] {
        file.set(key, Value::Any(9, many.concat()));
    }
    assert_refused(&file, &["promises", "`y`", "at most 1048576 are read"]);
    let mut file = tiny(8, 8, false);
    file.set("x", Value::Any(13, Vec::new()));
    assert_refused(&file, &["`x`", "unknown kind, number 13"]);
    file.set("x", Value::Any(7, vec![2]));
    assert_refused(&file, &["`x`", "neither true nor false"]);
    file.metadata.push(("x".to_owned(), Value::U32(1)));
    file.metadata.retain(|(key, value)| key != "x" || matches!(value, Value::U32(_)));
    file.metadata.push(("x".to_owned(), Value::U32(2)));
    assert_refused(&file, &["`x`", "twice"]);
}

#[test]
fn tensors_that_are_not_what_they_should_be() {
    let changed = |change: fn(&mut File), parts: &[&str]| {
        let mut file = tiny(8, 8, false);
        change(&mut file);
        assert_refused(&file, parts);
    };
    changed(|file| file.tensors[3].kind = 10, &["`token_embd.weight`", "Q2_K", "Q6_K"]);
    changed(|file| file.tensors[3].kind = 77, &["kind of number 77", "not supported"]);
    changed(|file| file.tensors[3].shape.clear(), &["0 dimensions"]);
    changed(|file| file.tensors[3].shape = vec![1; 5], &["5 dimensions"]);
    changed(|file| file.tensors[3].shape = vec![0, 256], &["a dimension of 0"]);
    changed(|file| file.tensors[3].shape = vec![320, 31], &["rows of 31", "multiples of 32"]);
    changed(|file| file.tensors[3].shape = vec![usize::MAX, 256], &["impossible shape"]);
    changed(|file| file.tensors[3].shape = vec![1 << 40, 32], &["beyond the end"]);
    changed(|file| file.tensors[3].shape[0] += 1, &["overlaps"]);
    changed(|file| file.tensors[3].name = file.tensors[4].name.clone(), &["there twice"]);
    changed(|file| file.tensors[0].name.push('x'), &["`blk.0.attn_norm.weight`", "missing"]);
    changed(|file| drop(file.tensors.remove(3)), &["token_embd.weight", "missing"]);
    changed(|file| file.tensors[0].bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()), &["NaN"]);
    changed(|file| file.floats("rope_freqs.weight", &[16], &[0.0; 16]), &["angles"]);
    let quantised_norm = |file: &mut File| {
        let bytes = vec![0; 272];
        (file.tensors[0].kind, file.tensors[0].bytes) = (8, bytes);
    };
    changed(quantised_norm, &["Q8_0", "norms and biases"]);
}

/// Cut anywhere, changed anywhere: a sentence or a model, never a panic.
#[test]
fn damaged_files_never_panic() {
    let whole = tiny(8, 2, true).bytes();
    let folder = TempFolder::new();
    let path = folder.0.join("model.gguf");
    let random = &mut Random(3);
    for _ in 0..300 {
        let mut bytes = whole.clone();
        if random.below(2) == 0 {
            bytes.truncate(random.below(whole.len()));
            std::fs::write(&path, &bytes).unwrap();
            refusal(path.clone());
            continue;
        }
        for _ in 0..=random.below(3) {
            let at = random.below(1200);
            bytes[at] = (random.next() & 0xFF) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        let _ = Checkpoint::open(&ModelSource::at(path.clone()));
    }
}

#[test]
fn folders_and_parts() {
    let folder = TempFolder::new();
    let bytes = tiny(8, 8, false).bytes();
    folder.write("a.gguf", &bytes);
    assert_eq!(open(&folder.0).name(), "a");
    // Beside the language model, not one of its own.
    folder.write("mmproj-a.gguf", &bytes);
    assert_eq!(open(&folder.0).name(), "a");
    folder.write("b.gguf", &bytes);
    let sentence = refusal(folder.0.clone());
    assert!(sentence.contains("one of 2") && sentence.contains("a.gguf, b.gguf"), "{sentence}");
    assert_eq!(open(&folder.0.join("b.gguf")).name(), "b");
    folder.write("c-00001-of-00002.gguf", &bytes);
    let sentence = refusal(folder.0.join("c-00001-of-00002.gguf"));
    assert!(sentence.contains("c-00002-of-00002.gguf: is missing"), "{sentence}");
    folder.write("c-00002-of-00002.gguf", &bytes);
    let sentence = refusal(folder.0.join("c-00002-of-00002.gguf"));
    assert!(sentence.contains("is in c-00001-of-00002.gguf too"), "{sentence}");
}

#[test]
fn odd_files_are_refused_in_a_sentence() {
    let Some(folder) = shared("odd") else { return };
    for (name, parts) in [
        ("nanogpt_nonstandard.gguf", &["a tensor has no name"][..]),
        ("tiny_fixture.gguf", &["tiny_fixture.gguf"]),
    ] {
        let sentence = refusal(folder.join(name));
        println!("{name}: {sentence}");
        assert!(parts.iter().any(|part| sentence.contains(part)), "{sentence}");
    }
}
