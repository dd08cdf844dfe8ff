//! `folio bench latency`: batches of equal requests, by size.

use anyhow::{Result, ensure};
use folio_sim::Random;
use folio_sim::cost::Sample;
use folio_sim::memory::Policy;
use folio_sim::numbers::{mean, median, percentile};
use serde_json::{Value, json};

use super::args::LatencyArgs;
use super::dataset::{PROMPTS, Request, tokens};
use super::engine::{Answered, Engine};
use super::laps::{Breakdown, StepRecord, periods};
use super::limits::Limits;
use super::{by_policy, fit, write_json};
use crate::output::{outln, print};

/// What `vllm bench latency` reports.
const PERCENTILES: [f64; 6] = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0];

/// Measures and prints.
pub(crate) fn run(args: &LatencyArgs) -> Result<()> {
    for &batch in &args.batch_size {
        ensure!(
            batch <= args.model.max_num_seqs,
            "--batch-size {batch} is more than --max-num-seqs {} runs at once; raise that, or leave the size out",
            args.model.max_num_seqs
        );
    }
    let (mut runs, mut samples) = (Vec::new(), Vec::new());
    for &policy in &args.run.kv_policy {
        let engine = Engine::start(&args.model, &args.run, policy)?;
        if args.run.kv_policy.len() > 1 {
            outln!("KV policy: {policy}");
        }
        runs.push(under_policy(&engine, args, policy, &mut samples)?);
        if Some(&policy) == args.run.kv_policy.last() {
            fit::write(args.run.fit.as_deref(), &engine.running, &samples)?;
        }
        engine.stop()?;
    }
    write_json(args.run.output_json.as_deref(), &by_policy(runs))
}

/// Measures and prints everything with an engine that runs; its steps are added to `samples`.
fn under_policy(
    engine: &Engine,
    args: &LatencyArgs,
    policy: Policy,
    samples: &mut Vec<Sample>,
) -> Result<Value> {
    let limits = Limits::measure(&engine.running)?;
    print(format_args!("{}", limits.describe()));
    let mut random = Random::new(args.model.seed, PROMPTS);
    let prefill = match args.prefill_len {
        0 => Value::Null,
        length => prefill(engine, args, length, &limits, &mut random, samples)?,
    };
    outln!(
        "{:>6} {:>13} {:>13} {:>9} {:>9} {:>10} {:>10} {:>9} {:>9} {:>9}",
        "batch",
        "decode tok/s",
        "prefill tok/s",
        "TTFT ms",
        "TPOT ms",
        "latency s",
        "bandwidth",
        "f32 peak",
        "bf16 peak",
        "int8 peak"
    );
    let mut batches = Vec::new();
    for &batch in &args.batch_size {
        batches.push(measure(engine, args, batch, &limits, &mut random, samples)?);
    }
    Ok(json!({
        "model": engine.running.name,
        "kv_policy": policy.name(),
        "weights": engine.running.plan.weights,
        "threads": engine.running.plan.threads,
        "max_num_batched_tokens": engine.running.plan.max_num_batched_tokens,
        "input_len": args.input_len,
        "output_len": args.output_len,
        "machine": limits.json(),
        "prefill": prefill,
        "batches": batches,
    }))
}

fn random_requests(
    engine: &Engine,
    count: u32,
    input_len: u32,
    output_len: u32,
    random: &mut Random,
) -> Vec<Request> {
    let vocab = engine.running.engine.limits().vocab;
    let one = |_| Request {
        ids: tokens(random, input_len, vocab),
        text: None,
        output_len,
        arrival_s: 0.0,
    };
    (0..count).map(one).collect()
}

/// Runs `count` requests some times and returns the answers of the measured times, with all their steps.
fn iterations(
    engine: &Engine,
    args: &LatencyArgs,
    (count, input_len, output_len): (u32, u32, u32),
    random: &mut Random,
) -> Result<(Vec<Vec<Answered>>, Vec<StepRecord>)> {
    let mut once = || engine.run(&random_requests(engine, count, input_len, output_len, random));
    for _ in 0..args.num_iters_warmup {
        once()?;
    }
    engine.steps.take();
    let runs = (0..args.num_iters).map(|_| once()).collect::<Result<_>>()?;
    Ok((runs, engine.steps.take()))
}

