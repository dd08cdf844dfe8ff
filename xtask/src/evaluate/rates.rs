//! The load that can be sustained: the highest request rate at which the mean normalized latency stays below half a second
//! per token.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Folio, MANY, PAPER_COST, PAPER_ENGINE, Row, Section, command, figures, number, of};

const BOUND: [&str; 2] = ["--find-rate", "0.5"];

/// A model on the paper's server: its flags, with the slots of Table 1.
const SERVERS: [(&str, &[&str]); 3] = [
    ("OPT-13B", &["opt-13b", "--num-gpu-blocks-override", "983"]),
    ("OPT-66B", &["opt-66b", "--tensor-parallel-size", "4", "--num-gpu-blocks-override", "606"]),
    (
        "OPT-175B",
        &[
            "opt-175b",
            "--device",
            "a100-80g",
            "--tensor-parallel-size",
            "8",
            "--num-gpu-blocks-override",
            "3756",
        ],
    ),
];

/// Rates of policies, and the command that found them.
struct Found {
    runs: Vec<Value>,
    command: String,
}

impl Found {
    fn find(folio: &Folio, server: &[&str], more: &[&str], policies: &str) -> Result<Self> {
        let mut arguments = server.to_vec();
        arguments.extend(more);
        arguments.extend(PAPER_COST);
        arguments.extend(BOUND);
        arguments.extend(["--sweep", policies]);
        Ok(Self { runs: folio.simulate(&arguments)?, command: command(&arguments) })
    }

    fn rate(&self, policy: &str) -> Result<f64> {
        number(of(&self.runs, policy)?, "rate")
    }

    /// The paged rate over that of another policy.
    fn ratio(&self, policy: &str) -> Result<String> {
        Ok(format!("{:.2}×", self.rate("paged")? / self.rate(policy)?))
    }
}

/// Basic sampling on three servers and two data sets.
pub(super) fn figure_12(folio: &Folio, charts: &Path) -> Result<Section> {
    let policies = "policy=paged,orca-oracle,orca-pow2,orca-max,static";
    let mut rows = Vec::new();
    let mut first = None;
    for dataset in ["sharegpt", "alpaca"] {
        for (name, server) in SERVERS {
            let seconds = if dataset == "sharegpt" { "3600" } else { "600" };
            let mut more = vec!["--dataset", dataset, "--duration", seconds];
            more.extend(PAPER_ENGINE);
            let found = Found::find(folio, server, &more, policies)?;
            let rates = ["paged", "orca-oracle", "orca-pow2", "orca-max", "static"]
                .map(|policy| found.rate(policy).map(|rate| format!("{rate:.2}")));
            let rates = rates.into_iter().collect::<Result<Vec<_>>>()?.join(" / ");
            let what = format!("{dataset}, {name}");
            rows.push(Row::new(
                format!(
                    "{what}: sustained requests/s, paged / Oracle / Pow2 / Max / FasterTransformer"
                ),
                "–",
                rates,
            ));
            let papers = match dataset {
                "sharegpt" => ["1.7× to 2.7×", "2.7× to 8×", "up to 22×"],
                _ => ["–", "–", "–"],
            };
            for ((policy, label), paper) in [
                ("orca-oracle", "Orca (Oracle)"),
                ("orca-max", "Orca (Max)"),
                ("static", "FasterTransformer"),
            ]
            .iter()
            .zip(papers)
            {
                rows.push(Row::new(
                    format!("{what}: against {label}"),
                    paper,
                    found.ratio(policy)?,
                ));
            }
            first.get_or_insert(found.command);
        }
    }
    Ok(Section {
        title: "Fig. 12: basic sampling",
        rows,
        note: "The paper gives its ratios over all three models. OPT-175B's large cache holds more than its steps can bear with \
               0.31 ms per request, so memory limits nobody much. FasterTransformer is spared the padding of its batches here. \
               On Alpaca the largest model is bound by arithmetic, as in the paper, and the advantage shrinks."
            .to_owned(),
        command: first.context("there are servers")?,
        charts: vec![
            figures::latency(folio, charts, "latency-sharegpt", "sharegpt", "0.25,0.5,0.75,1,1.25,1.5,1.75,2,2.25,2.5")?,
            figures::latency(folio, charts, "latency-alpaca", "alpaca", "2,5,10,15,20,25,30,35,40")?,
        ],
    })
}

/// What is decoded how, the flags for it, and the paper's ratio.
type Variant = (&'static str, [&'static str; 2], &'static str);

/// The rate of paging over that of Orca (Oracle) for each of `variants`, and the command of the last.
fn against_oracle(
    folio: &Folio,
    server: &[&str],
    common: &[&str],
    variants: &[Variant],
) -> Result<(Vec<Row>, String)> {
    let mut rows = Vec::new();
    let mut shown = String::new();
    for (what, flags, paper) in variants {
        let more = [common, flags.as_slice(), MANY.as_slice()].concat();
        let found = Found::find(folio, server, &more, "policy=paged,orca-oracle")?;
        rows.push(Row::new(
            format!("{what}: sustained rate against Orca (Oracle)"),
            *paper,
            found.ratio("orca-oracle")?,
        ));
        shown = found.command;
    }
    Ok((rows, shown))
}

