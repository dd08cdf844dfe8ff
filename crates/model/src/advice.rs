//! What to change when a model does not fit: each remedy is a changed request that was planned again and fits.

use folio_kernels::Dtype;

use crate::memory::{DoesNotFit, Facts, MemoryPlan, MemoryRequest, Shortage, SwapRequest};
use crate::sizes::wide;
use crate::weights::Quantization;

pub(crate) fn advise(
    facts: &Facts<'_>,
    request: &MemoryRequest<'_>,
    shortage: &Shortage,
) -> DoesNotFit {
    let remedies = [
        cache_size(facts, request, shortage),
        model_length(facts, request, &shortage.plan),
        batch(facts, request),
        width(facts, request, &shortage.plan),
        quantised(facts, request),
        swap_space(facts, request, &shortage.plan),
    ];
    let remedies: Vec<String> = remedies.into_iter().flatten().collect();
    let mut problem = describe(request, shortage);
    if remedies.is_empty() {
        problem.push_str("; no single flag helps: free memory, or serve a smaller model");
    }
    DoesNotFit { problem, remedies }
}

fn describe(request: &MemoryRequest<'_>, shortage: &Shortage) -> String {
    let Shortage { need, blocks, plan } = shortage;
    let context = need.saturating_mul(plan.kv_bytes_per_block);
    match request.kv_cache_memory_bytes {
        Some(bytes) if blocks < need => format!(
            "--kv-cache-memory-bytes {bytes} holds {} tokens, but one sequence of --max-model-len {}{} needs {context} bytes",
            blocks * plan.block_size as u64,
            plan.max_model_len,
            beside_pins(plan),
        ),
        asked => format!(
            "the model does not fit: weights {}, activations {}, work space {}{} and {} {} make {}, but {} are available",
            human(plan.weight_bytes),
            human(plan.activation_bytes),
            human(plan.workspace_bytes),
            match plan.swap_memory_bytes {
                0 => String::new(),
                bytes => format!(", swapping {}", human(bytes)),
            },
            match asked {
                Some(_) => "the KV cache".to_owned(),
                None => format!("KV cache for one full context{}", beside_pins(plan)),
            },
            human(asked.unwrap_or(context)),
            human(plan.fixed_bytes().saturating_add(asked.unwrap_or(context))),
            human(request.available_bytes),
        ),
    }
}

fn beside_pins(plan: &MemoryPlan) -> String {
    match plan.pinned_blocks {
        0 => String::new(),
        blocks => format!(" beside {blocks} blocks of pinned prefixes"),
    }
}

fn fits(facts: &Facts<'_>, request: &MemoryRequest<'_>) -> bool {
    MemoryPlan::lay_out(facts, request).is_ok()
}

/// Another size of the cache, where one was given: just enough, or as much as there is.
fn cache_size(
    facts: &Facts<'_>,
    request: &MemoryRequest<'_>,
    shortage: &Shortage,
) -> Option<String> {
    let asked = request.kv_cache_memory_bytes?;
    let per_block = shortage.plan.kv_bytes_per_block;
    let least = shortage.need.checked_mul(per_block)?;
    let left = request.available_bytes.saturating_sub(shortage.plan.fixed_bytes());
    let bytes = if asked < least { least } else { left / per_block * per_block };
    let changed = MemoryRequest { kv_cache_memory_bytes: Some(bytes), ..*request };
    fits(facts, &changed).then(|| format!("--kv-cache-memory-bytes {bytes}"))
}

/// The longest sequences, in whole blocks, that fit.
fn model_length(
    facts: &Facts<'_>,
    request: &MemoryRequest<'_>,
    plan: &MemoryPlan,
) -> Option<String> {
    let with =
        |blocks: usize| MemoryRequest { max_model_len: Some(blocks * plan.block_size), ..*request };
    let blocks = largest(plan.max_model_len.saturating_sub(1) / plan.block_size, |blocks| {
        fits(facts, &with(blocks))
    })?;
    Some(format!("--max-model-len {}", blocks * plan.block_size))
}

/// The largest steps that fit.
fn batch(facts: &Facts<'_>, request: &MemoryRequest<'_>) -> Option<String> {
    let tokens = largest(request.max_num_batched_tokens.saturating_sub(1), |tokens| {
        fits(facts, &MemoryRequest { max_num_batched_tokens: tokens, ..*request })
    })?;
    Some(format!("--max-num-batched-tokens {tokens}"))
}

/// Half as many bytes per weight, and per key and value where these follow the weights.
fn width(facts: &Facts<'_>, request: &MemoryRequest<'_>, plan: &MemoryPlan) -> Option<String> {
    let changed = MemoryRequest { dtype: Some(Dtype::Bf16), ..*request };
    (plan.dtype == Dtype::F32 && fits(facts, &changed)).then(|| "--dtype bfloat16".to_owned())
}

/// About one byte per weight.
fn quantised(facts: &Facts<'_>, request: &MemoryRequest<'_>) -> Option<String> {
    let changed = MemoryRequest { quantization: Some(Quantization::Int8), ..*request };
    let helps = request.quantization.is_none() && fits(facts, &changed);
    helps.then(|| "--quantization int8".to_owned())
}

/// A smaller swap space in memory, in whole MiB, or none.
fn swap_space(facts: &Facts<'_>, request: &MemoryRequest<'_>, plan: &MemoryPlan) -> Option<String> {
    const MIB: u64 = 1 << 20;
    let swap = request.swap.filter(|swap| !swap.on_disk)?;
    let most = usize::try_from(plan.swap_memory_bytes / MIB).ok()?;
    let with = |bytes| MemoryRequest { swap: Some(SwapRequest { bytes, ..swap }), ..*request };
    let mib = largest(most, |mib| fits(facts, &with(Some(wide(mib) * MIB))));
    match mib {
        Some(mib) => Some(format!("--swap-space {mib}MiB")),
        None => fits(facts, &MemoryRequest { swap: None, ..*request })
            .then(|| "no --swap-space".to_owned()),
    }
}

/// The largest number from 1 to `most` for which `good` holds, which must hold for all smaller ones too.
fn largest(most: usize, good: impl Fn(usize) -> bool) -> Option<usize> {
    if most == 0 || !good(1) {
        return None;
    }
    let (mut low, mut high) = (1, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if good(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(low)
}

/// Bytes as people read them.
#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    UNITS.get(unit).map_or_else(String::new, |name| format!("{value:.1} {name}"))
}
