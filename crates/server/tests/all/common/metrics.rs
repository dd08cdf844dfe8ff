//! Reads the page of metrics.

use std::collections::{BTreeMap, HashMap};

/// (name, labels) → value
pub(crate) type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// Every sample of a page; fails on a line that is not well-formed.
pub(crate) fn parse_metrics(page: &str) -> Samples {
    let mut kinds: HashMap<String, String> = HashMap::new();
    let mut samples = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, rest) = line.split_once('{').expect("labels");
        let (labels, value) = rest.rsplit_once("} ").expect("a value");
        let labels: BTreeMap<String, String> = labels
            .split_terminator("\",")
            .map(|label| {
                let (name, value) = label.split_once("=\"").expect("a label");
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            })
            .collect();
        let common = [("model_name", "tiny"), ("engine", "0")];
        // As in vLLM, requests are counted before anybody knows for which engine they are.
        let expected = match name {
            name if name.starts_with("http_") => &common[..0],
            "vllm:admission_rejections_total" => &common[..1],
            _ => &common[..],
        };
        for (label, value) in expected {
            assert_eq!(labels.get(*label).map(String::as_str), Some(*value), "{line}");
        }
        let family = ["_bucket", "_count", "_sum"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| {
                kinds.get(*family).is_some_and(|kind| kind == "histogram" || kind == "summary")
            })
            .unwrap_or(name);
        assert!(kinds.contains_key(family), "{name} has no type");
        let value: f64 = value.parse().expect("a number");
        assert!(samples.insert((name.to_owned(), labels), value).is_none(), "{line} twice");
    }
    samples
}