/// One prompt by itself.
fn prefill(
    engine: &Engine,
    args: &LatencyArgs,
    length: u32,
    limits: &Limits,
    random: &mut Random,
    samples: &mut Vec<Sample>,
) -> Result<Value> {
    let longest = engine.running.engine.limits().max_model_len.saturating_sub(1).max(1);
    let length = length.min(longest);
    let (runs, steps) = iterations(engine, args, (1, length, 1), random)?;
    samples.extend(steps.iter().map(StepRecord::sample));
    let rates: Vec<f64> = runs
        .iter()
        .flatten()
        .map(|answer| f64::from(length) / answer.ttft().as_secs_f64())
        .collect();
    let rate = median(&rates);
    outln!(
        "prefill of {length} tokens: {rate:.1} tok/s, {}",
        limits.arithmetic(rate, f64::from(length))
    );
    let breakdown = Breakdown::of(&steps, |_| true);
    if args.run.profile {
        print(format_args!("{}", breakdown.table("prefill")));
    }
    Ok(json!({
        "tokens": length,
        "tokens_per_second": rate,
        "all_tokens_per_second": rates,
        "operations_per_second": limits.operations(rate, f64::from(length)),
        "profile": args.run.profile.then(|| breakdown.json()),
    }))
}

/// One batch size: prints its line and returns its results.
#[allow(clippy::cast_precision_loss, reason = "rates")]
fn measure(
    engine: &Engine,
    args: &LatencyArgs,
    batch: u32,
    limits: &Limits,
    random: &mut Random,
    samples: &mut Vec<Sample>,
) -> Result<Value> {
    let (runs, steps) = iterations(engine, args, (batch, args.input_len, args.output_len), random)?;
    samples.extend(steps.iter().map(StepRecord::sample));
    let rows = f64::from(batch);
    let decode_steps = periods(&steps, u64::from(batch));
    let period = median(&decode_steps);
    let decode = if period > 0.0 { rows / period } else { 0.0 };
    let seconds =
        |time: &dyn Fn(&Answered) -> f64| -> Vec<f64> { runs.iter().flatten().map(time).collect() };
    let ttft = seconds(&|answer| answer.ttft().as_secs_f64());
    let tpot: Vec<f64> = runs.iter().flatten().filter_map(Answered::tpot).collect();
    let most = |run: &Vec<Answered>, time: &dyn Fn(&Answered) -> f64| {
        run.iter().map(time).fold(0.0, f64::max)
    };
    let latencies: Vec<f64> =
        runs.iter().map(|run| most(run, &|answer| answer.latency().as_secs_f64())).collect();
    let prompts: Vec<f64> =
        runs.iter().map(|run| most(run, &|answer| answer.ttft().as_secs_f64())).collect();
    let prefill = rows * f64::from(args.input_len) / median(&prompts);
    let context = f64::from(args.input_len) + f64::from(args.output_len) / 2.0;
    let [float, bf16, int8] = limits.peak_shares(decode, 1.0);
    let bandwidth = limits.bandwidth(decode / rows, rows * context);
    outln!(
        "{batch:>6} {decode:>13.1} {prefill:>13.1} {:>9.0} {:>9.1} {:>10.2} {:>8.0} % {:>7.0} % {:>7.0} % {:>7.0} %",
        mean(&ttft) * 1e3,
        mean(&tpot) * 1e3,
        mean(&latencies),
        bandwidth * 100.0,
        float * 100.0,
        bf16 * 100.0,
        int8 * 100.0
    );
    if decode_steps.is_empty() && args.output_len > 1 {
        outln!("{:>6} never generated all at once; use a longer --output-len", "");
    }
    let breakdown = Breakdown::of(&steps, |step| step.decodes(u64::from(batch)));
    if args.run.profile {
        print(format_args!("{}", breakdown.table(&format!("decode of {batch}"))));
    }
    let percentiles: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|percent| (percent.to_string(), json!(percentile(&latencies, *percent))))
        .collect();
    Ok(json!({
        "batch_size": batch,
        "avg_latency": mean(&latencies),
        "latencies": latencies,
        "percentiles": percentiles,
        "decode_tokens_per_second": decode,
        "decode_steps": decode_steps.len(),
        "prefill_tokens_per_second": prefill,
        "mean_ttft_ms": mean(&ttft) * 1e3,
        "mean_tpot_ms": mean(&tpot) * 1e3,
        "median_tpot_ms": median(&tpot) * 1e3,
        "bandwidth_share": bandwidth,
        "f32_peak_share": float,
        "bf16_peak_share": bf16,
        "int8_peak_share": int8,
        "profile": args.run.profile.then(|| breakdown.json()),
    }))
}
