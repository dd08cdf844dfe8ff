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

/// ShareGPT's mean lengths in a quarter of its context, and memory for two requests of that context, on a model of which a step
/// is bound by reading its weights as long as few sequences run: as large models are on the paper's GPUs.
const WORK: [&str; 23] = [
    "bench",
    "throughput",
    MODEL,
    "--load-format",
    "dummy",
    "--quantization",
    "int8",
    "--max-model-len",
    CONTEXT,
    "--random-input-len",
    "40",
    "--random-output-len",
    "85",
    "--random-range-ratio",
    "0.9",
    "--block-size",
    "16",
    "--kv-cache-memory-bytes",
    "24m",
    "--max-num-batched-tokens",
    "512",
    "--no-enable-prefix-caching",
    "--num-prompts",
];
const MODEL: &str = "smollm2-135m";
const CONTEXT: &str = "512";
const POLICIES: &str = "paged,orca-oracle,orca-pow2,orca-max,static";
/// Of the rate that paging sustained when all came at once, how much is asked for.
const LOADS: [f64; 2] = [0.35, 0.7];
const AT_ONCE: &str = "120";
const IN_TURN: &str = "160";

/// The work, and where its files are.
struct Bench<'a> {
    folio: &'a Folio,
    out: String,
    fit: String,
    trace: String,
}

/// Measures, and writes what `sections` reads.
pub(super) fn measure(folio: &Folio, docs: &Path, scratch: &Path) -> Result<()> {
    let file = |name: &str| scratch.join(name).to_string_lossy().into_owned();
    let bench =
        Bench { folio, out: file("out.json"), fit: file("fit.json"), trace: file("trace.csv") };
    let (fit, trace) = (bench.fit.as_str(), bench.trace.as_str());
    let real =
        bench.run(&[AT_ONCE, "--kv-policy", POLICIES, "--fit", fit, "--write-trace", trace])?;
    let real = real.get("runs").and_then(Value::as_array).context("there are runs")?;
    let paged = real.first().context("there are runs")?;
    let simulated = bench.simulate(paged, &["--sweep", &format!("policy={POLICIES}")])?;
    let mut beside = Vec::new();
    for load in LOADS {
        let rate = format!("{:.1}", number(paged, "requests_per_second")? * load);
        let coming = |seed, flag, file| {
            bench.run(&[IN_TURN, "--request-rate", &rate, "--dataset-seed", seed, flag, file])
        };
        coming("1", "--fit", fit)?;
        let real = coming("2", "--write-trace", trace)?;
        let simulated = bench.simulate(&real, &[])?.pop();
        beside.push(json!({"rate": rate, "real": real, "simulated": simulated}));
    }
    let results = json!({"at_once": {"real": real, "simulated": simulated}, "beside": beside});
    fs::write(docs.join("measured.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    eprintln!("docs/measured.json is written");
    Ok(())
}

impl Bench<'_> {
    fn run(&self, more: &[&str]) -> Result<Value> {
        let arguments = [WORK.as_slice(), more, &["--output-json", &self.out]].concat();
        self.folio.run(&arguments)?;
        Ok(serde_json::from_str(&fs::read_to_string(&self.out)?)?)
    }

    /// The requests of the last trace with the times of the last fit, on an engine as that of `real`: what its runs come to.
    fn simulate(&self, real: &Value, more: &[&str]) -> Result<Vec<Value>> {
        let mut arguments = vec![MODEL, "--fit", &self.fit, "--trace", &self.trace];
        arguments.extend(["--max-model-len", CONTEXT, "--no-enable-prefix-caching"]);
        let mut settings = Vec::new();
        for (flag, name) in [
            ("--num-gpu-blocks-override", "num_gpu_blocks"),
            ("--block-size", "block_size"),
            ("--max-num-seqs", "max_num_seqs"),
            ("--max-num-batched-tokens", "max_num_batched_tokens"),
        ] {
            settings.extend([flag.to_owned(), format!("{:.0}", number(real, name)?)]);
        }
        arguments.extend(settings.iter().map(String::as_str));
        arguments.extend(more);
        let runs = self.folio.simulate(&arguments)?;
        Ok(runs.iter().filter_map(|run| run.get("summary")).cloned().collect())
    }
}

/// What was measured, as sections of the document; nothing if it never was.
pub(super) fn sections(docs: &Path) -> Result<String> {
    let Ok(text) = fs::read_to_string(docs.join("measured.json")) else { return Ok(String::new()) };
    let results: Value = serde_json::from_str(&text).context("docs/measured.json")?;
    Ok(policies(&results)? + &beside(&results)?)
}

fn list<'a>(results: &'a Value, path: &str) -> Result<&'a [Value]> {
    let found = results.pointer(path).and_then(Value::as_array).map(Vec::as_slice);
    found.with_context(|| format!("docs/measured.json has no list {path}"))
}

