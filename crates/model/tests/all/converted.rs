//! Converted models: the same tokens and log-probabilities, bit for bit, as the model they were made from, and refusals where
//! a file cannot be what it says.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use folio_model::{
    Checkpoint, Conversion, Dtype, Isa, MemoryPlan, ModelError, ModelSource, Quantization, convert,
};

use crate::driver::{Driver, Job, Outcome, Setup, cpu_runner, open, request};
use crate::golden::{shared, zoo};

const FILE: &str = "folio-packed.bin";

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("folio-convert-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn conversion(dtype: Option<Dtype>, quantization: Option<Quantization>) -> Conversion {
    Conversion { dtype, quantization, threads: 2, isa: Isa::detect() }
}

fn converted(name: &str, model: &Path, how: &Conversion) -> (Folder, Checkpoint) {
    let folder = Folder::new(name);
    let mut last = None;
    convert(&open(model), how, &folder.0, &mut |progress| {
        last = Some(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    let last = last.unwrap();
    assert_eq!(last.done, last.total);
    let checkpoint = open(&folder.0);
    (folder, checkpoint)
}

/// Tokens and the bits of all log-probabilities of a few prompts.
fn outcome(checkpoint: &Checkpoint, setup: &Setup) -> (Vec<Vec<u32>>, Vec<u32>) {
    let vocab = u32::try_from(checkpoint.spec().vocab).unwrap();
    let jobs: Vec<Job> = (0..3_u32)
        .map(|seed| {
            let prompt: Vec<u32> =
                (0..20).map(|i| (i * 31 + 7 * seed + 5) % vocab.min(96)).collect();
            Job::greedy(&prompt, 6)
        })
        .collect();
    let (mut runner, plan) = cpu_runner(checkpoint, setup);
    let outcomes = Driver::new(&mut runner, &plan, 3).run(&jobs, setup);
    let bits = outcomes.iter().flat_map(|o| &o.prompt_scores).map(|s| s.logprob.to_bits());
    let bits = bits.collect();
    (outcomes.iter().map(Outcome::ids).collect(), bits)
}

fn assert_same(name: &str, model: &Path, dtype: Option<Dtype>, quantization: Option<Quantization>) {
    let original = open(model);
    let setup = Setup { dtype, quantization, together: 3, ..Setup::default() };
    let (_folder, copy) = converted(name, model, &conversion(dtype, quantization));
    let plain = Setup { dtype: None, quantization: None, ..setup };
    assert_eq!(outcome(&original, &setup), outcome(&copy, &plain), "{name}");
    let bytes = |checkpoint, setup| {
        let plan = MemoryPlan::compute(checkpoint, &request(setup)).unwrap();
        (plan.weight_bytes, plan.weights, plan.dtype, plan.kv_dtype)
    };
    assert_eq!(bytes(&original, &setup), bytes(&copy, &plain), "{name}");
    assert_eq!(copy.eos(), original.eos());
    assert_eq!(copy.generation_defaults(), original.generation_defaults());
}

#[test]
fn every_family_gives_the_same_bits() {
    for family in ["gemma2", "gpt2", "gpt-neox", "phi", "phi3", "qwen2", "qwen3", "opt"] {
        let model = zoo(family);
        if model.is_dir() {
            assert_same(family, &model, None, None);
        }
    }
}

#[test]
fn every_kind_of_weights_gives_the_same_bits() {
    let kinds = [
        ("f16", Some(Dtype::F16), None),
        ("bf16", Some(Dtype::Bf16), None),
        ("int8", None, Some(Quantization::Int8)),
        ("int4", None, Some(Quantization::Int4 { group: 128 })),
        ("int4-g32", Some(Dtype::Bf16), Some(Quantization::Int4 { group: 32 })),
    ];
    for (name, dtype, quantization) in kinds {
        assert_same(name, &zoo("gemma2"), dtype, quantization);
        assert_same(name, &zoo("gpt2"), dtype, quantization);
    }
}

#[test]
fn a_gguf_model_gives_the_same_bits() {
    let Some(folder) = shared("gguf") else { return };
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "gguf"))
        .collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if Checkpoint::open(&ModelSource::at(file.clone())).is_ok() {
            assert_same(&name, &file, None, None);
        }
    }
}

