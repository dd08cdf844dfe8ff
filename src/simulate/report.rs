//! The figures on the terminal.

use std::fmt::Write as _;

use super::experiment::{Results, RunResult};

/// A table with a line per run, and one run in full where there is only one.
pub(super) fn table(results: &Results) -> String {
    let mut out = format!(
        "{} on {}, {}, seed {}\n\n",
        results.model, results.device, results.workload, results.seed
    );
    let rows: Vec<Vec<String>> = results.runs.iter().map(row).collect();
    let mut widths: Vec<usize> = HEADER.iter().map(|name| name.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(out, "{cell:>width$}  ");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    };
    line(&mut HEADER.into_iter());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    if let [only] = results.runs.as_slice() {
        out.push_str(&details(only));
    }
    out
}

const HEADER: [&str; 13] = [
    "policy",
    "blocks",
    "rate/s",
    "served/s",
    "norm s/tok",
    "TTFT p50",
    "TTFT p99",
    "TPOT p99",
    "batched",
    "KV used %",
    "saved %",
    "preempted",
    "refused",
];

/// The cells of a run's line.
pub(super) fn row(run: &RunResult) -> Vec<String> {
    let s = &run.summary;
    vec![
        run.policy.to_owned(),
        format!("{}×{}", run.blocks, run.block_size),
        run.rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.3}")),
        format!("{:.3}", s.request_throughput),
        format!("{:.3}", s.normalized_latency),
        seconds(s.ttft.p50),
        seconds(s.ttft.p99),
        seconds(s.tpot.p99),
        format!("{:.2}", s.batched_requests),
        format!("{:.1}", s.kv.tokens * 100.0),
        format!("{:.1}", s.saved_share * 100.0),
        s.preemptions.to_string(),
        s.refused.to_string(),
    ]
}

pub(super) fn seconds(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0} s"),
        value if value >= 1.0 => format!("{value:.2} s"),
        value => format!("{:.1} ms", value * 1e3),
    }
}

fn details(run: &RunResult) -> String {
    let s = &run.summary;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let mut out = String::from("\n");
    let mut line = |what: &str, value: String| {
        let _ = writeln!(out, "{what:<26} {value}");
    };
    line("requests", format!("{} of {} completed in {:.1} s", s.completed, s.requests, s.duration));
    line(
        "mean prompt, output",
        format!("{:.1}, {:.1} tokens", run.mean_prompt_tokens, run.mean_output_tokens),
    );
    line("output throughput", format!("{:.1} tokens/s", s.output_throughput));
    if let Some(goodput) = s.request_goodput {
        line("goodput", format!("{goodput:.3} requests/s"));
    }
    for (name, spread) in [
        ("time to first token", &s.ttft),
        ("time per output token", &s.tpot),
        ("inter-token latency", &s.itl),
        ("end-to-end latency", &s.e2el),
    ] {
        let [mean, p50, p90, p99] = [spread.mean, spread.p50, spread.p90, spread.p99].map(seconds);
        line(name, format!("mean {mean}, p50 {p50}, p90 {p90}, p99 {p99}"));
    }
    line(
        "KV cache",
        format!(
            "{} tokens, {} reserved, {} internal, {} free or external",
            percent(s.kv.tokens),
            percent(s.kv.reserved),
            percent(s.kv.internal),
            percent(s.kv.external)
        ),
    );
    line("prefix cache hits", percent(s.prefix_hit_share));
    line("preemptions", format!("{}, {} of them swapped", s.preemptions, s.swap_preemptions));
    line("steps", format!("{}, busy {}", s.steps, percent(s.busy)));
    out
}
