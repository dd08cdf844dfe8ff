//! `folio plan`: will it fit, and how many users will it hold?
//!
//! Everything comes from the plan that the server makes when it starts, so the two cannot disagree.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use folio_model::block_size::Lengths;
use folio_model::{Dtype, KvDtype, MemoryPlan, MemoryRequest, Quantization};
use folio_sim::cost;

use crate::args::{self, ModelArgs};
use crate::settings::Settings;
use crate::shapes::Described;
use crate::{tables, trace};

/// What a device does not give to a model, unless told otherwise.
const UTILIZATION: f64 = 0.9;

#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Plan for so much memory, and not for what this machine has free
    #[arg(long, value_name = "BYTES", value_parser = args::bytes, conflicts_with = "device")]
    pub(crate) memory: Option<u64>,

    /// Plan for a device: a100-40g, a100-80g, h100, h200
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,

    /// Devices that share the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), requires = "device")]
    pub(crate) tensor_parallel_size: u32,

    /// Share of a device's memory that is used
    #[arg(long, value_name = "SHARE", default_value_t = UTILIZATION, requires = "device")]
    pub(crate) gpu_memory_utilization: f64,

    /// Prompt and output of the expected requests, in tokens
    #[arg(long, value_name = "PROMPT,OUTPUT", value_parser = args::lengths, default_value = "161,338")]
    pub(crate) lengths: Lengths,

    /// The expected requests: a CSV file with columns prompt_tokens and output_tokens
    #[arg(long, value_name = "FILE", conflicts_with = "lengths")]
    pub(crate) trace: Option<PathBuf>,

    /// Say what it takes to serve so many requests at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) users: Option<u64>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Plans, prints, and fails if it does not fit.
pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    ensure!(
        args.model.pin_prefix.is_empty(),
        "--pin-prefix takes a tokenizer, and a plan has none; leave it out"
    );
    let described = Described::find(args.model.model.as_deref(), args.model.revision.as_deref())?;
    // Of the settings the model's place is not one: a shape has none.
    let settings =
        Settings::new(&ModelArgs { model: None, revision: None, ..args.model.clone() }, 1)?;
    ensure!(
        settings.expected.is_none(),
        "--block-size auto measures this machine when a server starts; give a size to plan with"
    );
    let memory = available(args)?.unwrap_or(settings.memory.available_bytes);
    let mut request = MemoryRequest { available_bytes: memory, ..settings.memory };
    if args.device.is_some() && request.block_size.is_none() {
        request.block_size = Some(16);
    }
    let plan = plan(&described, &request, args.device.is_some())?;
    let expected = match &args.trace {
        Some(file) => trace::read(file, "--trace")?,
        None => vec![args.lengths],
    };
    let holds = Holds::new(&plan, &expected);
    let context = largest_context(&described, &request);
    let out = if args.json {
        json(&described, &plan, holds, context, memory).to_string() + "\n"
    } else {
        let assumed = settings.choose_step_tokens;
        let settings = Settings { memory: request, choose_step_tokens: false, ..settings };
        let mut out = tables::plan(&described.name, &plan, &settings, None);
        if assumed {
            let _ = writeln!(
                out,
                "  steps        of {} tokens are assumed; folio serve measures, or give --max-num-batched-tokens",
                plan.max_num_batched_tokens
            );
        }
        out.push_str(&others(&described, &request, &plan, holds, context));
        if let Some(users) = args.users {
            out.push_str(&advice(&plan, &holds, users, memory));
        }
        out
    };
    std::io::stdout().write_all(out.as_bytes()).context("standard output")
}

/// The memory that was named, if any.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a share of a device's memory"
)]
fn available(args: &PlanArgs) -> Result<Option<u64>> {
    let Some(name) = &args.device else { return Ok(args.memory) };
    let Some(device) = cost::device(name) else {
        let names = cost::DEVICES.map(|device| device.0).join(", ");
        bail!("--device {name} is not known; there are {names}");
    };
    let share = args.gpu_memory_utilization;
    if !(0.01..=1.0).contains(&share) {
        bail!("--gpu-memory-utilization must be from 0.01 to 1, not {share}");
    }
    let devices = f64::from(args.tensor_parallel_size);
    Ok(Some((device.memory_bytes * devices * share) as u64))
}

/// The server's plan; `fill` gives the cache all that is left.
pub(crate) fn plan(
    described: &Described,
    request: &MemoryRequest<'_>,
    fill: bool,
) -> Result<MemoryPlan> {
    let plan = MemoryPlan::for_outline(&described.outline, request)?;
    if !fill || request.kv_cache_memory_bytes.is_some() {
        return Ok(plan);
    }
    let left = request.available_bytes.saturating_sub(plan.fixed_bytes());
    let request = MemoryRequest { kv_cache_memory_bytes: Some(left), ..*request };
    Ok(MemoryPlan::for_outline(&described.outline, &request)?)
}

/// The longest context for which there is a plan, up to the model's.
fn largest_context(described: &Described, request: &MemoryRequest<'_>) -> usize {
    let fits = |tokens| {
        let request = MemoryRequest { max_model_len: Some(tokens), ..*request };
        MemoryPlan::for_outline(&described.outline, &request).is_ok()
    };
    let (mut low, mut high) = (0, described.spec().context);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// How many requests of the expected lengths the cache holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Holds {
    /// When all have their full length at the same time.
    at_once: u64,
    /// When they are spread over their lives, as they are in service.
    on_average: f64,
    /// Blocks of the longest.
    longest: u64,
    /// Blocks of one, on average over its life.
    mean: f64,
}

