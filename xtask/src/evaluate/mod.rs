//! The paper's evaluation on our own engine: `docs/evaluation.md` and its figures, from the shipped binary's own output.
//!
//! | file | its one idea |
//! |---|---|
//! | `mod` | run the binary, write the page |
//! | `memory` | Table 1, Fig. 2, Fig. 13, Fig. 15: how much of the memory is used, and shared |
//! | `rates` | Fig. 12, 14, 16, 17: the load that can be sustained |
//! | `ablations` | Fig. 18 and 19: block sizes, and how preempted requests recover |
//! | `figures` | charts |
//! | `measured` | what the CPU shows: the policies on the real engine, and a run beside its simulation |
//! | `page` | the document around the rows |

mod ablations;
mod figures;
mod measured;
mod memory;
mod page;
mod rates;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The step times that Fig. 13 implies for vLLM: 30.42 requests at 2 per second, and 132.44 at 30 per second, are steps of 45
/// and 75 ms. What the roofline leaves of them is overhead of a step, and of a request in it.
const PAPER_COST: [&str; 4] = ["--step-overhead-us", "3000", "--request-overhead-us", "310"];
/// The paper's engines kept no KV between requests, and recomputed what was preempted.
const PAPER_ENGINE: [&str; 3] = ["--no-enable-prefix-caching", "--preemption-mode", "recompute"];
/// Where many sequences share much, memory is to be the limit, and not their number.
const MANY: [&str; 2] = ["--max-num-seqs", "1024"];

/// One row of the document.
struct Row {
    /// What is measured.
    what: String,
    /// The paper's value.
    paper: String,
    /// Ours, simulated.
    ours: String,
}

impl Row {
    fn new(what: impl Into<String>, paper: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { what: what.into(), paper: paper.into(), ours: ours.into() }
    }
}

/// Rows of one figure of the paper, and what is to be said of them.
struct Section {
    title: &'static str,
    rows: Vec<Row>,
    /// Where and why ours differ, or what they leave out.
    note: String,
    /// The command that prints the values.
    command: String,
    /// Charts, by file name and caption.
    charts: Vec<(String, String)>,
}

/// The binary.
struct Folio {
    binary: PathBuf,
}

impl Folio {
    /// Runs it to its end; what it prints goes to the terminal.
    fn run(&self, arguments: &[&str]) -> Result<()> {
        eprintln!("   folio {}", arguments.join(" "));
        crate::run(Command::new(&self.binary).args(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        eprintln!("   folio {}", arguments.join(" "));
        let output = Command::new(&self.binary)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        ensure!(output.status.success(), "folio {} failed", arguments.join(" "));
        serde_json::from_slice(&output.stdout).context("folio printed no JSON")
    }

    /// The runs of a simulation.
    fn simulate(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut all = vec!["simulate"];
        all.extend(arguments);
        all.extend(["--json", "-"]);
        let results = self.json(&all)?;
        Ok(results.get("runs").and_then(Value::as_array).cloned().unwrap_or_default())
    }
}

/// A number somewhere inside a run: `"summary.kv.tokens"`.
fn number(value: &Value, path: &str) -> Result<f64> {
    let found = path.split('.').try_fold(value, |value, key| value.get(key));
    found.and_then(Value::as_f64).with_context(|| format!("folio's JSON has no number {path}"))
}

/// The run of a policy.
fn of<'a>(runs: &'a [Value], policy: &str) -> Result<&'a Value> {
    let is = |run: &&Value| run.get("policy").and_then(Value::as_str) == Some(policy);
    runs.iter().find(is).with_context(|| format!("there is no run of {policy}"))
}

/// A command as a reader would type it.
fn command(arguments: &[&str]) -> String {
    format!("folio simulate {}", arguments.join(" "))
}

/// Simulates everything and writes the document; or `measure`s what it says of this machine.
pub(crate) fn run(root: &Path, measure: bool) -> Result<()> {
    let folio = Folio { binary: crate::release_binary(root)? };
    let docs = root.join("docs");
    if measure {
        return measured::measure(&folio, &docs, &crate::target(root));
    }
    let charts = docs.join("figures");
    fs::create_dir_all(&charts)?;
    let mut sections = vec![memory::table_1(&folio)?];
    sections.extend(memory::figures_2_and_13(&folio, &charts)?);
    sections.push(memory::figure_15(&folio)?);
    sections.push(rates::figure_12(&folio, &charts)?);
    sections.push(rates::figure_14(&folio)?);
    sections.push(rates::figure_16(&folio)?);
    sections.push(rates::figure_17(&folio)?);
    sections.push(ablations::figure_18(&folio)?);
    sections.push(ablations::figure_19(&folio)?);
    let page = page::page(&sections, &measured::sections(&docs)?);
    fs::write(docs.join("evaluation.md"), page)?;
    eprintln!("docs/evaluation.md is written");
    Ok(())
}
