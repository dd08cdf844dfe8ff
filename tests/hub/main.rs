//! Models from a hub, as a user has them: pulled, interrupted, resumed, refused, found again without a network.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod server;
mod tls;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Server;
use server::{COMMIT, Content, Hub, git_sha1, sha256};

pub(crate) const MODEL: &str = "org/name";
/// An address where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1";

/// What whoever runs the tests may have set.
const FOREIGN: [&str; 12] = [
    "HF_HUB_CACHE",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "HF_TOKEN_PATH",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "no_proxy",
];

/// A user's machine: a cache folder, and commands that run with it.
pub(crate) struct Machine {
    pub(crate) home: PathBuf,
}

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let home = std::env::temp_dir().join(format!("folio-hub-{name}-{}", std::process::id()));
        fs::create_dir(&home).unwrap();
        Self { home }
    }

    fn model(&self) -> PathBuf {
        self.home.join("hub/models--org--name")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.model().join("snapshots").join(COMMIT)
    }

    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        self.model().join("blobs").join(name)
    }

    pub(crate) fn environment<'a>(&'a self, endpoint: &'a str) -> [(&'a str, &'a str); 3] {
        let home = self.home.to_str().unwrap();
        [("HF_HOME", home), ("HF_ENDPOINT", endpoint), ("NO_PROXY", "*")]
    }

    /// Runs folio with these arguments and these further variables.
    pub(crate) fn run(
        &self,
        endpoint: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.args(arguments).envs(self.environment(endpoint)).envs(variables.iter().copied());
        command.current_dir(&self.home).output().expect("it runs")
    }

    /// Pulls, which must succeed, and returns the path that is printed and what is said.
    pub(crate) fn pull(&self, hub: &Hub, model: &str) -> (PathBuf, String) {
        succeeded(&self.run(&hub.url, &["pull", model], &[]))
    }

    /// Pulls, which must fail, and returns what is said.
    pub(crate) fn refusal(&self, hub: &Hub, arguments: &[&str]) -> String {
        failed(&self.run(&hub.url, &[&["pull"], arguments].concat(), &[]))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.home);
    }
}

pub(crate) fn succeeded(output: &Output) -> (PathBuf, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let path = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    (path.into(), said)
}

pub(crate) fn failed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

/// The built-in model as a hub would have it, beside files that nobody needs.
pub(crate) fn demo() -> Content {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let mut content = Content::default();
    for name in names {
        content.files.insert(name.to_owned(), fs::read(folder.join(name)).unwrap());
    }
    for name in ["README.md", "pytorch_model.bin", "onnx/model.onnx"] {
        content.files.insert(name.to_owned(), b"not wanted".to_vec());
    }
    content
}

/// Large contents that are cheap to send.
pub(crate) fn bytes(seed: u8) -> Vec<u8> {
    (0..30_000_u32).map(|i| u8::try_from(i % 251).unwrap() ^ seed).collect()
}

/// A model of one large file.
pub(crate) fn one_gguf() -> Content {
    let mut content = Content::default();
    content.files.insert("name.gguf".to_owned(), bytes(0));
    content
}

const ASK: [&str; 6] = ["--temperature", "0", "--max-tokens", "8", "--quick", "Once upon a time"];

