//! Cases that stand in files: `tests/hostile/*.jsonl`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use serde_json::Value;

/// The cases of a file, one per line.
pub(crate) fn cases(file: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let text = std::fs::read_to_string(folder.join(file).with_extension("jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect()
}

/// A count in a short form.
pub(crate) fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// The bytes that a piece stands for: text, `{"$hex": …}`, or `{"$times": [piece, n]}`.
pub(crate) fn bytes(piece: &Value) -> Vec<u8> {
    if let Some(hex) = piece["$hex"].as_str() {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        return (0..hex.len()).step_by(2).map(digits).collect();
    }
    if let Some(of) = piece["$times"].as_array() {
        return bytes(&of[0]).repeat(count(&of[1]));
    }
    piece.as_str().unwrap().as_bytes().to_vec()
}
