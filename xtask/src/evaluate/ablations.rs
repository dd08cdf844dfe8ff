//! Block sizes, and how preempted requests recover.

use anyhow::Result;

use super::{Folio, PAPER_COST, Row, Section, command, number};

/// The mean normalized latency by block size, at rates near the knee.
pub(super) fn figure_18(folio: &Folio) -> Result<Section> {
    let sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256];
    let mut rows = Vec::new();
    let mut shown = String::new();
    for (dataset, rate, paper) in [
        ("sharegpt", "1.9", "16 to 128 are best"),
        ("alpaca", "30", "16 and 32 are best; larger ones degrade"),
    ] {
        let mut latencies = Vec::new();
        for size in sizes {
            // The same memory, cut differently.
            let (blocks, block) = ((15_728 / size).to_string(), size.to_string());
            let mut arguments = vec!["opt-13b", "--dataset", dataset, "--request-rate", rate];
            arguments.extend(["--duration", "900", "--block-size", &block]);
            arguments.extend(["--num-gpu-blocks-override", &blocks]);
            arguments.extend(["--max-model-len", "1920", "--preemption-mode", "recompute"]);
            arguments.push("--no-enable-prefix-caching");
            arguments.extend(PAPER_COST);
            let runs = folio.simulate(&arguments)?;
            let run = runs.first().ok_or_else(|| anyhow::anyhow!("there is no run"))?;
            latencies.push(format!("{:.3}", number(run, "summary.normalized_latency")?));
            shown = command(&arguments);
        }
        rows.push(Row::new(
            format!("{dataset} at {rate} requests/s: s/token for blocks of 1, 2, 4, … 256"),
            paper,
            latencies.join(" / "),
        ));
    }
    Ok(Section {
        title: "Fig. 18b: block size",
        rows,
        note: "The simulation shows one side only, the memory that large blocks waste: its cost model reads a small block as \
               fast as a large one, which real kernels do not."
            .to_owned(),
        command: shown,
        charts: Vec::new(),
    })
}

/// Swapping against recomputation.
pub(super) fn figure_19(folio: &Folio) -> Result<Section> {
    let mut rows = Vec::new();
    let mut shown = String::new();
    for size in ["16", "32", "64"] {
        let blocks = (15_728 / size.parse::<u32>()?).to_string();
        let mut latencies = Vec::new();
        for mode in ["recompute", "swap"] {
            let mut arguments = vec!["opt-13b", "--request-rate", "1.9", "--duration", "900"];
            arguments.extend(["--block-size", size, "--num-gpu-blocks-override", &blocks]);
            arguments.extend(["--max-model-len", "1920", "--no-enable-prefix-caching"]);
            arguments.extend(["--preemption-mode", mode, "--swap-space", "12"]);
            arguments.extend(PAPER_COST);
            let runs = folio.simulate(&arguments)?;
            let run = runs.first().ok_or_else(|| anyhow::anyhow!("there is no run"))?;
            let latency = number(run, "summary.normalized_latency")?;
            let preemptions = number(run, "summary.preemptions")?;
            latencies.push(format!("{mode} {latency:.3} s/token ({preemptions:.0} preemptions)"));
            shown = command(&arguments);
        }
        rows.push(Row::new(
            format!("blocks of {size}, ShareGPT at 1.9 requests/s"),
            "comparable",
            latencies.join(", "),
        ));
    }
    Ok(Section {
        title: "Fig. 19: recovery by swapping or by recomputation",
        rows,
        note: "Swapped blocks cross a link of 25 GB/s at its full speed whatever their size, so the paper's penalty of small \
               blocks is not seen; its end-to-end comparison is."
            .to_owned(),
        command: shown,
        charts: Vec::new(),
    })
}