#[test]
fn a_model_is_pulled_served_and_found_again_without_a_network() {
    let (machine, hub) = (Machine::new("pull"), Hub::start(demo()));
    let (path, _) = machine.pull(&hub, MODEL);
    assert_eq!(path, machine.snapshot());
    let content = demo();
    let mut there: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    let wanted = content
        .files
        .keys()
        .filter(|name| name.ends_with(".json") || name.ends_with(".safetensors"));
    assert_eq!(there, wanted.cloned().collect::<Vec<_>>());
    // As the Python library lays it out.
    let config = &content.files["config.json"];
    let target = fs::read_link(path.join("config.json")).unwrap();
    assert_eq!(target, Path::new("../../blobs").join(git_sha1(config)));
    let weights = &content.files["model.safetensors"];
    assert_eq!(fs::read(machine.blob(&sha256(weights))).unwrap(), *weights);
    assert_eq!(fs::read_to_string(machine.model().join("refs/main")).unwrap(), COMMIT);
    hub.seen();

    // Once more: one question, no contents.
    assert_eq!(machine.pull(&hub, MODEL).0, path);
    assert_eq!(hub.seen().len(), 1);
    let story =
        succeeded(&machine.run(&hub.url, &[&["complete", MODEL], &ASK[..]].concat(), &[])).0;
    let builtin = succeeded(&machine.run(NOWHERE, &[&["complete"], &ASK[..]].concat(), &[])).0;
    assert_eq!(story, builtin);
    // Offline, nobody is asked.
    hub.seen();
    let offline = machine.run(&hub.url, &["pull", MODEL], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(succeeded(&offline).0, path);
    assert!(hub.seen().is_empty());
    // When the hub is away, the cache serves.
    let (found, said) = succeeded(&machine.run(NOWHERE, &["pull", MODEL], &[]));
    assert_eq!(found, path);
    assert!(said.contains("cache") && said.contains(NOWHERE), "{said}");
    let commit = machine.run(NOWHERE, &["pull", MODEL, "--revision", COMMIT], &[]);
    assert_eq!(succeeded(&commit).1, "");
}

#[test]
fn a_server_takes_the_name_of_the_hub() {
    let (machine, hub) = (Machine::new("serve"), Hub::start(demo()));
    let server = Server::start_in(&[MODEL], &machine.environment(&hub.url));
    let (status, models) = server.get("/v1/models");
    assert!(status == 200 && models.contains("\"org/name\""), "{models}");
    server.stop();
}

#[test]
fn a_branch_is_remembered_by_its_name() {
    let (machine, hub) = (Machine::new("branch"), Hub::start(one_gguf()));
    let pull = ["pull", MODEL, "--revision", "v1.0/rc"];
    let (path, _) = succeeded(&machine.run(&hub.url, &pull, &[]));
    assert_eq!(path, machine.snapshot().join("name.gguf"));
    assert_eq!(fs::read_to_string(machine.model().join("refs/v1.0/rc")).unwrap(), COMMIT);
    assert_eq!(succeeded(&machine.run(NOWHERE, &pull, &[])).0, path);
    let unknown = machine.refusal(&hub, &[MODEL, "--revision", "v2"]);
    assert!(unknown.contains("no revision \"v2\""), "{unknown}");
}

#[test]
fn a_lost_connection_is_resumed_where_it_broke() {
    let (machine, hub) = (Machine::new("cut"), Hub::start(one_gguf()));
    hub.change(|content| content.cuts = 2);
    let (path, said) = machine.pull(&hub, MODEL);
    assert_eq!(fs::read(path).unwrap(), bytes(0));
    assert!(said.contains("15000 of 30000"), "{said}");
    let contents: Vec<_> = hub.seen().into_iter().filter(|seen| !seen.to_hub).collect();
    let ranges: Vec<_> = contents.iter().map(|seen| seen.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=15000-"), Some("bytes=22500-")]);
}

#[test]
fn a_connection_that_brings_nothing_is_given_up_and_resumed() {
    let (machine, hub) = (Machine::new("stall"), Hub::start(one_gguf()));
    hub.change(|content| content.stalls = 1);
    let soon = [("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    let (path, said) = succeeded(&machine.run(&hub.url, &["pull", MODEL], &soon));
    assert_eq!(fs::read(path).unwrap(), bytes(0));
    assert!(said.contains("15000 of 30000"), "{said}");
}

#[test]
fn what_an_ended_process_left_is_used_if_it_is_sound() {
    /// What lies there, whether the server knows ranges, and the ranges that are asked for.
    type Case<'a> = (&'a [u8], bool, &'a [Option<&'a str>]);
    let (whole, etag) = (bytes(0), sha256(&bytes(0)));
    let damaged = [&[7; 10], &whole[10..20_000]].concat();
    let cases: [Case<'_>; 5] = [
        (&whole[..20_000], false, &[Some("bytes=20000-")]),
        (&whole[..20_000], true, &[Some("bytes=20000-")]),
        (&whole, false, &[]),
        (&damaged, false, &[Some("bytes=20000-"), None]),
        (&[whole.as_slice(), b"more"].concat(), false, &[None]),
    ];
    for (index, (left, rangeless, expected)) in cases.into_iter().enumerate() {
        let machine = Machine::new(&format!("left-{index}"));
        let hub = Hub::start(Content { rangeless, ..one_gguf() });
        let incomplete = machine.blob(&format!("{etag}.incomplete"));
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(&incomplete, left).unwrap();
        let (path, _) = machine.pull(&hub, MODEL);
        assert_eq!(fs::read(path).unwrap(), whole, "case {index}");
        assert!(!incomplete.exists(), "case {index}");
        let contents: Vec<_> = hub.seen().into_iter().filter(|seen| !seen.to_hub).collect();
        let ranges: Vec<_> = contents.iter().map(|seen| seen.range.as_deref()).collect();
        assert_eq!(ranges, expected, "case {index}");
    }
}

#[test]
fn two_processes_fetch_a_file_once() {
    let (machine, hub) = (Machine::new("two"), Hub::start(one_gguf()));
    std::thread::scope(|scope| {
        let pulls = [(); 3].map(|()| scope.spawn(|| machine.pull(&hub, MODEL).0));
        for path in pulls.map(|pull| pull.join().unwrap()) {
            assert_eq!(fs::read(path).unwrap(), bytes(0));
        }
    });
    assert_eq!(hub.seen().iter().filter(|seen| !seen.to_hub).count(), 1);
}

#[test]
fn a_gated_model_says_what_to_do_and_the_token_stays_with_the_hub() {
    let (machine, hub) = (Machine::new("gate"), Hub::start(one_gguf()));
    hub.change(|content| content.gate = Some("hf_secret".to_owned()));
    let said = machine.refusal(&hub, &[MODEL]);
    let page = format!("{}/org/name", hub.url);
    assert!(said.contains(&page) && said.contains("HF_TOKEN"), "{said}");
    let wrong = failed(&machine.run(&hub.url, &["pull", MODEL], &[("HF_TOKEN", "hf_wrong")]));
    assert!(wrong.contains("no access") && !wrong.contains("hf_wrong"), "{wrong}");
    let odd = failed(&machine.run(&hub.url, &["pull", MODEL], &[("HF_TOKEN", "a b")]));
    assert!(odd.contains("HF_TOKEN"), "{odd}");
    hub.seen();
    // From the file that the Python tool writes.
    fs::write(machine.home.join("token"), "hf_secret\n").unwrap();
    machine.pull(&hub, MODEL);
    let seen = hub.seen();
    assert!(seen.iter().any(|seen| !seen.to_hub && seen.authorization.is_none()));
    for seen in seen {
        let expected = seen.to_hub.then_some("Bearer hf_secret");
        assert_eq!(seen.authorization.as_deref(), expected, "{} {}", seen.method, seen.path);
    }
}

#[test]
fn one_gguf_of_several_is_found_by_name_or_end() {
    let names = [
        "m-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "x/m-F16-00001-of-00002.gguf",
        "x/m-F16-00002-of-00002.gguf",
    ];
    let mut content = Content::default();
    for (seed, name) in (0..).zip(names) {
        content.files.insert(name.to_owned(), bytes(seed));
    }
    let (machine, hub) = (Machine::new("gguf"), Hub::start(content));
    let said = machine.refusal(&hub, &[MODEL]);
    assert!(said.contains("org/name:m-Q8_0.gguf") || said.contains("m-Q8_0.gguf"), "{said}");
    for pick in ["Q8_0", "m-Q8_0.gguf"] {
        let (path, _) = machine.pull(&hub, &format!("{MODEL}:{pick}"));
        assert_eq!(path, machine.snapshot().join("m-Q8_0.gguf"));
        assert_eq!(fs::read(path).unwrap(), bytes(1));
    }
    assert!(!machine.snapshot().join("m-Q4_K_M.gguf").exists());
    let (path, _) = machine.pull(&hub, "org/name:F16");
    assert_eq!(path, machine.snapshot().join(names[2]));
    assert_eq!(fs::read(machine.snapshot().join(names[3])).unwrap(), bytes(3));
    let missing = machine.refusal(&hub, &["org/name:Q5_K"]);
    assert!(missing.contains("m-Q4_K_M.gguf"), "{missing}");
}

#[test]
fn parts_with_the_same_contents_are_fetched_and_counted_once() {
    let mut content = Content::default();
    for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        content.files.insert(name.to_owned(), bytes(0));
    }
    let (machine, hub) = (Machine::new("same"), Hub::start(content));
    let (path, said) = machine.pull(&hub, MODEL);
    assert!(said.contains("1 file, 29.30 KiB"), "{said}");
    assert_eq!(fs::read(path.with_file_name("m-00002-of-00002.gguf")).unwrap(), bytes(0));
    assert_eq!(hub.seen().iter().filter(|seen| !seen.to_hub).count(), 1);
}

#[test]
fn shards_are_those_of_the_index() {
    let mut content = Content::default();
    let index = r#"{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}"#;
    content.files.insert("config.json".to_owned(), b"{}".to_vec());
    content.files.insert("model.safetensors.index.json".to_owned(), index.into());
    for (seed, name) in
        [(1, "part-1.safetensors"), (2, "part-2.safetensors"), (3, "consolidated.safetensors")]
    {
        content.files.insert(name.to_owned(), bytes(seed));
    }
    let (machine, hub) = (Machine::new("shards"), Hub::start(content));
    let (path, _) = machine.pull(&hub, MODEL);
    assert_eq!(fs::read(path.join("part-2.safetensors")).unwrap(), bytes(2));
    assert!(!path.join("consolidated.safetensors").exists());
    // A snapshot that lacks a shard is not served from the cache.
    fs::remove_file(path.join("part-2.safetensors")).unwrap();
    let said = failed(&machine.run(NOWHERE, &["pull", MODEL], &[("HF_HUB_OFFLINE", "1")]));
    assert!(said.contains("part-2.safetensors"), "{said}");
    machine.pull(&hub, MODEL);
}

#[test]
fn what_cannot_be_a_model_is_told_from_what_is_not_there() {
    let (machine, hub) = (Machine::new("typo"), Hub::start(demo()));
    let said = machine.refusal(&hub, &["org/nmae"]);
    assert!(said.contains("org/nmae") && said.contains("spelling"), "{said}");
    let serve = |model: &str, more: &[&str]| {
        let arguments = [&["complete", model, "--quick", "Hi"], more].concat();
        failed(&machine.run(&hub.url, &arguments, &[]))
    };
    assert!(serve("no/such/folder", &[]).contains("no/such/folder"));
    assert!(serve("nothing", &[]).contains("ORG/NAME"));
    assert!(serve("org/nmae", &[]).contains("no file or folder org/nmae here"));
    assert!(serve(".", &["--revision", "main"]).contains("--revision"));
    assert!(machine.refusal(&hub, &["org/name", "--revision", "../x"]).contains("--revision"));
    let pull = ["pull", MODEL];
    let offline = failed(&machine.run(&hub.url, &pull, &[("HF_HUB_OFFLINE", "1")]));
    assert!(offline.contains("HF_HUB_OFFLINE"), "{offline}");
    let away = failed(&machine.run(NOWHERE, &pull, &[]));
    assert!(away.contains(NOWHERE) && away.contains("HF_ENDPOINT"), "{away}");
    for (name, value) in [
        ("HF_ENDPOINT", "ftp://x"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
        ("SSL_CERT_FILE", "/none"),
    ] {
        let said = failed(&machine.run(&hub.url, &pull, &[(name, value)]));
        assert!(said.contains(name) && said.contains(value), "{said}");
    }
}
