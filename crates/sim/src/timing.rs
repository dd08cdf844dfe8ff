//! An executor that computes nothing: only lengths and times matter, so an hour of traffic passes in seconds.
//!
//! It reads no cache and checks no plan; [`crate::CostExecutor`] does, and is what tests use.

use folio_core::exec::{Drawn, ExecError, Executor, Score, StepOutput};
use folio_core::ids::Token;
use folio_core::plan::StepPlan;

use crate::cost::StepCost;
use crate::random::{scramble, unit};
use crate::run::Timed;
use crate::workload::VOCAB;

/// See the module's documentation.
#[derive(Debug)]
pub struct TimingExecutor {
    cost: Box<dyn StepCost>,
}

impl TimingExecutor {
    /// An executor whose steps take as long as `cost` says.
    #[must_use]
    pub fn new(cost: Box<dyn StepCost>) -> Self {
        Self { cost }
    }
}

impl Executor for TimingExecutor {
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError> {
        for draw in &plan.draws {
            let bits = scramble(draw.seq.0 ^ scramble(u64::from(draw.position)));
            let logprobs = plan.samplings.get(draw.sampling).and_then(|how| how.logprobs);
            let score = logprobs.map(|count| candidates(bits, count));
            out.draws.push(Ok(Drawn { token: token(bits, 0), score }));
        }
        out.scores.resize(plan.targets.len(), Score::default());
        Ok(())
    }
}

impl Timed for TimingExecutor {
    fn seconds(&self, plan: &StepPlan, requests: u64) -> f64 {
        self.cost.cost(plan, requests).as_secs_f64()
    }
}

fn token(bits: u64, rank: u32) -> Token {
    Token(u32::try_from(bits.wrapping_add(u64::from(rank)) % u64::from(VOCAB)).unwrap_or(0))
}

/// Log-probabilities as a confident model has them: the best token gets 35 to 95 %, each further one half of what is left.
#[allow(clippy::cast_possible_truncation, reason = "log-probabilities are single precision")]
fn candidates(bits: u64, count: u32) -> Score {
    let best = 0.35 + 0.6 * unit(scramble(bits));
    let mut rest = 1.0 - best;
    let mut top = vec![(token(bits, 0), best.ln() as f32)];
    for rank in 1..count.max(1) {
        rest /= 2.0;
        top.push((token(bits, rank), rest.ln() as f32));
    }
    Score { logprob: best.ln() as f32, top }
}
