//! `folio bench throughput`: a whole data set at once.

use anyhow::{Result, ensure};
use serde_json::json;

use super::args::{DatasetName, ThroughputArgs};
use super::dataset;
use super::engine::{Answered, Engine};
use super::laps::Breakdown;
use super::numbers::{mean, median, percentile};
use super::write_json;

/// Measures and prints.
#[allow(clippy::cast_precision_loss, reason = "rates")]
pub(crate) fn run(args: &ThroughputArgs) -> Result<()> {
    ensure!(
        args.data.dataset_name != DatasetName::TimedTrace,
        "throughput sends everything at once; use --dataset-name custom, or folio bench serve"
    );
    let engine = Engine::start(&args.model, args.run.temperature, args.run.profile)?;
    let requests = dataset::requests(&args.data, engine.running.engine.limits().vocab)?;
    let answers = engine.run(&requests)?;
    let steps = engine.steps.take();
    let elapsed = answers
        .iter()
        .filter_map(|answer| Some(*answer.tokens.last()? - answers.first()?.sent))
        .max()
        .unwrap_or_default()
        .as_secs_f64();
    let input: usize = answers.iter().map(|answer| answer.input_len).sum();
    let output: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
    let rate = |count: usize| count as f64 / elapsed.max(f64::MIN_POSITIVE);
    println!(
        "Throughput: {:.2} requests/s, {:.2} total tokens/s, {:.2} output tokens/s",
        rate(answers.len()),
        rate(input + output),
        rate(output)
    );
    println!("Total num prompt tokens:  {input}");
    println!("Total num output tokens:  {output}");
    let ttft: Vec<f64> = answers.iter().map(|answer| answer.ttft().as_secs_f64() * 1e3).collect();
    let tpot: Vec<f64> =
        answers.iter().filter_map(Answered::tpot).map(|seconds| seconds * 1e3).collect();
    for (name, values) in [("TTFT", &ttft), ("TPOT", &tpot)] {
        println!(
            "{name}: mean {:.1} ms, median {:.1} ms, P99 {:.1} ms",
            mean(values),
            median(values),
            percentile(values, 99.0)
        );
    }
    let breakdown = Breakdown::of(&steps, |_| true);
    if args.run.profile {
        print!("{}", breakdown.table("all steps"));
    }
    let results = json!({
        "model": engine.running.name,
        "elapsed_time": elapsed,
        "num_requests": answers.len(),
        "total_num_tokens": input + output,
        "requests_per_second": rate(answers.len()),
        "tokens_per_second": rate(input + output),
        "output_tokens_per_second": rate(output),
        "steps": steps.len(),
        "mean_ttft_ms": mean(&ttft),
        "median_ttft_ms": median(&ttft),
        "p99_ttft_ms": percentile(&ttft, 99.0),
        "mean_tpot_ms": mean(&tpot),
        "median_tpot_ms": median(&tpot),
        "p99_tpot_ms": percentile(&tpot, 99.0),
        "profile": args.run.profile.then(|| breakdown.json()),
    });
    engine.stop()?;
    write_json(args.run.output_json.as_deref(), &results)
}
