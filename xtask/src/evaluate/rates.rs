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
               0.31 ms per sequence, so memory limits nobody much. FasterTransformer is spared the padding of its batches here. \
               On Alpaca the largest model is bound by arithmetic, as in the paper, and the advantage shrinks."
            .to_owned(),
        command: first.context("there are servers")?,
        charts: vec![
            figures::latency(folio, charts, "latency-sharegpt", "sharegpt", "0.25,0.5,0.75,1,1.25,1.5,1.75,2,2.25,2.5")?,
            figures::latency(folio, charts, "latency-alpaca", "alpaca", "2,5,10,15,20,25,30,35,40")?,
        ],
    })
}

/// Parallel sampling and beam search on Alpaca.
pub(super) fn figure_14(folio: &Folio) -> Result<Section> {
    let (_, server) = SERVERS[0];
    let mut rows = Vec::new();
    let mut shown = String::new();
    for (what, flags, paper) in [
        ("basic", &[][..], "1.3×"),
        ("2 samples", &["--n", "2"], "–"),
        ("4 samples", &["--n", "4"], "–"),
        ("6 samples", &["--n", "6"], "–"),
        ("beam 2", &["--beam-width", "2"], "–"),
        ("beam 4", &["--beam-width", "4"], "–"),
        ("beam 6", &["--beam-width", "6"], "2.3×"),
    ] {
        let mut more = vec!["--dataset", "alpaca", "--duration", "300"];
        more.extend(flags);
        more.extend(MANY);
        more.extend(PAPER_ENGINE);
        let found = Found::find(folio, server, &more, "policy=paged,orca-oracle")?;
        rows.push(Row::new(
            format!("{what}: sustained rate against Orca (Oracle)"),
            paper,
            found.ratio("orca-oracle")?,
        ));
        shown = found.command;
    }
    Ok(Section {
        title: "Fig. 14: parallel sampling and beam search",
        rows,
        note: "OPT-13B on Alpaca. Where ours gains less than the paper says, 0.31 ms for each sequence bound a step of many beams \
               before memory does, and a copy of a whole beam, which Orca makes whenever two part, costs only its bytes here. \
               Blocks that beams share are read once for all of them, as folio's kernels do."
            .to_owned(),
        command: shown,
        charts: Vec::new(),
    })
}

/// A prefix that all prompts share.
pub(super) fn figure_16(folio: &Folio) -> Result<Section> {
    let server = ["llama-13b", "--num-gpu-blocks-override", "983"];
    let mut rows = Vec::new();
    let mut shown = String::new();
    for (what, prefix, paper) in [("1-shot", "80", "1.67×"), ("5-shot", "341", "3.58×")] {
        let mut more = vec!["--dataset", "35,45", "--shared-prefix", prefix, "--duration", "300"];
        more.extend(MANY);
        let found = Found::find(folio, &server, &more, "policy=paged,orca-oracle")?;
        rows.push(Row::new(
            format!("{what}, {prefix} tokens: sustained rate against Orca (Oracle)"),
            paper,
            found.ratio("orca-oracle")?,
        ));
        shown = found.command;
    }
    Ok(Section {
        title: "Fig. 16: a shared prefix",
        rows,
        note: "Translation from WMT16, LLaMA-13B. The paper does not give the lengths of its sentences; all have 35 tokens here, \
               and 45 in translation. Ours finds the prefix in its cache, and reads it once for all sequences of a step. Where \
               the ratios are smaller than the paper's, the overhead per sequence limits both before memory does."
            .to_owned(),
        command: shown,
        charts: Vec::new(),
    })
}

/// Chats.
pub(super) fn figure_17(folio: &Folio) -> Result<Section> {
    let (_, server) = SERVERS[0];
    let policies = "policy=paged,orca-oracle,orca-pow2,orca-max";
    let mut more = vec!["--chat", "--duration", "900"];
    more.extend(PAPER_ENGINE);
    let found = Found::find(folio, server, &more, policies)?;
    let mut rows = Vec::new();
    for policy in ["orca-oracle", "orca-pow2", "orca-max"] {
        rows.push(Row::new(format!("sustained rate against {policy}"), "2×", found.ratio(policy)?));
    }
    let kept = Found::find(folio, server, &["--chat", "--duration", "900"], "policy=paged")?;
    let gain = kept.rate("paged")? / found.rate("paged")?;
    rows.push(Row::new("with the prefix cache, against without", "–", format!("{gain:.2}×")));
    Ok(Section {
        title: "Fig. 17: chat",
        rows,
        note: "The last 1024 tokens of the history, at most 1024 more. As in the paper, no KV is kept between rounds; the last \
               row keeps it, and gains little since a history that is cut begins differently in every round. The three \
               Orcas are alike, as in the paper, but histories here are shorter than ShareGPT's, so less is wasted on them."
            .to_owned(),
        command: found.command,
        charts: Vec::new(),
    })
}
