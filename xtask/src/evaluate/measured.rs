//! What this machine shows: the policies on the real engine, and a real run beside its simulation.
//!
//! Measuring wants a machine on which nothing else runs, and simulating takes long, so they are two chores: what was measured
//! is kept in `docs/measured.json` until it is measured again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Folio, number};

/// ShareGPT's mean lengths in a quarter of its context, and a quarter of the slots of Table 1, on the built-in model.
const WORK: [&str; 16] = [
    "bench",
    "throughput",
    "--random-input-len",
    "40",
    "--random-output-len",
    "85",
    "--random-range-ratio",
    "0.9",
    "--block-size",
    "16",
    "--kv-cache-memory-bytes",
    "6m",
    "--max-num-batched-tokens",
    "2048",
    "--no-enable-prefix-caching",
    "--num-prompts",
];
const POLICIES: &str = "paged,orca-oracle,orca-pow2,orca-max,static";
/// Of the rate that paging sustained when all came at once, how much is asked for.
const LOADS: [f64; 2] = [0.35, 0.7];

/// Measures, and writes what `sections` reads.
pub(super) fn measure(folio: &Folio, docs: &Path, scratch: &Path) -> Result<()> {
    let file = |name: &str| scratch.join(name).to_string_lossy().into_owned();
    let (out, fit, trace) = (file("out.json"), file("fit.json"), file("trace.csv"));
    let bench = |more: &[&str]| -> Result<Value> {
        let mut arguments = WORK.to_vec();
        arguments.extend(more);
        arguments.extend(["--output-json", &out]);
        folio.run(&arguments)?;
        Ok(serde_json::from_str(&fs::read_to_string(&out)?)?)
    };
    let at_once = bench(&["800", "--kv-policy", POLICIES])?;
    let runs = at_once.get("runs").and_then(Value::as_array).context("there are runs")?;
    let most = number(runs.first().context("there are runs")?, "requests_per_second")?;
    bench(&[
        "600",
        "--dataset-seed",
        "1",
        "--request-rate",
        &rate(most * LOADS[1]),
        "--fit",
        &fit,
    ])?;
    let mut beside = Vec::new();
    for load in LOADS {
        let rate = rate(most * load);
        let real = bench(&[
            "600",
            "--dataset-seed",
            "2",
            "--request-rate",
            &rate,
            "--write-trace",
            &trace,
        ])?;
        let setting = |name: &str| Ok::<_, anyhow::Error>(format!("{:.0}", number(&real, name)?));
        let mut arguments = vec!["--fit", &fit, "--trace", &trace, "--no-enable-prefix-caching"];
        let settings = [
            ("--num-gpu-blocks-override", setting("num_gpu_blocks")?),
            ("--block-size", setting("block_size")?),
            ("--max-num-seqs", setting("max_num_seqs")?),
            ("--max-num-batched-tokens", setting("max_num_batched_tokens")?),
        ];
        arguments.extend(settings.iter().flat_map(|(flag, value)| [*flag, value.as_str()]));
        let simulated = folio.simulate(&arguments)?;
        let simulated = simulated.first().and_then(|run| run.get("summary")).cloned();
        beside.push(json!({"rate": rate, "real": real, "simulated": simulated}));
    }
    let results = json!({"at_once": runs, "beside": beside});
    fs::write(docs.join("measured.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    eprintln!("docs/measured.json is written");
    Ok(())
}

fn rate(requests: f64) -> String {
    format!("{requests:.1}")
}

/// What was measured, as sections of the document; nothing if it never was.
pub(super) fn sections(docs: &Path) -> Result<String> {
    let Ok(text) = fs::read_to_string(docs.join("measured.json")) else { return Ok(String::new()) };
    let results: Value = serde_json::from_str(&text).context("docs/measured.json")?;
    let mut out = "\n## Measured: the same policies on a CPU\n\n\
        | | requests/s | paged against it | sequences in a step | preemptions | mean s/token |\n\
        |---|---|---|---|---|---|\n"
        .to_owned();
    let list = |name: &str| {
        let list = results.get(name).and_then(Value::as_array);
        list.with_context(|| format!("docs/measured.json has no list {name}"))
    };
    let runs = list("at_once")?;
    let most = number(runs.first().context("there are runs")?, "requests_per_second")?;
    for run in runs {
        let rate = number(run, "requests_per_second")?;
        let _ = writeln!(
            out,
            "| {} | {rate:.1} | {:.2}× | {:.1} | {:.0} | {:.4} |",
            run.get("kv_policy").and_then(Value::as_str).unwrap_or_default(),
            most / rate,
            number(run, "mean_rows")?,
            number(run, "preemptions")?,
            number(run, "mean_normalized_latency_ms")? / 1e3
        );
    }
    out.push_str(
        "\nThe real engine on the built-in model, all policies in one run, 800 requests at once: the scheduler, the reservations \
         and the block tables of the simulator, and a model that computes. A quarter of ShareGPT's lengths in a quarter of its \
         context, and a quarter of the slots of Table 1. Two cores of an AMD EPYC (Zen 5), 23 GiB.\n\n\
         `cargo xtask evaluate measure`, which runs ",
    );
    let _ = writeln!(out, "`folio {} 800 --kv-policy {POLICIES}`", WORK.join(" "));
    out.push_str(
        "\n## Measured: a simulated run beside a real one\n\n\
         | | real | simulated | simulated / real |\n|---|---|---|---|\n",
    );
    for pair in list("beside")? {
        let rate = pair.get("rate").and_then(Value::as_str).unwrap_or_default();
        for (what, real, simulated, unit) in [
            ("requests/s", "real.requests_per_second", "simulated.request_throughput", 1.0),
            (
                "output tokens/s",
                "real.output_tokens_per_second",
                "simulated.output_throughput",
                1.0,
            ),
            (
                "mean normalized latency, ms/token",
                "real.mean_normalized_latency_ms",
                "simulated.normalized_latency",
                1e3,
            ),
            ("mean TTFT, ms", "real.mean_ttft_ms", "simulated.ttft.mean", 1e3),
            ("mean TPOT, ms", "real.mean_tpot_ms", "simulated.tpot.mean", 1e3),
        ] {
            let (real, simulated) = (number(pair, real)?, number(pair, simulated)? * unit);
            let _ = writeln!(
                out,
                "| {what}, at {rate} requests/s | {real:.2} | {simulated:.2} | {:.3} |",
                simulated / real
            );
        }
    }
    out.push_str(
        "\nOne run gives the times of its steps (`folio bench throughput … --fit FILE`), another one, of other requests, is \
         simulated with them: `folio bench throughput … --write-trace TRACE`, then `folio simulate --fit FILE --trace TRACE` \
         with the same blocks, block size and limits. 600 requests each, on the same machine.\n",
    );
    Ok(out)
}
