//! `folio convert` as a user has it: a folder comes out that answers as the original does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::{Command, Output};

fn folio(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_folio")).args(arguments).output().expect("it runs")
}

fn story(arguments: &[&str]) -> String {
    let ask = ["--temperature", "0", "--max-tokens", "12", "--quick", "Once upon a time"];
    let output = folio(&[&["complete"], arguments, &ask].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_converted_model_answers_as_the_original() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let out = std::env::temp_dir().join(format!("folio-converted-{}", std::process::id()));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let convert = ["convert", model, out, "--quantization", "int8"];
    let output = folio(&convert);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("folio serve"), "{said}");
    assert_eq!(story(&[out]), story(&[model, "--quantization", "int8"]));
    let again = folio(&convert);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("there already"), "{said}");
    let twice = folio(&["complete", out, "--quantization", "int4", "--quick", "Hi"]);
    let said = String::from_utf8_lossy(&twice.stderr);
    assert!(!twice.status.success() && said.contains("leave out --quantization"), "{said}");
    std::fs::remove_dir_all(out).unwrap();
}
