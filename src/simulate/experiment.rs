//! The runs that were asked for, one after the other.

use anyhow::{Context, Result, ensure};
use folio_core::schedule::PreemptionMode;
use folio_sim::memory::Policy;
use folio_sim::metrics::{Objectives, Summary};
use folio_sim::setup::{Moment, Setup};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::{Objective, SimulateArgs, Sweep};
use super::machine::Machine;
use super::traffic::Traffic;
use crate::args;

/// Points of a run's history that are kept.
const MOST_MOMENTS: usize = 240;
/// A rate is found up to this factor.
const RATE_PRECISION: f64 = 1.01;
/// No rate below this is looked for.
const LEAST_RATE: f64 = 0.001;

/// Everything that came of a command.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    pub(super) model: String,
    pub(super) device: String,
    pub(super) workload: String,
    pub(super) seed: u64,
    pub(super) runs: Vec<RunResult>,
}

/// One run. The rate is that which was asked for, or found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RunResult {
    pub(super) policy: &'static str,
    pub(super) rate: Option<f64>,
    pub(super) block_size: u32,
    pub(super) blocks: u32,
    pub(super) mean_prompt_tokens: f64,
    pub(super) mean_output_tokens: f64,
    pub(super) summary: Summary,
    pub(super) moments: Vec<Moment>,
}

impl RunResult {
    /// What tells it from the others of a sweep.
    pub(super) fn label(&self) -> String {
        format!("{} {}×{}", self.policy, self.blocks, self.block_size)
    }
}

/// What is varied.
#[derive(Clone, Copy, Debug)]
struct Point {
    policy: Policy,
    rate: Option<f64>,
    block_size: u32,
    blocks: Option<u32>,
}

/// Runs everything, with progress on the terminal.
pub(super) fn all(args: &SimulateArgs) -> Result<Results> {
    let machine = Machine::new(args)?;
    let traffic = Traffic::read(&args.traffic)?;
    let points = points(args, &traffic);
    let objectives = objectives(args);
    let mut runs = Vec::with_capacity(points.len());
    for (point, number) in points.iter().zip(1usize..) {
        let trial = Trial { args, machine: &machine, traffic: &traffic, objectives };
        let name = format!("{}/{} {}", number, points.len(), point.policy);
        runs.push(match args.output.find_rate {
            None => trial.run(point, &name)?,
            Some(most) => trial.find_rate(point, most, &name)?,
        });
    }
    Ok(Results {
        model: machine.described.name.clone(),
        device: machine.describe(),
        workload: traffic.describe(),
        seed: args.traffic.seed,
        runs,
    })
}

/// The product of all sweeps.
fn points(args: &SimulateArgs, traffic: &Traffic) -> Vec<Point> {
    let mut points = vec![Point {
        policy: args.kv_policy,
        rate: traffic.rate(),
        block_size: args.block_size,
        blocks: args.num_gpu_blocks_override,
    }];
    for sweep in &args.output.sweep {
        points = points
            .iter()
            .flat_map(|&point| -> Vec<Point> {
                match sweep {
                    Sweep::Rate(all) => {
                        all.iter().map(|&rate| Point { rate: Some(rate), ..point }).collect()
                    }
                    Sweep::Policy(all) => {
                        all.iter().map(|&policy| Point { policy, ..point }).collect()
                    }
                    Sweep::BlockSize(all) => {
                        all.iter().map(|&block_size| Point { block_size, ..point }).collect()
                    }
                    Sweep::Blocks(all) => {
                        all.iter().map(|&blocks| Point { blocks: Some(blocks), ..point }).collect()
                    }
                }
            })
            .collect();
    }
    points
}

fn objectives(args: &SimulateArgs) -> Objectives {
    let mut objectives = Objectives::default();
    for &(what, seconds) in &args.output.goodput {
        let field = match what {
            Objective::Ttft => &mut objectives.ttft,
            Objective::Tpot => &mut objectives.tpot,
            Objective::E2el => &mut objectives.e2el,
        };
        *field = Some(seconds);
    }
    objectives
}

/// What all runs of a command have in common.
struct Trial<'a> {
    args: &'a SimulateArgs,
    machine: &'a Machine,
    traffic: &'a Traffic,
    objectives: Objectives,
}