fn policies(results: &Value) -> Result<String> {
    let mut out = "\n## Measured: the same policies on a CPU\n\n\
        | | requests/s | paged against it | simulated requests/s | paged against it, simulated | sequences in a step | preemptions |\n\
        |---|---|---|---|---|---|---|\n"
        .to_owned();
    let real = list(results, "/at_once/real")?;
    let simulated = list(results, "/at_once/simulated")?;
    let rate = |run| number(run, "requests_per_second");
    let virtual_rate = |run| number(run, "request_throughput");
    let (most, virtual_most) = (
        rate(real.first().context("there are runs")?)?,
        virtual_rate(simulated.first().context("there are runs")?)?,
    );
    for (run, summary) in real.iter().zip(simulated) {
        let (rate, virtual_rate) = (rate(run)?, virtual_rate(summary)?);
        let _ = writeln!(
            out,
            "| {} | {rate:.2} | {:.2}× | {virtual_rate:.2} | {:.2}× | {:.1} | {:.0} |",
            run.get("kv_policy").and_then(Value::as_str).unwrap_or_default(),
            most / rate,
            virtual_most / virtual_rate,
            number(run, "mean_rows")?,
            number(run, "preemptions")?,
        );
    }
    let _ = writeln!(
        out,
        "\nThe real engine, all policies in one run, {AT_ONCE} requests at once: the scheduler, the reservations and the block \
         tables of the simulator, and a model that computes. It has the shape of SmolLM2-135M and 8-bit weights that are made \
         up, since they cost what trained ones cost; a step of 8 sequences takes little longer than one of a single sequence, as \
         on the paper's GPUs. A quarter of ShareGPT's lengths in a quarter of its context, and memory for two whole contexts. \
         Simulated are the same requests with the times of that run's steps (`--fit`). Two cores of an AMD EPYC (Zen 5) guest, \
         23 GiB.\n\n\
         `cargo xtask evaluate measure`, which runs `folio {} {AT_ONCE} --kv-policy {POLICIES}`",
        WORK.join(" ")
    );
    Ok(out)
}

fn beside(results: &Value) -> Result<String> {
    let mut out = "\n## Measured: a simulated run beside a real one\n\n\
        | | real | simulated | simulated / real |\n|---|---|---|---|\n"
        .to_owned();
    for pair in list(results, "/beside")? {
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
    let _ = writeln!(
        out,
        "\nOne run gives the times of its steps (`folio bench throughput … --fit FILE`); the next one, of other requests at the \
         same rate, is simulated with them: `folio bench throughput … --write-trace TRACE`, then `folio simulate --fit FILE \
         --trace TRACE` with the same blocks, block size and limits. {IN_TURN} requests each, on the same machine, whose speed \
         drifts by some per cent from one run to the next. With the higher load the mean time to the first token is made by the few \
         requests that wait for memory, and is what differs most."
    );
    Ok(out)
}
