//! The document around the rows.

use std::fmt::Write as _;

use super::Section;

const HEAD: &str = "\
# The paper's evaluation, on this engine

Written by `cargo xtask evaluate`; do not edit. The rows are those of *Efficient Memory Management for Large Language Model
Serving with PagedAttention* (SOSP 2023).

**How.** The scheduler and the block manager that serve run under a virtual clock; only the time of a step is modelled. The
baselines are other memory policies behind the same scheduler: contiguous reservations from a buddy allocator (Orca), and
batches that run to their end (FasterTransformer). The time of a step is a roofline of the paper's GPUs at 80 % of their
bandwidth and 55 % of their arithmetic, plus 3 ms per step and 0.31 ms per request: with these two, steps take as long as the
paper's Fig. 13 implies. Lengths are drawn from distributions with the paper's means; the data sets are not shipped. Arrivals
are Poisson. *Sustained* means that the mean normalized latency (time from arrival to end, divided by the tokens of the output)
stays below 0.5 s per token; the rate is found to 1 %.

**What is not here.** Nothing was measured on a GPU. The kernel's overhead (Fig. 18a) cannot be simulated and has no row.
";

/// The document.
pub(super) fn page(sections: &[Section], measured: &str) -> String {
    let mut out = HEAD.to_owned();
    out.push_str(measured);
    for Section { title, rows, note, command, charts } in sections {
        let _ = write!(out, "\n## {title}\n\n| | paper | simulated |\n|---|---|---|\n");
        for row in rows {
            let _ = writeln!(out, "| {} | {} | {} |", row.what, row.paper, row.ours);
        }
        let _ = write!(out, "\n{note}\n\n`{command}`\n");
        for (file, caption) in charts {
            let _ = write!(out, "\n![{caption}](figures/{file})\n");
        }
    }
    out
}
