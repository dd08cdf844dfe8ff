//! The report as one HTML file that needs nothing else: charts with labelled axes, and a table of every run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use folio_sim::metrics::Summary;
use folio_sim::svg::{Chart, STYLE, Series, escape};

use super::experiment::{Results, RunResult};
use super::report::seconds;

/// Runs whose history is drawn.
const MOST_HISTORIES: usize = 6;
/// Runs that stand side by side in the table; more stand below each other.
const MOST_COLUMNS: usize = 4;

const LAYOUT: &str = "\
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:16px;background:var(--ground);\
color:var(--text);font:15px/1.5 system-ui,sans-serif}h1{font-size:1.4em;margin:.2em 0}\
h2{font-size:1.1em;margin:1.4em 0 .4em}p{margin:.3em 0;color:var(--faint)}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:16px}\
.charts svg{width:100%;height:auto;border:1px solid var(--grid);border-radius:6px}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9em}\
th,td{padding:4px 9px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}\
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--ground)}th{color:var(--faint);font-weight:600}";

/// The page.
pub(super) fn page(results: &Results) -> String {
    let title = format!("{} on {}", results.model, results.device);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0}</title>\
         <style>{STYLE}{LAYOUT}</style></head><body>\n<h1>{0}</h1>\n\
         <p>Simulated by folio {1}: {2}; seed {3}; {4}.</p>\n",
        escape(&title),
        env!("CARGO_PKG_VERSION"),
        escape(&results.workload),
        results.seed,
        match results.runs.len() {
            1 => "1 run".to_owned(),
            runs => format!("{runs} runs"),
        }
    );
    let rates = rate_charts(results);
    if !rates.is_empty() {
        section(&mut out, "Against the request rate", &rates);
    }
    let skipped = results.runs.len().saturating_sub(MOST_HISTORIES);
    for run in results.runs.iter().take(MOST_HISTORIES) {
        section(&mut out, &heading(run), &histories(run));
    }
    if skipped > 0 {
        let _ = write!(out, "<p>The histories of {skipped} more runs are not drawn.</p>");
    }
    out.push_str("<h2>All runs</h2>\n");
    out.push_str(&table(results));
    out.push_str("</body></html>\n");
    out
}

fn heading(run: &RunResult) -> String {
    let rate = run.rate.map_or_else(String::new, |rate| format!(" at {rate:.2} requests/s"));
    format!("{}{rate}", run.label())
}

fn section(out: &mut String, heading: &str, charts: &[Chart]) {
    let _ = write!(out, "<h2>{}</h2>\n<div class=\"charts\">\n", escape(heading));
    for chart in charts {
        out.push_str(&chart.element());
    }
    out.push_str("</div>\n");
}

