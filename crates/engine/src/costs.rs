//! What recovery costs, learned from the steps themselves: the time of computed tokens and of swapped blocks.

use std::time::Duration;

use folio_core::exec::SwapWork;
use folio_core::schedule::RecoveryCosts;

/// Steps of fewer tokens tell what it costs to read the weights, not what another token costs.
const TELLING_TOKENS: usize = 32;
/// Weight of the newest step in the running means.
const NEWEST: f64 = 0.2;

/// Running means, in microseconds; absent until something was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CostMeter {
    compute_token: Option<f64>,
    move_block: Option<f64>,
}

impl CostMeter {
    /// Takes in a step of `tokens` tokens that took `took`, swapping included. What both means say, if it has changed.
    #[allow(clippy::cast_precision_loss, reason = "microseconds and tokens of one step")]
    pub(crate) fn record(
        &mut self,
        tokens: usize,
        took: Duration,
        swapping: SwapWork,
    ) -> Option<RecoveryCosts> {
        let mut news = false;
        if swapping.blocks > 0 {
            blend(&mut self.move_block, swapping.micros as f64 / f64::from(swapping.blocks));
            news = true;
        }
        if tokens >= TELLING_TOKENS {
            let computing = took.saturating_sub(Duration::from_micros(swapping.micros));
            blend(&mut self.compute_token, computing.as_secs_f64() * 1e6 / tokens as f64);
            news = true;
        }
        match (self.compute_token, self.move_block) {
            (Some(compute_token), Some(move_block)) if news => {
                Some(RecoveryCosts { compute_token, move_block })
            }
            _ => None,
        }
    }
}

fn blend(mean: &mut Option<f64>, newest: f64) {
    *mean = Some(mean.map_or(newest, |mean| mean + NEWEST * (newest - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_known_when_both_have_been_seen_and_follow_the_newest() {
        let mut meter = CostMeter::default();
        let step = |micros| Duration::from_micros(micros);
        let none = SwapWork::default();
        assert_eq!(meter.record(1, step(900), none), None, "a step of one token tells nothing");
        assert_eq!(meter.record(100, step(1000), none), None);
        let swapping = SwapWork { blocks: 4, micros: 200 };
        let costs = meter.record(0, step(200), swapping).unwrap();
        assert!((costs.compute_token - 10.0).abs() < 1e-9);
        assert!((costs.move_block - 50.0).abs() < 1e-9);
        assert_eq!(meter.record(2, step(10), none), None, "no news");
        // A step that also swaps counts without it.
        let costs = meter.record(100, step(2200), swapping).unwrap();
        assert!((costs.compute_token - 12.0).abs() < 1e-9);
    }
}
