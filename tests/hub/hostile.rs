//! A hub, or somebody between, who means harm or is broken: nothing is written outside the cache, nothing grows without
//! bound, and nothing wrong is taken for the model.

use std::fs;

use crate::server::{COMMIT, Content, Hub, sha256};
use crate::{Machine, bytes, demo, one_gguf};

#[test]
fn contents_that_differ_from_their_checksum_are_not_kept() {
    let (machine, hub) = (Machine::new("corrupt"), Hub::start(one_gguf()));
    hub.change(|content| content.corrupt = true);
    let said = machine.refusal(&hub, &["org/name"]);
    assert!(said.contains("name.gguf") && said.contains("checksum"), "{said}");
    let etag = sha256(&bytes(0));
    assert!(!machine.blob(&etag).exists() && !machine.blob(&format!("{etag}.incomplete")).exists());
    assert!(!machine.snapshot().exists());
    hub.change(|content| content.corrupt = false);
    machine.pull(&hub, "org/name");
}

#[test]
fn a_small_file_is_checked_as_git_names_it() {
    let (machine, hub) = (Machine::new("small"), Hub::start(demo()));
    hub.change(|content| {
        content.files.insert("config.json".to_owned(), b"{}".to_vec());
        content.wrong_small_etag = true;
    });
    let said = machine.refusal(&hub, &["org/name"]);
    assert!(said.contains("config.json") && said.contains("checksum"), "{said}");
}

/// What is done to the hub, and a word of what a user is told.
type Case = (&'static str, fn(&mut Content), &'static str);

#[test]
fn what_cannot_be_believed_is_refused() {
    let cases: &[Case] = &[
        ("overlong", |hub| hub.overlong = true, "more than the 30000 bytes"),
        ("circle", |hub| hub.circle = true, "redirects"),
        ("etag", |hub| hub.etag = Some("../../../evil".to_owned()), "evil"),
        ("huge", |hub| hub.announced = Some(1 << 60), "are missing; make room"),
        ("sha", |hub| hub.info = Some(r#"{"sha": "../x", "siblings": []}"#.to_owned()), "commit"),
        ("html", |hub| hub.info = Some("<html>".to_owned()), "cannot be read"),
        ("nothing", |hub| hub.info = Some("{}".to_owned()), "sha"),
        ("flood", |hub| hub.info = Some(" ".repeat(17 << 20)), "org/name"),
        ("deep", |hub| hub.info = Some("[".repeat(1 << 20)), "cannot be read"),
        ("empty", |hub| hub.files.clear(), "no GGUF"),
        ("outside", |hub| outside(hub, "../../name.gguf"), "no GGUF"),
        ("absolute", |hub| outside(hub, "/name.gguf"), "no GGUF"),
        ("windows", |hub| outside(hub, "..\\name.gguf"), "no GGUF"),
        ("promised", |hub| outside(hub, "name.gguf"), "no file name.gguf"),
    ];
    for (name, harm, expected) in cases {
        let (machine, hub) = (Machine::new(name), Hub::start(one_gguf()));
        hub.change(harm);
        let said = machine.refusal(&hub, &["org/name"]);
        assert!(said.contains(expected), "{name}: {said}");
        assert!(!machine.snapshot().join("name.gguf").exists(), "{name}");
    }
}

fn outside(hub: &mut Content, path: &str) {
    hub.files.clear();
    hub.listed.push(path.to_owned());
}

#[test]
fn an_index_cannot_lead_outside() {
    let (machine, hub) = (Machine::new("index"), Hub::start(Content::default()));
    hub.change(|content| {
        let index = br#"{"weight_map": {"t": "../../../../secret.safetensors"}}"#.to_vec();
        content.files.insert("config.json".to_owned(), b"{}".to_vec());
        content.files.insert("model.safetensors.index.json".to_owned(), index);
    });
    let said = machine.refusal(&hub, &["org/name"]);
    assert!(said.contains("secret.safetensors"), "{said}");
    assert_eq!(fs::read_dir(machine.snapshot()).unwrap().count(), 2, "{COMMIT}");
}
