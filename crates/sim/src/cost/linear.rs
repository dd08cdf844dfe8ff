//! How long a step takes, as a linear function of its plan.

use super::{Step, StepCost};

/// Nanoseconds per step and per thing in it. The fields are the coefficients of a linear fit to measured steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostModel {
    /// Paid once by a step that is not empty: reading the weights, launching the work.
    pub step: u64,
    /// Per token computed.
    pub token: u64,
    /// Per cached position that a row attends to, its own tokens included.
    pub context_token: u64,
    /// Per block copied.
    pub copy: u64,
}

impl Default for CostModel {
    /// Round numbers for tests; they describe no machine.
    fn default() -> Self {
        Self { step: 1_000_000, token: 100_000, context_token: 1_000, copy: 10_000 }
    }
}

impl StepCost for CostModel {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 104 days")]
    fn seconds(&self, step: &Step) -> f64 {
        let nanos = self
            .step
            .saturating_add(self.token.saturating_mul(step.tokens))
            .saturating_add(self.context_token.saturating_mul(step.context))
            .saturating_add(self.copy.saturating_mul(step.copies));
        nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use folio_core::ids::{BlockId, SeqId, Token};
    use folio_core::plan::{CacheOp, Row, StepPlan};

    use super::*;

    #[test]
    fn a_step_costs_what_its_parts_cost() {
        let model = CostModel { step: 1_000, token: 100, context_token: 10, copy: 1 };
        let mut plan = StepPlan::default();
        assert_eq!(model.cost(&plan, 1), Duration::ZERO);
        plan.ops.push(CacheOp::Copy { source: BlockId(0), destination: BlockId(1) });
        plan.tokens = vec![Token(7), Token(8), Token(9)];
        for (start, tokens) in [(0, 0..2), (5, 2..3)] {
            plan.rows.push(Row {
                seq: SeqId(1),
                start,
                tokens,
                blocks: 0..0,
                draws: 0..0,
                targets: 0..0,
                first_target: 0,
                target_alternatives: 0,
            });
        }
        // Two rows attend to 2 and to 6 positions.
        assert_eq!(model.cost(&plan, 1), Duration::from_nanos(1_000 + 3 * 100 + 8 * 10 + 1));
    }
}