/// Parallel sampling and beam search on Alpaca.
pub(super) fn figure_14(folio: &Folio) -> Result<Section> {
    let (_, server) = SERVERS[0];
    let common =
        [["--dataset", "alpaca", "--duration", "600"].as_slice(), PAPER_ENGINE.as_slice()].concat();
    let (rows, shown) = against_oracle(
        folio,
        server,
        &common,
        &[
            ("basic", ["--n", "1"], "1.3×"),
            ("2 samples", ["--n", "2"], "–"),
            ("4 samples", ["--n", "4"], "–"),
            ("6 samples", ["--n", "6"], "–"),
            ("beam 2", ["--beam-width", "2"], "–"),
            ("beam 4", ["--beam-width", "4"], "–"),
            ("beam 6", ["--beam-width", "6"], "2.3×"),
        ],
    )?;
    Ok(Section {
        title: "Fig. 14: parallel sampling and beam search",
        rows,
        note: "OPT-13B on Alpaca. The overhead of 0.31 ms is counted once per request: Fig. 13, where it comes from, has one sequence \
               per request and cannot tell it from one per sequence, which would leave 1.5× of beam 6, further from the paper. A \
               copy of a whole beam, which Orca makes whenever two part, costs only its bytes here, and what the paper's Orca \
               spent on it is not known. Blocks that beams share are read once for all of them, as folio's kernels do. A sixth of \
               the cache stays free as room for beams to grow, but giving it out gained nothing: with room for 8, 1 and 0 tokens of each \
               beam, 12.9, 12.8 and 12.5 requests per second were sustained.".to_owned(),
        command: shown,
        charts: Vec::new(),
    })
}

/// A prefix that all prompts share.
pub(super) fn figure_16(folio: &Folio) -> Result<Section> {
    let server = ["llama-13b", "--num-gpu-blocks-override", "983"];
    let (rows, shown) = against_oracle(
        folio,
        &server,
        &["--dataset", "wmt16", "--duration", "600"],
        &[
            ("1-shot, 80 tokens", ["--shared-prefix", "80"], "1.67×"),
            ("5-shot, 341 tokens", ["--shared-prefix", "341"], "3.58×"),
        ],
    )?;
    Ok(Section {
        title: "Fig. 16: a shared prefix",
        rows,
        note: "Translation from WMT16, LLaMA-13B. The paper does not give the lengths of its sentences; here they are spread about 35 \
               tokens, and 45 in translation. Ours finds the prefix in its cache, and reads it once for all sequences of a step.".to_owned(),
        command: shown,
        charts: Vec::new(),
    })
}

/// Chats.
pub(super) fn figure_17(folio: &Folio) -> Result<Section> {
    let (_, server) = SERVERS[0];
    let policies = "policy=paged,orca-oracle,orca-pow2,orca-max";
    let mut more = vec!["--chat", "--duration", "3600"];
    more.extend(PAPER_ENGINE);
    let found = Found::find(folio, server, &more, policies)?;
    let mut rows = Vec::new();
    for policy in ["orca-oracle", "orca-pow2", "orca-max"] {
        rows.push(Row::new(format!("sustained rate against {policy}"), "2×", found.ratio(policy)?));
    }
    let batched = |policy| number(of(&found.runs, policy)?, "summary.batched_requests");
    let concurrency = batched("paged")? / batched("orca-oracle")?;
    rows.push(Row::new(
        "requests in a batch against orca-oracle",
        "–",
        format!("{concurrency:.2}×"),
    ));
    let kept = Found::find(folio, server, &["--chat", "--duration", "3600"], "policy=paged")?;
    let gain = kept.rate("paged")? / found.rate("paged")?;
    rows.push(Row::new("with the prefix cache, against without", "–", format!("{gain:.2}×")));
    Ok(Section {
        title: "Fig. 17: chat",
        rows,
        note: "The last 1024 tokens of the history, at most 1024 more. As in the paper, no KV is kept between rounds; the last \
               row keeps it, and gains little since a history that is cut begins differently in every round. The three \
               Orcas are alike, as in the paper: a prompt of nearly 1024 tokens takes a reservation of 2048 whatever its output. \
               Paging runs many more requests at once, but steps become longer with them, and every prompt takes 0.15 s of \
               arithmetic that no memory saves. Prompts that are shorter are not the reason: where all have 1024 tokens, the \
               ratio to Orca (Oracle) is 1.35×."
            .to_owned(),
        command: found.command,
        charts: Vec::new(),
    })
}
