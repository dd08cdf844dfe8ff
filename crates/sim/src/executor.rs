//! An executor without a model: checks what it is asked to read, and answers with tokens that follow from it.
//!
//! Deterministic, and as strict as a model is lenient: a plan that reads unwritten or foreign memory, or leaves a draw
//! without a row, is an error. Hooks let tests fail, hold or panic in a step, and choose tokens themselves.

use std::fmt;

use folio_core::exec::{DrawFault, Drawn, ExecError, Executor, Score, StepOutput};
use folio_core::ids::Token;
use folio_core::params::Sampling;
use folio_core::plan::{Draw, Row, StepPlan};

use crate::cache::Cache;
use crate::cost::{CostModel, StepCost};
use crate::gate::Gate;
use crate::rule::{Context, TokenRule};
use crate::run::Timed;

/// What a test's own rule sees of one draw.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The sequence so far, prompt and output, as read through its block table.
    pub tokens: &'a [Token],
    /// What the plan asks for.
    pub draw: &'a Draw,
    /// How it is to be chosen.
    pub sampling: &'a Sampling,
    /// The token the executor would have chosen if every token were allowed.
    pub natural: Token,
}

type Hook = Box<dyn FnMut(&StepPlan) -> Result<(), ExecError> + Send>;
type Chooser = Box<dyn FnMut(&Sight<'_>) -> Result<Token, DrawFault> + Send>;

/// See the module's documentation.
pub struct CostExecutor {
    rule: TokenRule,
    cost: CostModel,
    cache: Cache,
    before: Vec<Hook>,
    chooser: Option<Chooser>,
    /// The tokens of the row at hand.
    tokens: Vec<Token>,
}

impl fmt::Debug for CostExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CostExecutor")
            .field("rule", &self.rule)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl CostExecutor {
    /// An executor over `blocks` blocks of `block_size` positions that draws by `rule`.
    #[must_use]
    pub fn new(blocks: u32, block_size: u32, rule: TokenRule) -> Self {
        Self {
            rule,
            cost: CostModel::default(),
            cache: Cache::new(blocks, block_size),
            before: Vec::new(),
            chooser: None,
            tokens: Vec::new(),
        }
    }

    /// Replaces the cost model.
    #[must_use]
    pub fn with_cost(mut self, cost: CostModel) -> Self {
        self.cost = cost;
        self
    }

    /// Calls `hook` before each step. It may fail the step, panic, or block. Hooks run in the order they were given.
    #[must_use]
    pub fn with_hook(
        mut self,
        hook: impl FnMut(&StepPlan) -> Result<(), ExecError> + Send + 'static,
    ) -> Self {
        self.before.push(Box::new(hook));
        self
    }

    /// Makes each step pass through `gate` first.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        self.with_hook(move |_| {
            gate.pass();
            Ok(())
        })
    }

    /// Lets `chooser` choose the tokens, or declare the logits not finite.
    #[must_use]
    pub fn with_chooser(
        mut self,
        chooser: impl FnMut(&Sight<'_>) -> Result<Token, DrawFault> + Send + 'static,
    ) -> Self {
        self.chooser = Some(Box::new(chooser));
        self
    }

    /// How tokens are drawn.
    #[must_use]
    pub fn rule(&self) -> &TokenRule {
        &self.rule
    }

    /// Writes the row's tokens, then fills its scores and draws.
    fn row(&mut self, plan: &StepPlan, row: &Row, out: &mut StepOutput) -> Result<(), ExecError> {
        let blocks = part(&plan.blocks, &row.blocks, "blocks")?;
        let input = part(&plan.tokens, &row.tokens, "tokens")?;
        let targets = part(&plan.targets, &row.targets, "targets")?;
        if input.is_empty() {
            return Err(ExecError(format!("the row of sequence {} is empty", row.seq)));
        }
        self.tokens.clear();
        let mut context = self.cache.read(blocks, row.start, &mut self.tokens)?;
        let mut scored = 0;
        for ((index, position), &token) in (row.start..).enumerate().zip(input) {
            self.cache.write(blocks, position, token, &mut context)?;
            self.tokens.push(token);
            if index >= row.first_target
                && let Some(&target) = targets.get(scored)
            {
                out.scores.push(self.score(context, target, row.target_alternatives));
                scored += 1;
            }
        }
        if scored != targets.len() {
            return Err(ExecError(format!(
                "the row of sequence {} has {} targets but scores {scored}",
                row.seq,
                targets.len()
            )));
        }
        self.draws(plan, row, context, out)
    }

    fn draws(
        &mut self,
        plan: &StepPlan,
        row: &Row,
        context: Context,
        out: &mut StepOutput,
    ) -> Result<(), ExecError> {
        if out.draws.len() != row.draws.start {
            return Err(ExecError(format!("the draws of sequence {} are out of order", row.seq)));
        }
        for draw in part(&plan.draws, &row.draws, "draws")? {
            let history = part(&plan.history, &draw.history, "history")?;
            let sampling = plan.samplings.get(draw.sampling).ok_or_else(|| {
                ExecError(format!("sampling {} of a draw does not exist", draw.sampling))
            })?;
            let mask = part(&plan.masks, &draw.mask, "masks")?;
            let natural = self.rule.next(context, sampling, draw.choice, draw.position, history);
            let chosen = match &mut self.chooser {
                Some(choose) => choose(&Sight { tokens: &self.tokens, draw, sampling, natural }),
                None => Ok(natural),
            };
            let banned = part(&plan.banned, &draw.banned, "banned tokens")?;
            let chosen = chosen.and_then(|token| {
                let nearest = self.rule.nearest(token, sampling, banned, mask);
                nearest.ok_or(DrawFault::NothingAllowed)
            });
            out.draws.push(chosen.map(|token| {
                let score = sampling.logprobs.map(|top| self.score(context, token, top));
                Drawn { token, score }
            }));
        }
        Ok(())
    }

    /// Log-probabilities that look like some: `token` is the likeliest, the others fall off behind it.
    fn score(&self, context: Context, token: Token, alternatives: u32) -> Score {
        let logprob = -thousandths(context.hash(u64::from(token.0)) % 1_000);
        let top = (0..alternatives.min(self.rule.vocab))
            .map(|rank| {
                let id = (u64::from(token.0) + u64::from(rank)) % u64::from(self.rule.vocab);
                (self.rule.fold(id), logprob - thousandths(u64::from(rank) * 500))
            })
            .collect();
        Score { logprob, top }
    }
}

impl Executor for CostExecutor {
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError> {
        for hook in &mut self.before {
            hook(plan)?;
        }
        for op in &plan.ops {
            self.cache.apply(op)?;
        }
        for row in &plan.rows {
            self.row(plan, row, out)?;
        }
        if out.draws.len() == plan.draws.len() && out.scores.len() == plan.targets.len() {
            Ok(())
        } else {
            Err(ExecError("the plan has draws or targets that belong to no row".to_owned()))
        }
    }
}

impl Timed for CostExecutor {
    fn seconds(&self, plan: &StepPlan, requests: u64) -> f64 {
        self.cost.cost(plan, requests).as_secs_f64()
    }
}

fn thousandths(n: u64) -> f32 {
    n as f32 / 1_000.0
}

fn part<'a, T>(
    all: &'a [T],
    range: &std::ops::Range<usize>,
    what: &str,
) -> Result<&'a [T], ExecError> {
    all.get(range.clone()).ok_or_else(|| {
        ExecError(format!(
            "{what} {}..{} lie outside the plan's {}",
            range.start,
            range.end,
            all.len()
        ))
    })
}