impl Trial<'_> {
    fn setup(&self, point: &Point) -> Result<Setup> {
        let args = self.args;
        ensure!((1..=256).contains(&point.block_size), "a block has 1 to 256 tokens");
        let blocks = match point.blocks {
            Some(blocks) => blocks,
            None => self.machine.blocks(args, point.block_size)?,
        };
        let context = self.machine.described.spec().context;
        let max_model_len = match args.max_model_len {
            Some(len) => len,
            None => u32::try_from(context).unwrap_or(u32::MAX),
        };
        let longest = max_model_len.div_ceil(point.block_size);
        ensure!(
            longest <= blocks,
            "{blocks} blocks do not hold one sequence of {max_model_len} tokens; use --max-model-len {}",
            blocks.saturating_mul(point.block_size)
        );
        // A batch that runs as a whole is computed as a whole.
        let tokens = match point.policy {
            Policy::Static => {
                args.max_num_batched_tokens.max(blocks.saturating_mul(point.block_size))
            }
            _ => args.max_num_batched_tokens,
        };
        Ok(Setup {
            policy: point.policy,
            block_size: point.block_size,
            blocks,
            swap_blocks: self.swap_blocks(point.block_size),
            preemption: match args.preemption_mode {
                args::PreemptionMode::Auto => PreemptionMode::Auto,
                args::PreemptionMode::Recompute => PreemptionMode::Recompute,
                args::PreemptionMode::Swap => PreemptionMode::Swap,
            },
            prefix_caching: !args.no_enable_prefix_caching,
            max_model_len,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: tokens,
        })
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a cast from f64 saturates"
    )]
    fn swap_blocks(&self, block_size: u32) -> u32 {
        let bytes = self.args.swap_space.unwrap_or(0) as f64;
        (bytes / self.machine.block_bytes(block_size)) as u32
    }

    fn run(&self, point: &Point, name: &str) -> Result<RunResult> {
        let setup = self.setup(point)?;
        let workload = self.traffic.at(point.rate)?;
        let bar = bar(workload.requests.len(), name, point.rate)?;
        let cost = self.machine.cost(point.block_size);
        let played = setup
            .play(cost, &workload, &mut |ended| bar.set_position(ended as u64))
            .with_context(|| format!("{name} with --seed {}", self.args.traffic.seed));
        bar.finish_and_clear();
        let mut played = played?;
        let summary = Summary::new(&played, &self.objectives);
        let every = played.moments.len().div_ceil(MOST_MOMENTS).max(1);
        let mut at = 0;
        played.moments.retain(|_| {
            at += 1;
            (at - 1) % every == 0
        });
        let (mean_prompt_tokens, mean_output_tokens) = workload.mean_lengths();
        Ok(RunResult {
            policy: point.policy.name(),
            rate: point.rate,
            block_size: point.block_size,
            blocks: setup.blocks,
            mean_prompt_tokens,
            mean_output_tokens,
            summary,
            moments: played.moments,
        })
    }

    /// The run at the highest rate whose mean normalized latency is at most `most`.
    fn find_rate(&self, point: &Point, most: f64, name: &str) -> Result<RunResult> {
        ensure!(most > 0.0, "--find-rate must be above 0 seconds per token");
        let good = |rate: f64| -> Result<Option<RunResult>> {
            let run = self.run(&Point { rate: Some(rate), ..*point }, name)?;
            Ok((run.summary.normalized_latency <= most).then_some(run))
        };
        let (mut low, mut high) = (None, None);
        let mut rate = point.rate.unwrap_or(1.0);
        loop {
            match good(rate)? {
                Some(run) => low = Some((rate, run)),
                None => high = Some(rate),
            }
            match (&low, high) {
                (Some((low, _)), None) => rate = low * 2.0,
                (None, Some(high)) => rate = high / 2.0,
                (Some((low, _)), Some(high)) if high / low > RATE_PRECISION => {
                    rate = (low * high).sqrt();
                }
                _ => break,
            }
            ensure!(rate > LEAST_RATE, "even at {rate} requests per second the latency is higher");
            ensure!(rate < 1e6, "no rate is too high for these requests");
        }
        low.map(|(_, run)| run).context("no rate was found")
    }
}

fn bar(requests: usize, name: &str, rate: Option<f64>) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len} requests  {eta}")?;
    let rate = rate.map_or_else(String::new, |rate| format!(" at {rate:.3}/s"));
    let bar = ProgressBar::new(u64::try_from(requests)?).with_style(style);
    bar.set_message(format!("{name}{rate}"));
    Ok(bar)
}
