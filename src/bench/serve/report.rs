//! What came of the requests, in vLLM's words: printed lines and JSON keys.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use folio_sim::numbers::{deviation, mean, median, percentile};

/// The metrics: name in JSON, in a line, and in a heading.
const METRICS: [(&str, &str, &str); 4] = [
    ("ttft", "TTFT", "Time to First Token"),
    ("tpot", "TPOT", "Time per Output Token (excl. 1st token)"),
    ("itl", "ITL", "Inter-token Latency"),
    ("e2el", "E2EL", "End-to-end Latency"),
];

/// What came of one request; times are seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// When it was sent, from the start of the measurement.
    pub(crate) start: f64,
    pub(crate) input_len: usize,
    pub(crate) output_len: usize,
    /// Until the first part came.
    pub(crate) ttft: f64,
    /// Between neighbouring parts.
    pub(crate) itl: Vec<f64>,
    /// Until the last part came.
    pub(crate) latency: f64,
    /// Why it failed, if it did.
    pub(crate) error: Option<String>,
}

impl Reply {
    /// Seconds per token after the first.
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    fn tpot(&self) -> Option<f64> {
        let after = self.output_len.checked_sub(1).filter(|after| *after > 0)?;
        Some((self.latency - self.ttft) / after as f64)
    }
}

/// Limits, in seconds, that make a request good.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goodput(Vec<(&'static str, f64)>);

impl Goodput {
    /// Understands `ttft:500`, in milliseconds.
    pub(crate) fn parse(limits: &[String]) -> Result<Self> {
        let one = |text: &String| {
            let problem =
                || format!("--goodput {text:?} is not like ttft:500, tpot:100 or e2el:20000");
            let (name, limit) = text.split_once(':').with_context(problem)?;
            let limit: f64 = limit.parse().ok().filter(|ms| *ms >= 0.0).with_context(problem)?;
            let name = ["ttft", "tpot", "e2el"].into_iter().find(|known| *known == name);
            Ok((name.with_context(problem)?, limit / 1e3))
        };
        limits.iter().map(one).collect::<Result<_>>().map(Self)
    }

    fn is_good(&self, reply: &Reply) -> bool {
        self.0.iter().all(|(name, limit)| {
            let value = match *name {
                "ttft" => reply.ttft,
                "tpot" => reply.tpot().unwrap_or(0.0),
                _ => reply.latency,
            };
            value <= *limit
        })
    }
}

/// What to report.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) goodput: &'a Goodput,
    pub(crate) metrics: &'a [String],
    pub(crate) percentiles: &'a [f64],
    pub(crate) max_concurrency: Option<u32>,
    pub(crate) request_rate: f64,
}

/// All numbers of a run.
pub(crate) struct Report {
    /// As printed.
    pub(crate) text: String,
    /// As written.
    pub(crate) json: Map<String, Value>,
}

/// The value of a metric for every request that succeeded, or for every part of one.
fn values(name: &str, replies: &[&Reply]) -> Vec<f64> {
    match name {
        "ttft" => replies.iter().map(|reply| reply.ttft).collect(),
        "tpot" => replies.iter().filter_map(|reply| reply.tpot()).collect(),
        "itl" => replies.iter().flat_map(|reply| reply.itl.iter().copied()).collect(),
        _ => replies.iter().map(|reply| reply.latency).collect(),
    }
}

/// Most output tokens that came, and most requests that were there, within one second of the clock. All parts of an answer
/// count as equally long.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "seconds of a measurement, above 0, and counts"
)]
fn peaks(replies: &[&Reply]) -> (f64, usize) {
    let second = |at: f64| at.max(0.0) as usize;
    let end = replies.iter().map(|reply| reply.start + reply.latency).fold(0.0, f64::max);
    let (mut tokens, mut requests) = (vec![0.0; second(end) + 1], vec![0; second(end) + 1]);
    for reply in replies {
        let mut at = reply.start + reply.ttft;
        let part = reply.output_len as f64 / (reply.itl.len() + 1) as f64;
        tokens[second(at)] += part;
        for gap in &reply.itl {
            at += gap;
            // The sum may round beyond the last second.
            tokens[second(at).min(second(end))] += part;
        }
        for count in &mut requests[second(reply.start)..=second(reply.start + reply.latency)] {
            *count += 1;
        }
    }
    (tokens.into_iter().fold(0.0, f64::max), requests.into_iter().max().unwrap_or(0))
}

