//! What a user sees at start: where the memory goes, and why a block size was chosen.

use std::fmt::Write as _;

use folio_model::block_size::{Candidate, Lengths, mean_context};
use folio_model::swap::{SwapPlace, SwapRates};
use folio_model::{MemoryPlan, SwapStore};

use crate::settings::Settings;

/// Where the memory goes, as a table.
pub(crate) fn plan(
    name: &str,
    plan: &MemoryPlan,
    settings: &Settings,
    swap: Option<(&SwapStore, SwapRates)>,
) -> String {
    let mut out = String::new();
    let weights = &plan.weights;
    let _ = writeln!(out, "{name}: {weights}, {} threads, {}", plan.threads, settings.isa.name());
    let mut row = |what: &str, bytes: u64, note: String| {
        let _ = writeln!(out, "  {what:<12} {:>10}  {note}", size(bytes));
    };
    row("weights", plan.weight_bytes, weights.clone());
    let measured = if settings.choose_step_tokens { " (measured)" } else { "" };
    let steps = format!(
        "steps of up to {} tokens{measured}, {} sequences",
        plan.max_num_batched_tokens, plan.max_num_seqs
    );
    row("activations", plan.activation_bytes + plan.workspace_bytes, steps);
    let cache = format!(
        "{}: {} blocks of {} tokens = {} tokens",
        plan.kv_dtype.name(),
        plan.blocks,
        plan.block_size,
        plan.tokens()
    );
    row("KV cache", plan.kv_bytes(), cache);
    if plan.pinned_blocks > 0 {
        let bytes = wide(plan.pinned_blocks).saturating_mul(plan.kv_bytes_per_block);
        let note = format!("of that; {} blocks that are never evicted", plan.pinned_blocks);
        row("pinned", bytes, note);
    }
    if let Some((store, rates)) = swap {
        row("swapping", plan.swap_memory_bytes, swap_note(plan, store, rates));
    }
    let full = format!(
        "of {} free; {} sequences of the full context of {} tokens fit",
        size(settings.memory.available_bytes),
        plan.full_context_sequences(),
        plan.max_model_len
    );
    row("total", plan.total_bytes(), full);
    out
}

/// Bytes as people read them.
#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
}

/// Where blocks are swapped to, and how fast.
fn swap_note(plan: &MemoryPlan, store: &SwapStore, rates: SwapRates) -> String {
    let place = match store.place() {
        SwapPlace::Host => "in memory, taken when first used".to_owned(),
        SwapPlace::File { folder, preallocated } => {
            let set_aside = if *preallocated {
                "set aside"
            } else {
                "not set aside, since this file system cannot: it may fill up"
            };
            format!(
                "in a file of {} in {} that has no name and disappears with the process; {set_aside}",
                size(plan.swap_bytes),
                folder.display()
            )
        }
    };
    let gigabytes = |rate: f64| rate / 1e9;
    format!(
        "{} slots {place}; {:.1} GB/s out, {:.1} GB/s in",
        store.slots(),
        gigabytes(rates.write),
        gigabytes(rates.read)
    )
}

/// One line per block size that was tried, and one on the choice.
pub(crate) fn block_sizes(
    candidates: &[Candidate],
    chosen: Option<usize>,
    expected: &[Lengths],
) -> String {
    let mut out = String::new();
    for candidate in candidates {
        let _ = writeln!(
            out,
            "block size {:>3}: attention {:>8.2} us per token, {:>5.1} % wasted in last blocks: {:.2} us",
            candidate.block_size,
            candidate.nanos / 1e3,
            candidate.waste * 100.0,
            candidate.cost() / 1e3
        );
    }
    let requests = match expected {
        [Lengths { prompt, output }] => format!("prompts of {prompt} and outputs of {output}"),
        many => format!(
            "the lengths of {} requests, a mean context of {}",
            many.len(),
            mean_context(many)
        ),
    };
    if let Some(chosen) = chosen {
        let _ = writeln!(
            out,
            "block size {chosen:>3}: taken, with the least time x (1 + waste) for {requests} tokens"
        );
    }
    out
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
