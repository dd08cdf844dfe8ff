//! What it costs to get a preempted sequence back, by block size: swapping its blocks out and in, or computing it again.
//!
//! `cargo run --release -p folio-model --example recovery -- [model folder] [folder for swap files]` prints a table.
#![allow(clippy::print_stdout, reason = "the table is what this is for")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use folio_core::exec::{Executor, StepOutput};
use folio_core::ids::{BlockId, SeqId, SwapSlot, Token};
use folio_core::plan::{CacheOp, Row, StepPlan};
use folio_model::{
    Checkpoint, Cpu, Isa, MemoryPlan, MemoryRequest, ModelSource, Runner, SwapRequest, SwapStore,
};

/// Tokens of the sequence that is preempted.
const CONTEXT: u32 = 256;
const BLOCK_SIZES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// The best of so many runs is told.
const RUNS: usize = 15;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let demo = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo"));
    let model = arguments.next().unwrap_or(demo);
    let folder = arguments.next().unwrap_or_else(std::env::temp_dir);
    let checkpoint = Checkpoint::open(&ModelSource::Folder(model))?;
    let threads = std::thread::available_parallelism()?.get();
    println!(
        "{}, {CONTEXT} tokens, {threads} threads; microseconds, best of {RUNS}\n",
        checkpoint.name()
    );
    println!(
        "| block size | KiB per block | host out | host in | file out | file in | recompute |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for block_size in BLOCK_SIZES {
        let plan = plan(&checkpoint, block_size, threads)?;
        let host = costs(&checkpoint, &plan, None)?;
        let file = costs(&checkpoint, &plan, Some(&folder))?;
        let micros = |time: Duration| time.as_micros();
        println!(
            "| {block_size} | {:.1} | {} | {} | {} | {} | {} |",
            kib(plan.kv_bytes_per_block),
            micros(host.out),
            micros(host.back),
            micros(file.out),
            micros(file.back),
            micros(host.recompute.min(file.recompute)),
        );
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

fn plan(
    checkpoint: &Checkpoint,
    block_size: usize,
    threads: usize,
) -> Result<MemoryPlan, Box<dyn Error>> {
    let context = usize::try_from(CONTEXT)?;
    let request = MemoryRequest {
        dtype: None,
        quantization: None,
        kv_dtype: None,
        block_size: Some(block_size),
        kv_cache_memory_bytes: None,
        available_bytes: u64::MAX / 2,
        max_model_len: Some(context),
        max_num_seqs: 2,
        max_num_batched_tokens: context,
        threads,
        swap: Some(SwapRequest { bytes: None, on_disk: true }),
        pinned_prefixes: &[],
    };
    Ok(MemoryPlan::compute(checkpoint, &request)?)
}

struct Costs {
    /// Until the step may go on; a file is still being written then.
    out: Duration,
    back: Duration,
    recompute: Duration,
}

fn costs(
    checkpoint: &Checkpoint,
    plan: &MemoryPlan,
    folder: Option<&Path>,
) -> Result<Costs, Box<dyn Error>> {
    let block_bytes = usize::try_from(plan.kv_bytes_per_block)?;
    let mut store = match folder {
        None => SwapStore::host(plan.swap_slots, block_bytes),
        Some(folder) => SwapStore::file(folder, plan.swap_slots, block_bytes)?,
    };
    store.measure()?;
    let cpu = Cpu::new(plan.threads, Isa::detect())?;
    let mut runner = Runner::load(cpu, checkpoint, plan, &mut |_| {})?.with_swap_store(store);
    let blocks: Vec<BlockId> =
        (0..).take(plan.blocks_of_full_context()).map(|block| BlockId(block * 2)).collect();
    let slots = || (0..).map(SwapSlot);
    let ops = |ops| StepPlan { ops, ..StepPlan::default() };
    let out = ops(blocks
        .iter()
        .zip(slots())
        .map(|(&source, slot)| CacheOp::SwapOut { source, slot })
        .collect());
    let back = ops(blocks
        .iter()
        .zip(slots())
        .map(|(&destination, slot)| CacheOp::SwapIn { slot, destination })
        .collect());
    let compute = prompt(&blocks);
    let mut best = Costs { out: Duration::MAX, back: Duration::MAX, recompute: Duration::MAX };
    for _ in 0..RUNS {
        best.recompute = best.recompute.min(time(&mut runner, &compute)?);
        best.out = best.out.min(time(&mut runner, &out)?);
        // Computing in between gives the file time to be written, as serving others does.
        time(&mut runner, &compute)?;
        best.back = best.back.min(time(&mut runner, &back)?);
    }
    Ok(best)
}

fn time(executor: &mut dyn Executor, plan: &StepPlan) -> Result<Duration, Box<dyn Error>> {
    let mut out = StepOutput::default();
    let began = Instant::now();
    executor.execute(plan, &mut out)?;
    let took = began.elapsed();
    if out.lost.is_empty() { Ok(took) } else { Err("swapped blocks were lost".into()) }
}

/// All tokens in one step, without a draw.
fn prompt(blocks: &[BlockId]) -> StepPlan {
    let tokens: Vec<Token> = (0..CONTEXT).map(|i| Token(i % 97)).collect();
    let row = Row {
        seq: SeqId(0),
        start: 0,
        tokens: 0..tokens.len(),
        blocks: 0..blocks.len(),
        draws: 0..0,
        targets: 0..0,
        first_target: 0,
        target_alternatives: 0,
    };
    StepPlan { rows: vec![row], tokens, blocks: blocks.to_vec(), ..StepPlan::default() }
}