/// The numbers of a run that took `duration` seconds.
///
/// # Errors
/// When no request succeeded.
#[allow(clippy::cast_precision_loss, reason = "rates")]
pub(crate) fn report(replies: &[Reply], duration: f64, wanted: &Wanted<'_>) -> Result<Report> {
    let good: Vec<&Reply> = replies.iter().filter(|reply| reply.error.is_none()).collect();
    if good.is_empty() {
        let first = replies.iter().find_map(|reply| reply.error.as_deref());
        bail!(
            "no request succeeded; the first failed with: {}",
            first.unwrap_or("nothing was sent")
        );
    }
    let input: usize = good.iter().map(|reply| reply.input_len).sum();
    let output: usize = good.iter().map(|reply| reply.output_len).sum();
    let rate = |count: usize| count as f64 / duration.max(f64::MIN_POSITIVE);
    let (peak_tokens, peak_requests) = peaks(&good);
    let kept = good.iter().filter(|reply| wanted.goodput.is_good(reply)).count();
    let goodput = (!wanted.goodput.0.is_empty()).then(|| rate(kept));
    let failed = replies.len() - good.len();

    let mut text = format!("{:=^50}\n", " Serving Benchmark Result ");
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<40} {value:<10}");
    };
    line("Successful requests:", good.len().to_string());
    line("Failed requests:", failed.to_string());
    if let Some(most) = wanted.max_concurrency {
        line("Maximum request concurrency:", most.to_string());
    }
    if wanted.request_rate.is_finite() {
        line("Request rate configured (RPS):", format!("{:.2}", wanted.request_rate));
    }
    line("Benchmark duration (s):", format!("{duration:.2}"));
    line("Total input tokens:", input.to_string());
    line("Total generated tokens:", output.to_string());
    line("Request throughput (req/s):", format!("{:.2}", rate(good.len())));
    if let Some(goodput) = goodput {
        line("Request goodput (req/s):", format!("{goodput:.2}"));
    }
    line("Output token throughput (tok/s):", format!("{:.2}", rate(output)));
    line("Peak output token throughput (tok/s):", format!("{peak_tokens:.2}"));
    line("Peak concurrent requests:", format!("{peak_requests:.2}"));
    line("Total token throughput (tok/s):", format!("{:.2}", rate(input + output)));

    let mut json = Map::new();
    let mut set = |name: &str, value: Value| json.insert(name.to_owned(), value);
    set("duration", json!(duration));
    set("completed", json!(good.len()));
    set("failed", json!(failed));
    set("total_input_tokens", json!(input));
    set("total_output_tokens", json!(output));
    set("request_throughput", json!(rate(good.len())));
    set("request_goodput", json!(goodput));
    set("output_throughput", json!(rate(output)));
    set("total_token_throughput", json!(rate(input + output)));
    set("max_output_tokens_per_s", json!(peak_tokens));
    set("max_concurrent_requests", json!(peak_requests));
    for metric in METRICS {
        metric_lines(metric, &good, wanted, &mut text, &mut json);
    }
    let _ = writeln!(text, "{:=^50}", "");
    Ok(Report { text, json })
}

/// One metric: its section, where it was asked for, and its keys.
fn metric_lines(
    (name, short, heading): (&str, &str, &str),
    replies: &[&Reply],
    wanted: &Wanted<'_>,
    text: &mut String,
    json: &mut Map<String, Value>,
) {
    let all: Vec<f64> = values(name, replies).into_iter().map(|seconds| seconds * 1e3).collect();
    let mut rows = vec![
        ("mean".to_owned(), "Mean".to_owned(), mean(&all)),
        ("median".to_owned(), "Median".to_owned(), median(&all)),
    ];
    json.insert(format!("std_{name}_ms"), json!(deviation(&all)));
    for percent in wanted.percentiles {
        rows.push((format!("p{percent}"), format!("P{percent}"), percentile(&all, *percent)));
    }
    let printed = wanted.metrics.iter().any(|metric| metric == name);
    if printed {
        let _ = writeln!(text, "{heading:-^50}");
    }
    for (key, label, value) in rows {
        if printed {
            let _ = writeln!(text, "{:<40} {value:<10.2}", format!("{label} {short} (ms):"));
        }
        json.insert(format!("{key}_{name}_ms"), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(start: f64, ttft: f64, gaps: &[f64]) -> Reply {
        Reply {
            start,
            input_len: 10,
            output_len: gaps.len() + 1,
            ttft,
            itl: gaps.to_vec(),
            latency: ttft + gaps.iter().sum::<f64>(),
            error: None,
        }
    }

    #[test]
    fn a_run_is_reported_in_the_words_of_vllm() {
        let failed = Reply { error: Some("503".to_owned()), ..Reply::default() };
        let replies = [reply(0.0, 0.5, &[0.25, 0.25]), reply(0.5, 1.0, &[0.5]), failed];
        let goodput = Goodput::parse(&["ttft:600".to_owned(), "tpot:300".to_owned()]).unwrap();
        let metrics = ["ttft".to_owned(), "e2el".to_owned()];
        let wanted = Wanted {
            goodput: &goodput,
            metrics: &metrics,
            percentiles: &[99.0],
            max_concurrency: None,
            request_rate: f64::INFINITY,
        };
        let Report { text, json } = report(&replies, 2.0, &wanted).unwrap();
        for line in [
            "============ Serving Benchmark Result ============",
            "Successful requests:                     2         ",
            "Failed requests:                         1         ",
            "Total input tokens:                      20        ",
            "Request throughput (req/s):              1.00      ",
            "Request goodput (req/s):                 0.50      ",
            "Output token throughput (tok/s):         2.50      ",
            "---------------Time to First Token----------------",
            "Mean TTFT (ms):                          750.00    ",
            "P99 E2EL (ms):                           1495.00   ",
            "==================================================",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line:?} in\n{text}");
        }
        assert!(!text.contains("ITL"));
        assert_eq!(json["median_tpot_ms"], 375.0);
        assert_eq!(json["mean_itl_ms"], 1000.0 / 3.0);
        // Tokens came at 0.5, 0.75 and at 1.0, 1.5, 2.0 seconds.
        assert_eq!(
            (json["max_output_tokens_per_s"].clone(), json["max_concurrent_requests"].clone()),
            (json!(2.0), json!(2))
        );
    }

    #[test]
    fn where_nothing_succeeded_the_reason_is_told() {
        let failed = Reply { error: Some("503: busy".to_owned()), ..Reply::default() };
        let goodput = Goodput::default();
        let wanted = Wanted {
            goodput: &goodput,
            metrics: &[],
            percentiles: &[],
            max_concurrency: None,
            request_rate: 1.0,
        };
        let Err(error) = report(&[failed], 1.0, &wanted) else { panic!("it succeeded") };
        assert!(error.to_string().contains("503: busy"));
    }

    #[test]
    fn goodput_names_its_metrics() {
        for bad in ["ttft", "ttft:", "ttft:-1", "itl:5", "e2el:x"] {
            assert!(Goodput::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
