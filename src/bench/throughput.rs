//! `folio bench throughput`: a whole data set, at once or as it comes, under each memory policy in turn.

use std::path::Path;

use anyhow::Result;
use folio_sim::memory::Policy;
use folio_sim::numbers::{mean, median, percentile};
use serde_json::{Value, json};

use super::args::ThroughputArgs;
use super::dataset::{self, Request};
use super::engine::{Answered, Engine};
use super::laps::{Breakdown, StepRecord};
use super::{by_policy, fit, pace, write_json};
use crate::output::{self, outln, print};

/// Measures and prints.
pub(crate) fn run(args: &ThroughputArgs) -> Result<()> {
    let mut samples = Vec::new();
    let mut runs = Vec::new();
    for &policy in &args.run.kv_policy {
        let engine = Engine::start(&args.model, &args.run, policy)?;
        let (results, steps) = measure(&engine, args, policy)?;
        samples.extend(steps.iter().map(StepRecord::sample));
        runs.push(results);
        if Some(&policy) == args.run.kv_policy.last() {
            fit::write(args.run.fit.as_deref(), &engine.running, &samples)?;
        }
        engine.stop()?;
    }
    write_json(args.run.output_json.as_deref(), &by_policy(runs))
}

fn requests(engine: &Engine, args: &ThroughputArgs) -> Result<Vec<Request>> {
    let running = &engine.running;
    let vocab = running.engine.limits().vocab;
    let mut requests = dataset::requests(&args.data, vocab, Some(&running.tokenizer))?;
    pace::spread(&mut requests, &args.pace, &args.data)?;
    requests.sort_by(|a, b| a.arrival_s.total_cmp(&b.arrival_s));
    Ok(requests)
}

/// Runs the data set once, prints what came of it, and returns that and all steps.
#[allow(clippy::cast_precision_loss, reason = "rates")]
fn measure(
    engine: &Engine,
    args: &ThroughputArgs,
    policy: Policy,
) -> Result<(Value, Vec<StepRecord>)> {
    let requests = requests(engine, args)?;
    let answers = engine.run(&requests)?;
    let steps = engine.steps.take();
    if let Some(file) = &args.write_trace {
        write_trace(file, &requests, &answers)?;
    }
    let elapsed = answers
        .iter()
        .filter_map(|answer| Some(*answer.tokens.last()? - answers.first()?.sent))
        .max()
        .unwrap_or_default()
        .as_secs_f64();
    let input: usize = answers.iter().map(|answer| answer.input_len).sum();
    let output: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
    let rate = |count: usize| count as f64 / elapsed.max(f64::MIN_POSITIVE);
    let batched = batched_rows(&steps);
    let preemptions = engine.preemptions();
    if args.run.kv_policy.len() > 1 {
        outln!("KV policy: {policy}");
    }
    outln!(
        "Throughput: {:.2} requests/s, {:.2} total tokens/s, {:.2} output tokens/s",
        rate(answers.len()),
        rate(input + output),
        rate(output)
    );
    outln!("Total num prompt tokens:  {input}");
    outln!("Total num output tokens:  {output}");
    outln!("Sequences in a step: {batched:.2}, preemptions: {preemptions}");
    let Times { normalized, ttft, tpot } = Times::of(&answers);
    for (name, values) in [("TTFT", &ttft), ("TPOT", &tpot), ("Latency per token", &normalized)] {
        print_times(name, values);
    }
    let breakdown = Breakdown::of(&steps, |_| true);
    if args.run.profile {
        print(format_args!("{}", breakdown.table("all steps")));
    }
    let results = json!({
        "model": engine.running.name,
        "kv_policy": policy.name(),
        "num_gpu_blocks": engine.running.plan.blocks,
        "block_size": engine.running.plan.block_size,
        "max_num_seqs": engine.running.plan.max_num_seqs,
        "max_num_batched_tokens": engine.running.plan.max_num_batched_tokens,
        "elapsed_time": elapsed,
        "num_requests": answers.len(),
        "total_num_tokens": input + output,
        "requests_per_second": rate(answers.len()),
        "tokens_per_second": rate(input + output),
        "output_tokens_per_second": rate(output),
        "steps": steps.len(),
        "mean_rows": batched,
        "preemptions": preemptions,
        "mean_normalized_latency_ms": mean(&normalized),
        "mean_ttft_ms": mean(&ttft),
        "median_ttft_ms": median(&ttft),
        "p99_ttft_ms": percentile(&ttft, 99.0),
        "mean_tpot_ms": mean(&tpot),
        "median_tpot_ms": median(&tpot),
        "p99_tpot_ms": percentile(&tpot, 99.0),
        "profile": args.run.profile.then(|| breakdown.json()),
    });
    Ok((results, steps))
}

/// Milliseconds, one for each request that has them.
struct Times {
    /// From sending to the last token, per token.
    normalized: Vec<f64>,
    ttft: Vec<f64>,
    tpot: Vec<f64>,
}

impl Times {
    fn of(answers: &[Answered]) -> Self {
        let normalized = answers.iter().map(|answer| answer.normalized() * 1e3);
        let ttft = answers.iter().map(|answer| answer.ttft().as_secs_f64() * 1e3);
        let tpot = answers.iter().filter_map(Answered::tpot).map(|seconds| seconds * 1e3);
        Self { normalized: normalized.collect(), ttft: ttft.collect(), tpot: tpot.collect() }
    }
}

fn write_trace(file: &Path, requests: &[Request], answers: &[Answered]) -> Result<()> {
    let lengths = requests
        .iter()
        .zip(answers)
        .map(|(request, answer)| (request.arrival_s, answer.input_len, answer.tokens.len()));
    output::write(file, &dataset::trace(lengths))
}

/// Milliseconds.
fn print_times(name: &str, values: &[f64]) {
    outln!(
        "{name}: mean {:.1} ms, median {:.1} ms, P99 {:.1} ms",
        mean(values),
        median(values),
        percentile(values, 99.0)
    );
}

/// Sequences in a step, the mean over the time that steps took.
#[allow(clippy::cast_precision_loss, reason = "a mean")]
fn batched_rows(steps: &[StepRecord]) -> f64 {
    let (rows, time) = steps.iter().map(StepRecord::sample).fold((0.0, 0.0), |(rows, time), s| {
        (rows + s.step.rows as f64 * s.micros, time + s.micros)
    });
    rows / f64::max(time, f64::MIN_POSITIVE)
}