impl Holds {
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    fn new(plan: &MemoryPlan, expected: &[Lengths]) -> Self {
        let size = u64::try_from(plan.block_size).unwrap_or(u64::MAX).max(1);
        let (mut blocks, mut steps, mut longest) = (0.0, 0.0, 1);
        for &Lengths { prompt, output } in expected {
            let (prompt, output) = (u64::from(prompt), u64::from(output).max(1));
            // The last token is never computed upon.
            let most = (prompt + output).saturating_sub(1).div_ceil(size);
            longest = longest.max(most);
            let first = prompt.div_ceil(size);
            // Blocks rise by one at a time, so their mean lies halfway.
            blocks += output as f64 * f64::midpoint(first as f64, most as f64);
            steps += output as f64;
        }
        let free = plan.blocks.saturating_sub(plan.pinned_blocks);
        let free = u64::try_from(free).unwrap_or(u64::MAX);
        let mean = (blocks / f64::max(steps, 1.0)).max(1.0);
        Self { at_once: free / longest, on_average: free as f64 / mean, longest, mean }
    }
}

fn others(
    described: &Described,
    request: &MemoryRequest<'_>,
    plan: &MemoryPlan,
    holds: Holds,
    context: usize,
) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "  KV per token {:>10}  {} per block of {}",
        tables::size(plan.kv_bytes_per_token),
        tables::size(plan.kv_bytes_per_block),
        plan.block_size
    );
    let kinds = [
        ("float32", Some(Dtype::F32), None),
        ("bfloat16", Some(Dtype::Bf16), None),
        ("int8", None, Some(Quantization::Int8)),
        ("int4", None, Some(Quantization::Int4 { group: 128 })),
    ];
    for (name, dtype, quantization) in kinds {
        let request = MemoryRequest { dtype, quantization, ..*request };
        let plan = |available_bytes| {
            let request = MemoryRequest { available_bytes, ..request };
            MemoryPlan::for_outline(&described.outline, &request)
        };
        let Ok(roomy) = plan(u64::MAX) else { continue };
        let note = if plan(request.available_bytes).is_ok() { "fits" } else { "does not fit" };
        let bytes = tables::size(roomy.weight_bytes);
        let _ = writeln!(out, "  as {name:<9} {bytes:>10}  of weights; {note}");
    }
    let _ = writeln!(
        out,
        "largest context: {context} tokens of the model's {}",
        described.spec().context
    );
    let _ = writeln!(
        out,
        "requests at once: {} if all reach their full length together, {:.0} spread over their lives",
        holds.at_once, holds.on_average
    );
    if holds.on_average > plan.max_num_seqs as f64 {
        let _ = writeln!(
            out,
            "--max-num-seqs {} is less than the cache holds; raise it to use all of it",
            plan.max_num_seqs
        );
    }
    out
}

/// What to change so that `users` requests run at once.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "bytes to be shown"
)]
fn advice(plan: &MemoryPlan, holds: &Holds, users: u64, memory: u64) -> String {
    let blocks = (users as f64 * holds.mean).ceil().max(holds.longest as f64);
    let bytes = (blocks * plan.kv_bytes_per_block as f64) as u64;
    let need = plan.fixed_bytes().saturating_add(bytes);
    if bytes <= plan.kv_bytes() {
        return format!("{users} users: the cache holds them\n");
    }
    let mut out = format!("{users} users: use --kv-cache-memory-bytes {bytes}");
    if need > memory {
        let _ = write!(
            out,
            ", which takes {} in all, {} more than there is",
            tables::size(need),
            tables::size(need - memory)
        );
        if plan.kv_dtype == KvDtype::F32 {
            out.push_str("; --kv-cache-dtype bfloat16 halves the cache");
        }
    }
    out + "\n"
}

fn json(
    described: &Described,
    plan: &MemoryPlan,
    holds: Holds,
    context: usize,
    memory: u64,
) -> serde_json::Value {
    serde_json::json!({
        "model": described.name,
        "dtype": plan.dtype.name(),
        "kv_dtype": plan.kv_dtype.name(),
        "available_bytes": memory,
        "weight_bytes": plan.weight_bytes,
        "activation_bytes": plan.activation_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "kv_bytes": plan.kv_bytes(),
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "kv_bytes_per_block": plan.kv_bytes_per_block,
        "block_size": plan.block_size,
        "blocks": plan.blocks,
        "tokens": plan.tokens(),
        "max_model_len": plan.max_model_len,
        "largest_context": context,
        "requests_at_once": holds.at_once,
        "requests_on_average": holds.on_average,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_life_is_what_its_steps_hold() {
        let spec = Described::find(None, None).unwrap();
        let request = MemoryRequest {
            dtype: None,
            quantization: None,
            kv_dtype: None,
            block_size: Some(16),
            kv_cache_memory_bytes: None,
            available_bytes: 1 << 30,
            max_model_len: None,
            max_num_seqs: 8,
            max_num_batched_tokens: 64,
            threads: 1,
            swap: None,
            pinned_prefixes: &[],
        };
        let plan = plan(&spec, &request, false).unwrap();
        for (prompt, output) in [(1, 1), (16, 1), (161, 338), (15, 34), (400, 7)] {
            let holds = Holds::new(&plan, &[Lengths { prompt, output }]);
            let held = (0..output).map(|step| f64::from((prompt + step).div_ceil(16)));
            let mean = held.sum::<f64>() / f64::from(output);
            assert!((holds.mean - mean).abs() < 0.6, "{prompt},{output}: {} {mean}", holds.mean);
        }
    }
}