fn refusal(folder: &Path) -> String {
    match Checkpoint::open(&ModelSource::at(folder.to_owned())) {
        Ok(_) => panic!("{folder:?} is served"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_damaged_is_refused() {
    let (folder, checkpoint) = converted("damaged", &zoo("qwen2"), &conversion(None, None));
    drop(checkpoint);
    let path = folder.0.join(FILE);
    let sound = fs::read(&path).unwrap();
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let said = refusal(&folder.0);
        assert!(said.contains(FILE) && said.contains(expected), "{expected}: {said}");
        assert!(said.contains("convert the"), "{said}");
    };
    check(&|bytes| bytes.clear(), "truncated");
    check(&|bytes| bytes.truncate(20), "truncated");
    check(&|bytes| bytes.truncate(bytes.len() - 1), "truncated");
    check(&|bytes| bytes.truncate(4000), "damaged");
    check(&|bytes| bytes.push(0), "truncated or damaged");
    check(&|bytes| bytes[0] ^= 1, "not a converted model");
    check(&|bytes| bytes[8] += 1, "layout 2");
    check(&|bytes| bytes[16..24].fill(0xFF), "too short for its header");
    check(&|bytes| bytes[40] ^= 1, "checksum");
}

fn header_length(file: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(file[16..24].try_into().unwrap())).unwrap()
}

fn content_start(file: &[u8]) -> usize {
    (32 + header_length(file)).next_multiple_of(4096)
}

/// Whoever changes how packed matrices lie changes what converted files mean, and must change the version in `converted`, too:
/// then the folio that comes after refuses files of the one before.
#[test]
fn the_layout_is_that_of_its_version() {
    let kinds = [
        (Some(Dtype::F32), None, 1_042_452_138_625_451_741),
        (Some(Dtype::Bf16), None, 17_261_728_710_860_207_326),
        (None, Some(Quantization::Int8), 10_019_672_627_659_091_356),
        (None, Some(Quantization::Int4 { group: 32 }), 11_043_750_125_542_092_163),
    ];
    let found = kinds.map(|(dtype, quantization, _)| {
        let (folder, _) = converted("layout", &zoo("qwen2"), &conversion(dtype, quantization));
        let file = fs::read(folder.0.join(FILE)).unwrap();
        xxhash_rust::xxh3::xxh3_64(&file[content_start(&file)..])
    });
    assert_eq!(found, kinds.map(|(.., expected)| expected), "version 1 is another layout");
}

/// A header that is intact and says something else.
#[test]
fn what_contradicts_itself_or_the_configuration_is_refused() {
    let (folder, checkpoint) = converted("contrary", &zoo("qwen2"), &conversion(None, None));
    drop(checkpoint);
    let path = folder.0.join(FILE);
    let sound = fs::read(&path).unwrap();
    let (length, content) = (header_length(&sound), content_start(&sound));
    let header: serde_json::Value = serde_json::from_slice(&sound[32..32 + length]).unwrap();
    let matrix = |field: &str, value: serde_json::Value| {
        let mut header = header.clone();
        header["matrices"]["layers.0.up"][field] = value;
        header
    };
    let codes = |bits: u8, group: serde_json::Value, scaling: &str| {
        let codes =
            serde_json::json!({"name": "x", "bits": bits, "group": group, "scaling": scaling});
        matrix("parts", serde_json::json!([{"outputs": 64, "format": {"codes": codes}}]))
    };
    let most = u64::MAX / 64 * 64;
    let mut without = header.clone();
    without["vectors"].as_object_mut().unwrap().remove("final_norm.weight");
    let mut vector = header.clone();
    vector["vectors"]["final_norm.weight"]["length"] = u64::MAX.into();
    let mut kind = header.clone();
    kind["dtype"] = "float16".into();
    let mut more = header.clone();
    more["surprise"] = 1.into();
    let cases = [
        (matrix("start", 1.into()), "layers.0.up"),
        (matrix("start", most.into()), "layers.0.up"),
        (matrix("inputs", 0.into()), "layers.0.up"),
        (matrix("inputs", u64::MAX.into()), "layers.0.up"),
        (matrix("gated", false.into()), "layers.0.up"),
        (matrix("parts", serde_json::json!([])), "layers.0.up"),
        (codes(8, 0.into(), "centred"), "layers.0.up"),
        (codes(3, 32.into(), "centred"), "layers.0.up"),
        (codes(4, 100.into(), "nested_minima"), "layers.0.up"),
        (codes(4, serde_json::Value::Null, "nested_centred"), "layers.0.up"),
        (codes(8, (1 << 20).into(), "centred"), "layers.0.up"),
        (without, "final_norm.weight"),
        (vector, "final_norm.weight"),
        (kind, "cannot be a matrix"),
        (more, "surprise"),
        (serde_json::json!([1]), "damaged"),
    ];
    for (header, expected) in cases {
        let json = serde_json::to_vec(&header).unwrap();
        let mut bytes = sound[..8].to_vec();
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend((json.len() as u64).to_le_bytes());
        bytes.extend(xxhash_rust::xxh3::xxh3_64(&json).to_le_bytes());
        bytes.extend(&json);
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes.extend(&sound[content..]);
        fs::write(&path, bytes).unwrap();
        let said = refusal(&folder.0);
        assert!(said.contains(expected) && said.contains(FILE), "{expected}: {said}");
    }
}

#[test]
fn a_converted_model_cannot_be_changed_and_nothing_is_overwritten() {
    let model = zoo("qwen2");
    let how = conversion(None, Some(Quantization::Int8));
    let (folder, copy) = converted("again", &model, &how);
    let refused = |setup: Setup| match MemoryPlan::compute(&copy, &request(&setup)) {
        Ok(_) => panic!("it is planned"),
        Err(error) => error.to_string(),
    };
    let quantised = Setup { quantization: Some(Quantization::Int8), ..Setup::default() };
    assert!(refused(quantised).contains("--quantization"));
    let half = Setup { dtype: Some(Dtype::F16), ..Setup::default() };
    assert!(refused(half).contains("--dtype"));
    let same = Setup { dtype: Some(copy.stored_dtype()), ..Setup::default() };
    MemoryPlan::compute(&copy, &request(&same)).unwrap();
    let fails = |checkpoint: &Checkpoint, out: &Path| -> ModelError {
        convert(checkpoint, &how, out, &mut |_| ControlFlow::Continue(())).unwrap_err()
    };
    let there = fails(&open(&model), &folder.0).to_string();
    assert!(there.contains("there already"), "{there}");
    let twice = fails(&copy, &folder.0.join("new")).to_string();
    assert!(twice.contains("already") && !folder.0.join("new").exists(), "{twice}");
}

#[test]
fn a_folder_may_be_written_with_a_slash_or_be_there_behind_a_link_or_empty() {
    let (model, how) = (open(&zoo("qwen2")), conversion(None, None));
    let folder = Folder::new("places");
    fs::create_dir_all(folder.0.join("empty")).unwrap();
    fs::create_dir_all(folder.0.join("behind")).unwrap();
    std::os::unix::fs::symlink(folder.0.join("behind"), folder.0.join("link")).unwrap();
    for out in ["new/", "deep/er/", "empty/", "link", "dotted/."] {
        let out = folder.0.join(out);
        convert(&model, &how, &out, &mut |_| ControlFlow::Continue(())).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let expected = [
            "config.json",
            FILE,
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names, expected, "{}", out.display());
        open(&out);
    }
}

#[test]
fn what_is_stopped_leaves_nothing_behind() {
    let (model, how) = (open(&zoo("qwen2")), conversion(None, None));
    let folder = Folder::new("stopped");
    fs::create_dir_all(folder.0.join("empty")).unwrap();
    for (out, left) in [("new", false), ("empty", true)] {
        let out = folder.0.join(out);
        for steps in [1, 3] {
            let mut told = 0;
            let stopped = convert(&model, &how, &out, &mut |_| {
                told += 1;
                if told == steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(stopped.unwrap_err().to_string().contains("stopped"), "{}", out.display());
            assert_eq!(out.exists(), left, "{}", out.display());
            assert!(!left || fs::read_dir(&out).unwrap().next().is_none(), "{}", out.display());
        }
    }
}

/// The files under a folder, by their paths in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_a_killed_conversion_left_is_cleared_and_nothing_else_is() {
    let (model, how) = (open(&zoo("qwen2")), conversion(None, None));
    let (running, killed) = (Folder::new("running"), Folder::new("killed"));
    let go_on = &mut |_| ControlFlow::Continue(());
    let partial = killed.0.join(".partial");
    let mut told = 0;
    convert(&model, &how, &running.0, &mut |_| {
        told += 1;
        if told == 3 {
            let second = convert(&model, &how, &running.0, &mut |_| ControlFlow::Continue(()));
            let said = second.unwrap_err().to_string();
            assert!(said.contains("another conversion"), "{said}");
            // What is left of a process that is killed now: its files, and nobody who holds the lock.
            fs::create_dir_all(&partial).unwrap();
            for file in files(&running.0.join(".partial")) {
                fs::copy(&file, partial.join(file.file_name().unwrap())).unwrap();
            }
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    fs::write(partial.join("half.tmp"), "left").unwrap();
    convert(&model, &how, &killed.0, go_on).unwrap();
    let written = |folder: &Path| {
        let mut all: Vec<_> = files(folder)
            .into_iter()
            .map(|file| (file.file_name().unwrap().to_owned(), fs::read(&file).unwrap()))
            .collect();
        all.sort();
        all
    };
    assert_eq!(written(&running.0), written(&killed.0));

    // Killed before it had written anything.
    let early = Folder::new("early");
    fs::create_dir_all(early.0.join(".partial")).unwrap();
    convert(&model, &how, &early.0, go_on).unwrap();
    assert_eq!(written(&running.0), written(&early.0));

    // A folder of that name that no conversion made, and one with a file beside it, are left alone.
    for (name, file) in [("theirs", ".partial/notes"), ("beside", "notes")] {
        let folder = Folder::new(name);
        fs::create_dir_all(folder.0.join(".partial")).unwrap();
        fs::write(folder.0.join(file), "mine").unwrap();
        let said = convert(&model, &how, &folder.0, go_on).unwrap_err().to_string();
        assert!(said.contains("there already"), "{said}");
        assert_eq!(fs::read(folder.0.join(file)).unwrap(), b"mine");
    }
}
