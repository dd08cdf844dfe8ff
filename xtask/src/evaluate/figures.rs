//! Charts of the document.

use std::fs;
use std::path::Path;

use anyhow::Result;
use folio_sim::svg::{Chart, Series};
use serde_json::Value;

use super::{Folio, PAPER_COST, PAPER_ENGINE, number};

const POLICIES: [(&str, &str); 5] = [
    ("paged", "paged"),
    ("orca-oracle", "Orca (Oracle)"),
    ("orca-pow2", "Orca (Pow2)"),
    ("orca-max", "Orca (Max)"),
    ("static", "FasterTransformer"),
];

/// Writes a chart; its file name and caption.
fn write(folder: &Path, name: &str, chart: &Chart) -> Result<(String, String)> {
    let file = format!("{name}.svg");
    fs::write(folder.join(&file), chart.file())?;
    Ok((file, chart.title.clone()))
}

/// Normalized latency against the request rate, for every policy.
pub(super) fn latency(
    folio: &Folio,
    folder: &Path,
    name: &str,
    dataset: &str,
    rates: &str,
) -> Result<(String, String)> {
    let rates = format!("rate={rates}");
    let mut arguments = vec!["opt-13b", "--num-gpu-blocks-override", "983", "--dataset", dataset];
    arguments.extend(["--duration", "900", "--sweep", &rates]);
    arguments.extend(["--sweep", "policy=paged,orca-oracle,orca-pow2,orca-max,static"]);
    arguments.extend(PAPER_COST);
    arguments.extend(PAPER_ENGINE);
    let runs = folio.simulate(&arguments)?;
    let mut series = Vec::new();
    for (policy, label) in POLICIES {
        let mut points = Vec::new();
        for run in &runs {
            if run.get("policy").and_then(Value::as_str) == Some(policy) {
                points.push((number(run, "rate")?, number(run, "summary.normalized_latency")?));
            }
        }
        series.push(Series { name: label.to_owned(), points });
    }
    let chart = Chart {
        title: format!("OPT-13B, {dataset}: normalized latency"),
        x: "request rate (requests/s)".to_owned(),
        y: "mean normalized latency (s/token)".to_owned(),
        series,
        stacked: false,
        most_y: Some(1.0),
    };
    write(folder, name, &chart)
}

/// What the cache is used for over time.
pub(super) fn usage(
    folder: &Path,
    name: &str,
    label: &str,
    run: &Value,
) -> Result<(String, String)> {
    let moments = run.get("moments").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut series = Vec::new();
    for (part, title) in [
        ("tokens", "token states"),
        ("reserved", "reservation"),
        ("internal", "internal waste"),
        ("external", "free, external waste"),
    ] {
        let mut points = Vec::new();
        for moment in &moments {
            let all = number(moment, "usage.positions")?.max(1.0);
            let share = number(moment, &format!("usage.{part}"))? * 100.0 / all;
            points.push((number(moment, "at_s")?, share));
        }
        series.push(Series { name: title.to_owned(), points });
    }
    let chart = Chart {
        title: format!("OPT-13B, ShareGPT: the KV cache under {label}"),
        x: "time (s)".to_owned(),
        y: "share of the cache (%)".to_owned(),
        series,
        stacked: true,
        most_y: Some(100.0),
    };
    write(folder, name, &chart)
}