/// Nothing unless some setting was run at several rates.
fn rate_charts(results: &Results) -> Vec<Chart> {
    let mut lines: BTreeMap<String, Vec<(f64, &Summary)>> = BTreeMap::new();
    let size = |run: &RunResult| (run.blocks, run.block_size);
    let one_size = results.runs.iter().all(|run| results.runs.first().map(size) == Some(size(run)));
    for run in &results.runs {
        if let Some(rate) = run.rate {
            let label = if one_size { run.policy.to_owned() } else { run.label() };
            lines.entry(label).or_default().push((rate, &run.summary));
        }
    }
    if !lines.values().any(|runs| runs.len() > 1) {
        return Vec::new();
    }
    for runs in lines.values_mut() {
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let chart =
        |title: &str, y: &str, most_y: Option<f64>, value: &dyn Fn(&Summary) -> f64| Chart {
            title: title.to_owned(),
            x: "request rate (requests/s)".to_owned(),
            y: y.to_owned(),
            series: lines
                .iter()
                .map(|(name, runs)| Series {
                    name: name.clone(),
                    points: runs.iter().map(|(rate, summary)| (*rate, value(summary))).collect(),
                })
                .filter(|series| series.points.iter().any(|point| point.1.is_finite()))
                .collect(),
            stacked: false,
            most_y,
        };
    // Where answers come as a whole, there is no time between tokens.
    let millis = |seconds: f64| if seconds > 0.0 { seconds * 1e3 } else { f64::NAN };
    let mut charts = vec![
        chart("Normalized latency", "mean (s/token)", Some(1.0), &|s| s.normalized_latency),
        chart("Served", "throughput (requests/s)", None, &|s| s.request_throughput),
        chart("Time to first token, p99", "TTFT (s)", Some(30.0), &|s| s.ttft.p99),
        chart("Time per output token, p99", "TPOT (ms)", Some(1000.0), &|s| millis(s.tpot.p99)),
        chart("Inter-token latency, p99", "ITL (ms)", Some(1000.0), &|s| millis(s.itl.p99)),
        chart("Batched requests", "mean requests in a step", None, &|s| s.batched_requests),
        chart("KV cache that holds tokens", "share (%)", None, &|s| s.kv.tokens * 100.0),
    ];
    if results.runs.iter().any(|run| run.summary.request_goodput.is_some()) {
        let goodput = |s: &Summary| s.request_goodput.unwrap_or(0.0);
        charts.push(chart("Goodput", "served in time (requests/s)", None, &goodput));
    }
    charts
}

/// One run over time.
#[allow(clippy::cast_precision_loss, reason = "drawn")]
fn histories(run: &RunResult) -> Vec<Chart> {
    let series = |name: &str, value: &dyn Fn(&folio_sim::setup::Moment) -> f64| Series {
        name: name.to_owned(),
        points: run.moments.iter().map(|moment| (moment.at_s, value(moment))).collect(),
    };
    let share = |part: fn(&folio_sim::memory::Usage) -> u64| {
        move |moment: &folio_sim::setup::Moment| {
            part(&moment.usage) as f64 * 100.0 / moment.usage.positions.max(1) as f64
        }
    };
    let chart = |title: &str, y: &str, stacked: bool, series: Vec<Series>| Chart {
        title: title.to_owned(),
        x: "time (s)".to_owned(),
        y: y.to_owned(),
        series,
        stacked,
        most_y: stacked.then_some(100.0),
    };
    let mut charts = vec![
        chart(
            "Requests",
            "requests",
            false,
            vec![
                series("running", &|moment| f64::from(moment.running)),
                series("waiting", &|moment| f64::from(moment.waiting)),
            ],
        ),
        chart(
            "What the KV cache is used for",
            "share of the cache (%)",
            true,
            vec![
                series("token states", &share(|usage| usage.tokens)),
                series("reservation", &share(|usage| usage.reserved)),
                series("internal waste", &share(|usage| usage.internal)),
                series("free, external waste", &share(|usage| usage.external)),
            ],
        ),
    ];
    if run.moments.iter().any(|moment| moment.saved_blocks > 0) {
        let saved = series("saved", &|moment| {
            moment.saved_blocks as f64 * 100.0 / (moment.held_blocks as f64).max(1.0)
        });
        charts.push(chart("Blocks saved by sharing", "saved of held (%)", false, vec![saved]));
    }
    charts
}

/// What the table tells of a run.
const CELLS: [&str; 19] = [
    "run",
    "rate (1/s)",
    "served (1/s)",
    "output (tokens/s)",
    "normalized (s/token)",
    "TTFT mean",
    "TTFT p99",
    "TPOT mean",
    "TPOT p99",
    "ITL p99",
    "batched",
    "tokens (%)",
    "reserved (%)",
    "internal (%)",
    "external (%)",
    "saved (%)",
    "preemptions",
    "swapped",
    "refused",
];

fn table(results: &Results) -> String {
    let mut lines = vec![CELLS.map(str::to_owned).to_vec()];
    lines.extend(results.runs.iter().map(cells));
    if results.runs.len() <= MOST_COLUMNS {
        let column = |at: usize| lines.iter().filter_map(|line| line.get(at).cloned()).collect();
        lines = (0..CELLS.len()).map(column).collect();
    }
    let mut out = String::from("<div class=\"wide\"><table>\n");
    for (number, line) in lines.iter().enumerate() {
        let cell = if number == 0 { "th" } else { "td" };
        out.push_str("<tr>");
        for text in line {
            let _ = write!(out, "<{cell}>{}</{cell}>", escape(text));
        }
        out.push_str("</tr>\n");
    }
    out + "</table></div>\n"
}

/// As many as [`CELLS`].
fn cells(run: &RunResult) -> Vec<String> {
    let s = &run.summary;
    let mut cells = vec![
        run.label(),
        run.rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.3}")),
        format!("{:.3}", s.request_throughput),
        format!("{:.0}", s.output_throughput),
        format!("{:.3}", s.normalized_latency),
    ];
    let times = [s.ttft.mean, s.ttft.p99, s.tpot.mean, s.tpot.p99, s.itl.p99];
    cells.extend(times.map(seconds));
    cells.push(format!("{:.2}", s.batched_requests));
    let shares = [s.kv.tokens, s.kv.reserved, s.kv.internal, s.kv.external, s.saved_share];
    cells.extend(shares.map(|share| format!("{:.1}", share * 100.0)));
    cells.extend([s.preemptions, s.swap_preemptions].map(|count| count.to_string()));
    cells.push(s.refused.to_string());
    cells
}
